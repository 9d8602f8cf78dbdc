"""Augmentation of single patches, and mega-patches, as RelViT (arXiv 2206.00481) has them; vectorised over patches.

Random bits (docs/reference/draws.md): purpose 42, 12 words for each patch, row by row: top, left, jitter on, order,
four factors, grey on. Purpose 36: the order of the inner lines of the patch grid, of which the first are cut; stream 0
for rows, stream 1 for columns.

Dims: n images, V views, B = n V, C channels, S side of an image, p side of a patch, N patches, M = B N patches of all
images, c side of a crop of a patch, m mega-patches a row.
"""

from functools import lru_cache

import torch
from torch import Tensor

from gmml_cluster.data.colours import grey, jitter, per_image
from gmml_cluster.data.random.philox import Purpose
from gmml_cluster.data.random.philox_torch import bernoulli, constant, integer, order, words
from gmml_cluster.spec.augment import Mega, PatchAugment

PATCH_WORDS = 12
_TOP, _LEFT, _JITTER, _GREY = 0, 1, 2, 8


def to_patches(x_BCSS: Tensor, p: int) -> Tensor:
    """Patches row by row (M, C, p, p)."""
    B, C, S, _ = x_BCSS.shape
    return x_BCSS.view(B, C, S // p, p, S // p, p).permute(0, 2, 4, 1, 3, 5).reshape(-1, C, p, p)


def from_patches(x_MCpp: Tensor, side: int) -> Tensor:
    """The inverse of `to_patches`: images (B, C, S, S)."""
    _, C, p, _ = x_MCpp.shape
    grid = side // p
    return x_MCpp.view(-1, grid, grid, C, p, p).permute(0, 3, 1, 4, 2, 5).reshape(-1, C, side, side)


def crop_patches(x_MCpp: Tensor, drawn_MW: Tensor, spec: PatchAugment) -> Tensor:
    """A random crop of each patch, resized back bilinearly: neighbours no longer continue each other's edges.

    Args:
        x_MCpp: patches.
        drawn_MW: words of purpose 42.
        spec: `crop` is the side of a patch over that of the crop.
    """
    p = x_MCpp.shape[2]
    offsets = p - round(p / spec.crop) + 1
    matrices = _crops(p, offsets, x_MCpp.device)
    rows_M1pp, columns_M1pp = (matrices[integer(drawn_MW[:, at], offsets)][:, None] for at in (_TOP, _LEFT))
    return rows_M1pp @ x_MCpp @ columns_M1pp.mT


@lru_cache(maxsize=16)
def _crops(p: int, offsets: int, device: torch.device) -> Tensor:
    """Of each offset of a crop, what each row of the result reads of the patch's rows (offsets, p, p)."""
    crop = p - offsets + 1
    reads_p = ((torch.arange(p, dtype=torch.float64) + 0.5) * crop / p - 0.5).clamp(0, crop - 1)
    reads_op = torch.arange(offsets)[:, None] + reads_p
    return constant(_bilinear(reads_op, p).float(), device)


def _bilinear(reads: Tensor, side: int) -> Tensor:
    """Weights of `side` pixels for readings between them (..., side)."""
    pixels = torch.arange(side, dtype=reads.dtype, device=reads.device)
    return (1 - (reads[..., None] - pixels).abs()).clamp(min=0)


def colour_patches(x_MCpp: Tensor, drawn_MW: Tensor, spec: PatchAugment) -> Tensor:
    """Colour jitter, then grey scale, each patch by its own draws.

    Args:
        x_MCpp: patches, RGB in [0, 1]; what jitter makes of other values is cut to that.
        drawn_MW: words of purpose 42.
        spec: strengths and probabilities.
    """
    if spec.jitter is not None:
        x_MCpp = jitter(x_MCpp, drawn_MW[:, _JITTER:], spec.jitter)
    greyed = bernoulli(drawn_MW[:, _GREY], spec.grey)
    return torch.where(per_image(greyed), grey(x_MCpp), x_MCpp)


def mega_lines(seed: int, numbers: Tensor, lines: int, cut: int, *, stream: int = 0) -> Tensor:
    """Which of the inner grid lines, counted from 1, part the strips of mega-patches.

    Args:
        seed: the run's.
        numbers: int64 (n,) sample numbers.
        lines: inner lines of the grid.
        cut: how many are chosen, without replacement.
        stream: 0 for rows, 1 for columns.

    Returns:
        int64 (n, cut), ascending.
    """
    drawn = order(words(seed, Purpose.MEGA, numbers, lines, stream))
    return drawn[:, :cut].sort(1).values + 1


def mega_patches(x_nVCSS: Tensor, numbers: Tensor, *, seed: int, spec: Mega, p: int) -> Tensor:
    """Images of m * m strips' crossings, each resized to one patch.

    Args:
        x_nVCSS: images; all views of an image are cut at the same lines.
        numbers: int64 (n,) sample numbers.
        seed: the run's.
        spec: mega-patches a row, and whether columns have cuts of their own.
        p: side of a patch in pixels.

    Returns:
        (n, V, C, m p, m p).
    """
    side = x_nVCSS.shape[-1]
    rows, columns = (_strips(seed, numbers, stream, spec.blocks, side, p) for stream in (0, int(spec.own_columns)))
    rows, columns = (strips[:, None, None].to(x_nVCSS.dtype) for strips in (rows, columns))
    return rows @ x_nVCSS @ columns.mT


def _strips(seed: int, numbers: Tensor, stream: int, m: int, side: int, p: int) -> Tensor:
    """What each row of the result reads of an image's rows, bilinearly (n, m p, S)."""
    lines = mega_lines(seed, numbers, side // p - 1, m - 1, stream=stream)
    ends = torch.cat([lines, torch.full_like(lines[:, :1], side // p)], 1)
    starts = torch.cat([torch.zeros_like(lines[:, :1]), lines], 1)
    within_p = torch.arange(p, device=numbers.device) + 0.5
    reads_nmp = p * starts[..., None] + (ends - starts)[..., None] * within_p - 0.5
    return _bilinear(reads_nmp.flatten(1), side)
