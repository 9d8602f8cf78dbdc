"""Linear probe as a run: batch norm over the group, then linear maps, on a frozen encoder.

Source: arXiv 2111.06377; constants: docs/reference/methods.md. The norm couples the images of a group. Several learning
rates are tried at once, by a head for each: they read one feature, which is what an image costs.

Dims: n images, g groups, G images of a group, T tokens, D width, R heads, K classes.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gmml_cluster.methods.probe import Probe, Probed
from gmml_cluster.methods.protocol import LABEL, Draws, Forward, InitDistribution, Losses, Setting
from gmml_cluster.methods.supervised import top1
from gmml_cluster.models.encoders import AnyEncoder
from gmml_cluster.spec.methods.linear import LinearOptions


class Heads(nn.ModuleList):
    """Linear maps of one feature; a tensor each, as LARS scales tensor by tensor."""

    def __init__(self, width: int, classes: int, heads: int) -> None:
        super().__init__(nn.Linear(width, classes) for _ in range(heads))

    def forward(self, x_nD: Tensor) -> Tensor:
        """Logits (n, R, K)."""
        return torch.stack([head(x_nD) for head in self], 1)


class LinearProbe(Probed):
    """Feature, norm without affine, linear map or maps."""

    def __init__(self, encoder: AnyEncoder, width: int, options: LinearOptions, group: int) -> None:
        super().__init__(encoder, width, options.classes, group)
        self.feature = options.feature
        if len(options.rates) > 1:
            self.classifier = Heads(width, options.classes, len(options.rates))

    def features(self, tokens_nTD: Tensor) -> Tensor:
        """The class token, or the mean of the patch tokens."""
        return tokens_nTD[:, 0] if self.feature == "class" else tokens_nTD[:, self.encoder.prefix_tokens :].mean(1)


class Linear(Probe):
    """The method; see `Verifiable` and `Multiplies`."""

    def __init__(self, setting: Setting, options: LinearOptions) -> None:
        encoder = setting.encoder_of(options.encoder_kind)
        super().__init__(setting, options, LinearProbe(encoder, setting.model.width, options, setting.group))
        self.rates = options.rates

    def init_distribution(self, name: str, shape: torch.Size) -> InitDistribution:
        """That of all probes; all heads begin as one alone would, so that they differ by their rates."""
        found = super().init_distribution(name, shape)
        return replace(found, like="classifier.weight") if name.startswith("classifier.") else found

    def multipliers(self, name: str) -> tuple[float, float]:
        """The head's factor of the learning rate."""
        head = name.removeprefix("classifier.").partition(".")[0]
        return self.rates[int(head) if head.isdigit() else 0], 1.0

    def loss(self, forward: Forward, images: Tensor, draws: Draws) -> Losses:
        """The sum of the heads' cross-entropies, each the mean over a group, so that each head has its own gradient."""
        if len(self.rates) == 1:
            return super().loss(forward, images, draws)
        logits_nRK, labels, group = forward(images[:, 0]).to(images.dtype), draws[LABEL], self.setting.group
        losses_nR = -F.log_softmax(logits_nRK, 2).gather(2, labels[:, None, None].expand(-1, len(self.rates), 1))[
            ..., 0
        ]
        losses_gR = losses_nR.view(-1, group, len(self.rates)).mean(1)
        scalars = {}
        for head, rate in enumerate(self.rates):
            scalars[f"loss_{rate:g}"] = torch.stack([losses_gR[:, head], torch.ones_like(losses_gR[:, head])], 1)
            scalars[f"top1_{rate:g}"] = top1(logits_nRK[:, head], labels, group)
        return Losses(losses_gR.sum(1), scalars, {"prediction": logits_nRK.detach()})


def build(setting: Setting) -> Linear:
    """The method with blank weights."""
    if not isinstance(setting.options, LinearOptions):
        raise TypeError(f"options {setting.options!r}: the linear probe takes LinearOptions")
    return Linear(setting, setting.options)
