"""Attentive probe: learned queries attend to the patch tokens of a frozen encoder, each for its share of the values.

Source: efficient probing, arXiv 2506.10178; constants: docs/reference/methods.md. The norm couples the
images of a group.

Dims: n images, N patches, D width, M queries, K classes.
"""

import torch
from torch import Tensor, nn

from gmml_cluster.methods.probe import Probe, Probed
from gmml_cluster.methods.protocol import Setting
from gmml_cluster.models.encoders import AnyEncoder
from gmml_cluster.spec.methods.attentive import AttentiveOptions


class AttentiveProbe(Probed):
    """Queries and values; keys are the tokens themselves."""

    def __init__(self, encoder: AnyEncoder, width: int, options: AttentiveOptions, group: int) -> None:
        super().__init__(encoder, width, options.classes, group)
        self.queries = nn.Parameter(torch.zeros(options.queries, width))
        self.value = nn.Linear(width, width, bias=False)

    def features(self, tokens_nTD: Tensor) -> Tensor:
        """The pooled values, share by share."""
        x_nND = tokens_nTD[:, self.encoder.prefix_tokens :]
        n, N, D = x_nND.shape
        shares_nMN = (self.queries @ x_nND.mT * D**-0.5).softmax(2)
        value_nMNd = self.value(x_nND).view(n, N, len(self.queries), -1).transpose(1, 2)
        pooled_nMd = (shares_nMN[:, :, None] @ value_nMNd)[:, :, 0]
        return pooled_nMd.reshape(n, D)  # type: ignore[no-any-return]


def build(setting: Setting) -> Probe:
    """The method with blank weights."""
    options = setting.options
    if not isinstance(options, AttentiveOptions):
        raise TypeError(f"options {options!r}: the attentive probe takes AttentiveOptions")
    encoder = setting.encoder_of(options.encoder_kind)
    return Probe(setting, options, AttentiveProbe(encoder, setting.model.width, options, setting.group))
