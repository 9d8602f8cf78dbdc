"""Fine-tuning without torch: its options. The method itself: `gmml_cluster.methods.finetune`.

Constants and sources: docs/reference/methods.md.
"""

from typing import Any, ClassVar, Literal

from pydantic import Field

from gmml_cluster.spec.methods.classifier import MixingOptions


class FinetuneOptions(MixingOptions):
    """Supervised training that begins from the encoder of another run (arXiv 2111.06377)."""

    advised_drop_path: ClassVar[float] = 0.1
    """The rate where `model.drop_path` is null."""
    needs_init: ClassVar[bool] = True
    """Whether a job without `init` is refused."""
    recipe: ClassVar[dict[str, Any]] = {
        "data.augment": "finetune",
        "optim.weight_decay": {"start": 0.05, "end": 0.05},
        "optim.exempt": "vectors_and_positions",
        "optim.clip": None,
        "optim.schedule.law": "fractional",
        "optim.schedule.warmup": "5 epochs",
        "optim.schedule.start_lr": 0.0,
        "optim.schedule.final_lr": 1e-6,
    }
    """Values of its source where the fields' defaults are GMML's; a job file that leaves them out has these."""
    name: Literal["finetune"]
    """Selects the method."""
    pool: Literal["class", "mean"] = "mean"
    """What the head reads: the class token, or the mean of the patch tokens, which is normed after the mean."""
    layer_decay: float = Field(0.65, gt=0, le=1)
    """Factor of the learning rate from each block to the one before it; 1 turns it off."""
