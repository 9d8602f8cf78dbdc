"""Linear probe as a run: batch norm over the group, then a linear map, on a frozen encoder.

Source: arXiv 2111.06377; constants: docs/reference/methods.md. The norm couples the images of a group.

Dims: n images, G images of a group, T tokens, D width, K classes.
"""

import torch
from torch import Tensor, nn

from gmml_cluster.methods.probe import Probe, Probed
from gmml_cluster.methods.protocol import Setting
from gmml_cluster.models.vit import EPS, VisionTransformer
from gmml_cluster.spec.methods.linear import LinearOptions


class LinearProbe(Probed):
    """Feature, norm without affine, linear map."""

    def __init__(self, encoder: VisionTransformer, width: int, options: LinearOptions, group: int) -> None:
        super().__init__(encoder)
        self.feature, self.group = options.feature, group
        self.classifier = nn.Linear(width, options.classes)

    def features(self, tokens_nTD: Tensor) -> Tensor:
        """What is classified (n, D), before the norm."""
        return tokens_nTD[:, 0] if self.feature == "class" else tokens_nTD[:, self.encoder.prefix_tokens :].mean(1)

    def logits(self, tokens_nTD: Tensor) -> Tensor:
        """Logits by each group's own moments, the variance biased."""
        x_nD = self.features(tokens_nTD)
        x_gGD = x_nD.view(-1, self.group, x_nD.shape[1])
        variance_g1D, mean_g1D = torch.var_mean(x_gGD, 1, correction=0, keepdim=True)
        return self.classifier(((x_gGD - mean_g1D) / (variance_g1D + EPS).sqrt()).view_as(x_nD))  # type: ignore[no-any-return]


def build(setting: Setting) -> Probe:
    """The method with blank weights."""
    options = setting.options
    if not isinstance(options, LinearOptions):
        raise TypeError(f"options {options!r}: the linear probe takes LinearOptions")
    module = LinearProbe(setting.encoder(**options.switches), setting.model.width, options, setting.group)
    return Probe(setting, options, module)
