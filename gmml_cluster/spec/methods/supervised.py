"""Supervised training without torch: its options. The method itself: `gmml_cluster.methods.supervised`.

Constants and sources: docs/reference/methods.md.
"""

from typing import Any, ClassVar, Literal

from gmml_cluster.spec.methods.classifier import MixingOptions


class SupervisedOptions(MixingOptions):
    """Supervised training of the encoder and a linear head (arXiv 2012.12877)."""

    advised_drop_path: ClassVar[float] = 0.1
    """The rate where `model.drop_path` is null."""
    recipe: ClassVar[dict[str, Any]] = {
        "data.augment": "finetune",
        "optim.lr": 5e-4,
        "optim.lr_per": 512,
        "optim.weight_decay": {"start": 0.05, "end": 0.05},
        "optim.exempt": "vectors_and_positions",
        "optim.clip": None,
        "optim.schedule.law": "fractional",
        "optim.schedule.warmup": "5 epochs",
        "optim.schedule.start_lr": 1e-6,
        "optim.schedule.final_lr": 1e-5,
    }
    """Values of its source where the fields' defaults are GMML's; a job file that leaves them out has these."""
    name: Literal["supervised"]
    """Selects the method."""
