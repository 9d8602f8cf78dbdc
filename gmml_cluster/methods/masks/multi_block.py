"""Multi-block masks in static shapes: some rectangles of patches are predicted from a large one without them.

Source: arXiv 2301.08243, appendix A.1; rules, constants and draws: docs/reference/methods.md and draws.md, purpose 37.
The grid is that of the encoder's patches. `fixed` gives every image as many patches, `padded` follows the released
rule, by which sizes are shared in a group and counts differ from image to image.

The released rule is sequential too: it draws places until one leaves enough context. Here eight are drawn, and the
first that does is taken, so that nothing waits for the device.

Dims: n images, M targets, T tries, g patches of a side of the grid, N = g g, K patches a context holds, P a target.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from gmml_cluster.data.random.philox import Purpose
from gmml_cluster.data.random.philox_torch import constant, integer, stream_words, words
from gmml_cluster.spec.methods.multi_block import Size, Sizes

TRIES = 8
_SIZES, _TARGETS, _CONTEXT, _ORDER = range(4)
"""Streams of the purpose."""
_SET = 4
"""Blocks of the targets' stream from one set of places to the next."""
_TURNS = 64
"""First block of that stream which says how a target lies."""


@dataclass(frozen=True)
class Masks:
    """What is predicted, and what it is predicted from.

    Attributes:
        target: int64 (n, M, 4), rectangles of patches: top, left, height, width.
        context: bool (n, N), the patches that the encoder sees.
        short: bool (n,), images for which no try left enough context.
    """

    target: Tensor
    context: Tensor
    short: Tensor


@dataclass(frozen=True)
class FixedRule:
    """All targets of one area, all contexts of one number of patches; nothing couples images.

    Attributes:
        grid: g.
        reach: rows, and columns, that rectangles may cover.
        targets: M, at most 4.
        target: shorter and longer side of a target; which is its height is drawn.
        context: sizes of the context's rectangle.
        kept: patches of a context.
    """

    grid: int
    reach: int
    targets: int
    target: Size
    context: Sizes
    kept: int

    def draw(self, seed: int, numbers: Tensor) -> Masks:
        """The masks of some sample numbers: the first set of places that leaves enough, cut at random to `kept`.

        Where no set does, the first is taken, and its context is filled with patches of targets at random.
        """
        counts = {_SIZES: 2, _TARGETS: 4 * (_TURNS + self.targets), _CONTEXT: 4 * TRIES, _ORDER: self.grid**2}
        drawn = stream_words(seed, Purpose.MULTI_BLOCK, numbers, counts)
        target_nTM4 = self._targets(drawn[_TARGETS])
        context_nTN = covered(_contexts(drawn, drawn[_SIZES][:, 1], self.context, self.reach), self.grid)
        taken_nTN = covered(target_nTM4, self.grid).any(2)
        left_nTN = context_nTN & ~taken_nTN
        try_n, short_n = _first_true(left_nTN.sum(2) >= self.kept)
        left_nN, taken_nN = _of_try(left_nTN, try_n), _of_try(taken_nTN, try_n)
        class_nN = torch.where(left_nN, 0, torch.where(taken_nN, 1, 2))
        return Masks(_of_try(target_nTM4, try_n), _smallest(drawn[_ORDER], class_nN, self.kept), short_n)

    def _targets(self, words_nW: Tensor) -> Tensor:
        """Rectangles of every set of places (n, T, M, 4)."""
        turned_nM = integer(words_nW[:, 4 * _TURNS :: 4], 2)
        height_n1M = (self.target[0] + turned_nM * (self.target[1] - self.target[0]))[:, None]
        blocks_nTB4 = words_nW[:, : 4 * _SET * TRIES].reshape(-1, TRIES, _SET, 4)
        return _placed(blocks_nTB4[:, :, : self.targets], height_n1M, sum(self.target) - height_n1M, self.reach)


@dataclass(frozen=True)
class PaddedRule:
    """The released rule: sizes are drawn for a group, and an image's context has as many patches as are left.

    Attributes:
        grid: g.
        reach: rows, and columns, that rectangles may cover.
        targets: M.
        target: sizes of targets.
        context: sizes of the context's rectangle.
        min_keep: a context has more patches than this.
        most: greater contexts are cut to so many patches, at random.
        group: images whose rectangles have the same sizes.
    """

    grid: int
    reach: int
    targets: int
    target: Sizes
    context: Sizes
    min_keep: int
    most: int
    group: int

    def draw(self, seed: int, numbers: Tensor) -> Masks:
        """The masks of some sample numbers: the first place of the context that leaves enough.

        Where none does, targets are left in the context at its first place, from the last on, until it has enough.
        """
        first_n = numbers - numbers % self.group
        shared_n2 = words(seed, Purpose.MULTI_BLOCK, first_n, 2, stream=_SIZES)
        counts = {_TARGETS: 4 * self.targets, _CONTEXT: 4 * TRIES, _ORDER: self.grid**2}
        drawn = stream_words(seed, Purpose.MULTI_BLOCK, numbers, counts)
        height_n1, width_n1 = _sized(shared_n2[:, 0], self.target)
        blocks_nM4 = drawn[_TARGETS].reshape(len(numbers), self.targets, 4)
        target_nM4 = _placed(blocks_nM4, height_n1, width_n1, self.reach)
        context_nTN = covered(_contexts(drawn, shared_n2[:, 1], self.context, self.reach), self.grid)
        left_nCN = self._candidates(context_nTN, covered(target_nM4, self.grid))
        choice_n, _ = _first_true(left_nCN.sum(2) > self.min_keep)
        context_nN = _of_try(left_nCN, choice_n)
        if self.most < self.reach**2 - min(self.target.areas):
            context_nN = context_nN & _smallest(drawn[_ORDER], (~context_nN).long(), self.most)
        return Masks(target_nM4, context_nN, choice_n >= TRIES)

    def _candidates(self, context_nTN: Tensor, target_nMN: Tensor) -> Tensor:
        """What each try leaves of the context, then what its first place leaves without M - 1, M - 2 .. 0 targets."""
        taken_nMN = target_nMN.cumsum(1) > 0
        all_taken_n1N = taken_nMN[:, -1:]
        fewer_nMN = torch.cat([taken_nMN[:, :-1].flip(1), torch.zeros_like(all_taken_n1N)], 1)
        return torch.cat([context_nTN & ~all_taken_n1N, context_nTN[:, :1] & ~fewer_nMN], 1)


def covered(rectangles_X4: Tensor, grid: int) -> Tensor:
    """The patches of each rectangle, bool (..., N)."""
    line_g = _lines(grid, rectangles_X4.device)
    top_X1, left_X1, height_X1, width_X1 = (rectangles_X4[..., k, None] for k in range(4))
    rows_Xg = (line_g >= top_X1) & (line_g < top_X1 + height_X1)
    columns_Xg = (line_g >= left_X1) & (line_g < left_X1 + width_X1)
    return (rows_Xg[..., :, None] & columns_Xg[..., None, :]).flatten(-2)


def target_tokens(target_nM4: Tensor, grid: int, length: int) -> tuple[Tensor, Tensor]:
    """Patches of each rectangle row by row, filled up with patch 0 to one length.

    Returns:
        Their indices int64 (n, M, P), and which of them are not filling, bool (n, M, P).
    """
    place_P = _lines(length, target_nM4.device)
    top_nM1, left_nM1, height_nM1, width_nM1 = (target_nM4[..., k, None] for k in range(4))
    index_nMP = (top_nM1 + place_P // width_nM1) * grid + left_nM1 + place_P % width_nM1
    real_nMP = place_P < height_nM1 * width_nM1
    return torch.where(real_nMP, index_nMP, 0), real_nMP


def context_tokens(context_nN: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Patches of each context in ascending order, filled up with patch 0 to one length.

    Returns:
        Their indices int64 (n, K), and which of them are not filling, bool (n, K).
    """
    N = context_nN.shape[1]
    index_N = _lines(N, context_nN.device)
    index_nK = torch.where(context_nN, index_N, N).sort(1).values[:, :length]
    real_nK = index_nK < N
    return torch.where(real_nK, index_nK, 0), real_nK


@lru_cache(maxsize=64)
def _lines(count: int, device: torch.device) -> Tensor:
    return constant(torch.arange(count), device)


@lru_cache(maxsize=64)
def _table(sizes: Sizes, device: torch.device) -> tuple[Tensor, Tensor]:
    """Ends (s,), and heights and widths (s, 2)."""
    return constant(sizes.ends, device), constant(sizes.sizes, device)


def _sized(words_n: Tensor, sizes: Sizes) -> tuple[Tensor, Tensor]:
    """Heights and widths, each (n, 1)."""
    ends_s, sizes_s2 = _table(sizes, words_n.device)
    size_n2 = sizes_s2[((words_n >> 8)[:, None] >= ends_s).sum(1)]
    return size_n2[:, :1], size_n2[:, 1:]


def _contexts(drawn: dict[int, Tensor], size_words_n: Tensor, sizes: Sizes, reach: int) -> Tensor:
    """The context's rectangle at each try (n, T, 4)."""
    height_n1, width_n1 = _sized(size_words_n, sizes)
    return _placed(drawn[_CONTEXT].reshape(-1, TRIES, 4), height_n1, width_n1, reach)


def _placed(words_X4: Tensor, height: Tensor, width: Tensor, reach: int) -> Tensor:
    """Rectangles (..., 4) at uniform places, of sizes that broadcast; two of the four words are used."""
    top_X = integer(words_X4[..., 0], reach + 1 - height)
    left_X = integer(words_X4[..., 1], reach + 1 - width)
    return torch.stack([top_X, left_X, height.expand_as(top_X), width.expand_as(top_X)], -1)


def _first_true(valid_nT: Tensor) -> tuple[Tensor, Tensor]:
    """Index of the first true, 0 where there is none, and where there is none; argmax does not promise the first."""
    T = valid_nT.shape[1]
    first_n = torch.where(valid_nT, _lines(T, valid_nT.device), T).amin(1)
    none_n = first_n == T
    return torch.where(none_n, 0, first_n), none_n


def _of_try(values_nTX: Tensor, try_n: Tensor) -> Tensor:
    """Of each image what belongs to its try."""
    return values_nTX[_lines(len(try_n), try_n.device), try_n]


def _smallest(words_nN: Tensor, class_nN: Tensor, count: int) -> Tensor:
    """So many patches, of the lowest class first and in a random order within it, bool (n, N)."""
    key_nN = (class_nN << 48) + (words_nN << 16) + _lines(words_nN.shape[1], words_nN.device)
    return torch.zeros_like(class_nN, dtype=torch.bool).scatter_(1, key_nN.argsort(1)[:, :count], True)
