"""From the map of a whole image to that of a crop, exactly: in integers, so that every machine gets the same bytes.

A crop acts on rows and columns apart: it is R M C' / (sum of R's row, times that of C's), where R says how much of each
row of cells a row of the view's patches reads, and C the same of columns.

Dims: n images, V views, M side of the map and of a view's grid, N = M M.
"""

from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gmml_cluster.data.random.philox import Ints

Bytes = NDArray[np.uint8]
Shares = NDArray[np.float64]
"""Whole numbers below 2**53, which float64 adds and multiplies exactly, and faster than numpy does int64."""
Alignment = Literal["exact", "released"]


def crop_maps(
    maps_nMM: NDArray[np.integer], boxes_nV4: Ints, sides_n2: Ints, *, alignment: Alignment, patch_size: int
) -> Bytes:
    """The map of each view: of each patch the mean of the map over what the patch shows, rounded to a byte.

    Args:
        maps_nMM: 1 to 255.
        boxes_nV4: crops: top, left, height, width in pixels, within the image.
        sides_n2: height and width of the images.
        alignment: `exact` takes means over areas; `released` reads the map's first corner, whatever the box.
        patch_size: side of a patch of the view.

    Returns:
        uint8 (n, V, M, M), not flipped.
    """
    sums, whole = crop_sums(maps_nMM, boxes_nV4, sides_n2, alignment=alignment, patch_size=patch_size)
    sums, whole = sums.astype(np.int64), whole.astype(np.int64)
    return ((2 * sums + whole) // (2 * whole)).astype(np.uint8)


def crop_sums(
    maps_nMM: NDArray[np.integer], boxes_nV4: Ints, sides_n2: Ints, *, alignment: Alignment, patch_size: int
) -> tuple[Shares, Shares]:
    """Of each patch of each view the weighted sum of the map, and the weights' own: whole numbers (n, V, M, M)."""
    M = maps_nMM.shape[-1]
    start_nV2, length_nV2 = boxes_nV4[..., :2], boxes_nV4[..., 2:]
    if alignment == "exact":
        shares_nV2MM = _overlaps(start_nV2, length_nV2, sides_n2[:, None], M)
    else:
        shares_nV2MM = _corner(start_nV2 + length_nV2 >= sides_n2[:, None], M, patch_size)
    rows, columns = shares_nV2MM[:, :, 0], shares_nV2MM[:, :, 1]
    sums = rows @ maps_nMM[:, None].astype(np.float64) @ columns.swapaxes(2, 3)
    return sums, rows.sum(3)[..., None] * columns.sum(3)[..., None, :]


def _overlaps(start: Ints, length: Ints, side: Ints, M: int) -> Shares:
    """How far patch r of a view and cell m of the map overlap, in pixels / M (..., M patches, M cells)."""
    begin = (start[..., None] * M + length[..., None] * np.arange(M))[..., None]
    cell = side[..., None, None] * np.arange(M)
    ends = np.minimum(begin + length[..., None, None], cell + side[..., None, None])
    shared: Shares = np.maximum(ends - np.maximum(begin, cell), 0).astype(np.float64)
    return shared


def _corner(touches_end: NDArray[np.bool_], M: int, patch_size: int) -> Shares:
    """The released rule: two rows of cells, three where the crop reaches the image's end, stretched over the view."""
    return np.where(touches_end[..., None, None], _stretched(3, M, patch_size), _stretched(2, M, patch_size))


@lru_cache(maxsize=16)
def _stretched(cells: int, M: int, patch_size: int) -> Shares:
    """How much patches read of the first cells when these are stretched over a view bilinearly (M patches, M cells).

    Pixel y of S reads around ((2 y + 1) cells - S) / 2 S, the edges repeated; weights are counted in 1 / 2 S.
    """
    cells, S = min(cells, M), M * patch_size
    at = np.maximum((2 * np.arange(S) + 1) * cells - S, 0)
    low, beyond = np.divmod(at, 2 * S)
    read = np.zeros((S, M))
    np.add.at(read, (np.arange(S), low), 2 * S - beyond)
    np.add.at(read, (np.arange(S), np.minimum(low + 1, cells - 1)), beyond)
    shares: Shares = read.reshape(M, patch_size, M).sum(1)
    return shares
