"""What methods on a frozen encoder share: labels alone are given, and the head computes in full precision.

Dims: n images, G images of a group, T tokens, K classes.
"""

from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gmml_cluster.methods.protocol import (
    LABEL,
    Draws,
    Forward,
    InitDistribution,
    Losses,
    Setting,
    check_draws,
    check_labels,
)
from gmml_cluster.methods.supervised import top1
from gmml_cluster.models.vit import VisionTransformer
from gmml_cluster.spec.methods.probe import ProbeOptions

_STD, _QUERY_STD = 0.01, 0.02


class Probed(nn.Module):
    """A frozen encoder and a head on its tokens."""

    def __init__(self, encoder: VisionTransformer) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(False)

    def forward(self, images_n3SS: Tensor) -> Tensor:
        """Logits (n, K)."""
        with torch.no_grad():
            tokens_nTD = self.encoder(images_n3SS)
        # a probe of features in bf16 would measure its own rounding
        with torch.autocast(images_n3SS.device.type, enabled=False):
            return self.logits(tokens_nTD.to(images_n3SS.dtype))

    def logits(self, tokens_nTD: Tensor) -> Tensor:
        """Logits (n, K) of normed tokens."""
        raise NotImplementedError


class Probe:
    """Cross-entropy of a head on a frozen encoder; see `Verifiable`. Its one draw is `label`, from the reader."""

    views = 1

    def __init__(self, setting: Setting, options: ProbeOptions, module: Probed) -> None:
        self.setting, self.options, self.taps = setting, options, (setting.model.depth,)
        self.module: nn.Module = module

    def init_distribution(self, name: str, shape: torch.Size) -> InitDistribution:
        """The classifier normal with 0.01, values as torch initialises them; `init` replaces the encoder's."""
        if name == "queries":
            return InitDistribution("normal", _QUERY_STD)
        if name == "value.weight":
            return InitDistribution("uniform", shape[1] ** -0.5)
        if name.endswith("bias"):
            return InitDistribution("constant", 0.0)
        return InitDistribution("constant", 1.0) if len(shape) == 1 else InitDistribution("normal", _STD)

    def draw(
        self,
        numbers: Tensor,
        device: torch.device,
        *,
        names: Collection[str] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Draws:
        """Nothing is drawn beside crops and flips."""
        return {}

    def accept(self, given: Draws, count: int) -> Draws:
        """The labels, checked."""
        check_draws(given, {LABEL: (count,)}, [LABEL])
        check_labels(given[LABEL], self.options.classes)
        return {LABEL: given[LABEL].long()}

    def loss(self, forward: Forward, images: Tensor, draws: Draws) -> Losses:
        """Cross-entropy, the mean over the images of a group."""
        logits_nK, labels, group = forward(images[:, 0]).to(images.dtype), draws[LABEL], self.setting.group
        losses = -F.log_softmax(logits_nK, 1).gather(1, labels[:, None])
        scalars = {"top1": top1(logits_nK, labels, group)}
        return Losses(losses.view(-1, group).mean(1), scalars, {"prediction": logits_nK.detach()})
