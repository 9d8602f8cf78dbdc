"""Fine-tuning: supervised training from another run's encoder, its early layers at lower learning rates.

Source: arXiv 2111.06377; constants: docs/reference/methods.md.
"""

import torch

from gmml_cluster.methods.protocol import InitDistribution, Setting
from gmml_cluster.methods.supervised import Supervised
from gmml_cluster.spec.methods.finetune import FinetuneOptions

_HEAD_STD = 2e-5


class Finetune(Supervised):
    """The method; see `Verifiable` and `Multiplies`."""

    def __init__(self, setting: Setting, options: FinetuneOptions) -> None:
        super().__init__(setting, options)
        self.layer_decay, self.depth = options.layer_decay, setting.model.depth

    def init_distribution(self, name: str, shape: torch.Size) -> InitDistribution:
        """The head near 0, so that the first steps do not upset the encoder; the rest is replaced by `init`."""
        return (
            InitDistribution("normal", _HEAD_STD)
            if name == "classifier.weight"
            else super().init_distribution(name, shape)
        )

    def multipliers(self, name: str) -> tuple[float, float]:
        """The layer decay to the power of the layers above the parameter's; the weight decay is left as it is."""
        return self.layer_decay ** (self.depth + 1 - layer_of(name, self.depth)), 1.0


def layer_of(name: str, depth: int) -> int:
    """0 for tokens, positions and patch projection, i + 1 for block i, `depth` + 1 for the final norm and heads."""
    inside = name.removeprefix("encoder.")
    if inside.startswith(("cls_token", "reg_token", "pos_embed", "patch_embed.")):
        return 0
    return int(inside.split(".")[1]) + 1 if inside.startswith("blocks.") else depth + 1


def build(setting: Setting) -> Finetune:
    """The method with blank weights."""
    if not isinstance(setting.options, FinetuneOptions):
        raise TypeError(f"options {setting.options!r}: fine-tuning takes FinetuneOptions")
    return Finetune(setting, setting.options)
