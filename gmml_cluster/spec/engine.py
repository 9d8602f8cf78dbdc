"""The section `engine`: how a step is computed."""

from typing import Literal

from pydantic import model_validator

from gmml_cluster.spec.base import Refused, SpecModel

Zero = Literal[0, 1, 2, 3, "ddp"]
"""An engine: DeepSpeed's ZeRO stage, or torch's plain DistributedDataParallel."""


class EngineSpec(SpecModel):
    """How the step is computed."""

    zero: Literal[Zero, "auto"] = 1
    """DeepSpeed's ZeRO stage, or torch's plain DistributedDataParallel; `auto` for the first of `ddp`, 1, 2, 3 that
    fits the GPUs."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Type of the matrix products; weights are fp32 always."""
    activation_checkpointing: bool = False
    """Whether blocks are recomputed in the backward pass to save memory."""
    deterministic: bool = False
    """Whether only deterministic GPU kernels are used."""
    compile: bool = False
    """Whether torch compiles the blocks of encoder and decoder: the first step takes minutes, the others are quicker on
    GPUs. Not with `zero: 3`."""

    @model_validator(mode="after")
    def _stage_3_gathers_inside_blocks(self) -> "EngineSpec":
        if self.compile and self.zero == 3:
            raise Refused("compile given with zero: 3, which gathers weights in the middle of a block", "take zero: 2")
        return self

    @property
    def chosen_zero(self) -> Zero:
        """`zero` of a job whose engine is chosen (`plan.engine_choice`).

        Raises:
            ValueError: it is `auto`: whatever is computed by it would be a guess.
        """
        if self.zero == "auto":
            raise ValueError("engine.zero is auto where the engine must have been chosen")
        return self.zero
