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
    Panel,
    Setting,
    check_draws,
    check_labels,
)
from gmml_cluster.methods.supervised import top1
from gmml_cluster.models.encoders import AnyEncoder
from gmml_cluster.models.vit import EPS
from gmml_cluster.spec.methods.probe import ProbeOptions

_STD, _QUERY_STD = 0.01, 0.02


class Probed(nn.Module):
    """A frozen encoder, features of its tokens, their norm without affine over the group, and a linear map.

    The norm is there because masked-image features have a common mean that hides what differs between images.
    """

    def __init__(self, encoder: AnyEncoder, width: int, classes: int, group: int) -> None:
        super().__init__()
        self.encoder, self.group, self.width = encoder.requires_grad_(False), group, width
        self.classifier: nn.Module = nn.Linear(width, classes)

    def forward(self, images_n3SS: Tensor, moments_2D: Tensor | None = None) -> Tensor:
        """Logits (n, K), by each group's own moments, or by given ones: mean, then variance."""
        tokens_nTD = self.tokens(images_n3SS)
        # a probe of features in bf16 would measure its own rounding
        with torch.autocast(images_n3SS.device.type, enabled=False):
            x_nD = self.features(tokens_nTD)
            if moments_2D is not None:
                return self.classifier((x_nD - moments_2D[0]) / (moments_2D[1] + EPS).sqrt())  # type: ignore[no-any-return]
            x_gGD = x_nD.view(-1, self.group, x_nD.shape[1])
            variance_g1D, mean_g1D = torch.var_mean(x_gGD, 1, correction=0, keepdim=True)
            normed_gGD = (x_gGD - mean_g1D) / (variance_g1D + EPS).sqrt()
            return self.classifier(normed_gGD.view_as(x_nD))  # type: ignore[no-any-return]

    def tokens(self, images_n3SS: Tensor) -> Tensor:
        """Normed tokens (n, T, D) of the frozen encoder."""
        with torch.no_grad():
            return self.encoder(images_n3SS).to(images_n3SS.dtype)  # type: ignore[no-any-return]

    def features(self, tokens_nTD: Tensor) -> Tensor:
        """What is normed and classified (n, D)."""
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

    def show_input(self, images: Tensor, draws: Draws, numbers: Tensor, *, grey: Tensor) -> list[Panel]:
        """Nothing: the encoder sees the view as it is."""
        return []
