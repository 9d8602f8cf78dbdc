"""Linear probe as a run: batch norm over the group, then a linear map, on a frozen encoder.

Source: arXiv 2111.06377; constants: docs/reference/methods.md. The norm couples the images of a group.

Dims: n images, G images of a group, T tokens, D width, K classes.
"""

from torch import Tensor

from gmml_cluster.methods.probe import Probe, Probed
from gmml_cluster.methods.protocol import Setting
from gmml_cluster.models.encoders import AnyEncoder
from gmml_cluster.spec.methods.linear import LinearOptions


class LinearProbe(Probed):
    """Feature, norm without affine, linear map."""

    def __init__(self, encoder: AnyEncoder, width: int, options: LinearOptions, group: int) -> None:
        super().__init__(encoder, width, options.classes, group)
        self.feature = options.feature

    def features(self, tokens_nTD: Tensor) -> Tensor:
        """The class token, or the mean of the patch tokens."""
        return tokens_nTD[:, 0] if self.feature == "class" else tokens_nTD[:, self.encoder.prefix_tokens :].mean(1)


def build(setting: Setting) -> Probe:
    """The method with blank weights."""
    options = setting.options
    if not isinstance(options, LinearOptions):
        raise TypeError(f"options {options!r}: the linear probe takes LinearOptions")
    module = LinearProbe(setting.encoder_of(options.encoder_kind), setting.model.width, options, setting.group)
    return Probe(setting, options, module)
