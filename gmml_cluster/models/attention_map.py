"""Where an image's class token looks: the maps that AMT draws its masks by (arXiv 2211.15362).

The paper's body gives no formula that could be read; the released code's is in docs/reference/maps.md.

Dims: B images, C channels, S side of an image, N patches, T = 1 + N tokens, h heads.
"""

import torch
from torch import Tensor

from gmml_cluster.models.vit import Block, VisionTransformer

_LEAST_SPAN = 1e-12


@torch.no_grad()
def attention_map(encoder: VisionTransformer, images_BCSS: Tensor) -> Tensor:
    """The class token's attention to each patch in the last block, of which only that row is computed.

    Each head by itself is brought to 0 to 1 over the patches, which takes out how much it leaves to the class token;
    a head that looks everywhere alike has ones. Then heads are averaged.

    Args:
        encoder: one with a class token, in evaluation mode.
        images_BCSS: whole images, normalised; nothing is masked or dropped.

    Returns:
        (B, N) in [0, 1], row by row, in the parameters' precision, also under autocast.
    """
    assert encoder.cls_token is not None, "without a class token nothing says where it looks"
    x_BTD = encoder.embed(images_BCSS)
    bias_1hTT = None if encoder.rel_pos_bias is None else encoder.rel_pos_bias()
    *before, last = encoder.blocks
    for block in before:
        x_BTD = block(x_BTD, None, None, bias_1hTT)
    assert isinstance(last, Block)
    weight_BhN = last.attn.first_row(last.norm1(x_BTD), bias_1hTT)[:, :, 1:]
    above_BhN = weight_BhN - weight_BhN.amin(2, keepdim=True)
    span_Bh1 = above_BhN.amax(2, keepdim=True)
    return torch.where(span_Bh1 < _LEAST_SPAN, 1.0, above_BhN / span_Bh1).mean(1)


def map_bytes(weights: Tensor) -> Tensor:
    """A map as it is stored: uint8 1 + floor(254 w + 1/2), so that no weight is 0."""
    return (1 + (254 * weights + 0.5).floor()).to(torch.uint8)
