"""Draws by number on any device: `philox.py` in int64 tensor operations, equal bit for bit (docs/reference/draws.md).

The generator is some 40 kernels a call on a GPU, however much it draws, and a micro-batch's draws are so small that a
GPU spends its time on the launches. So `view_words` draws for several purposes and all views in one call, and the two
halves of a round, which are alike, are computed as one tensor.

Dims: n numbers, V views, K blocks of four words.
"""

import math
from collections.abc import Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gmml_cluster.data.random.philox import Purpose

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_WORDS_AT_ONCE = {"cpu": 1 << 22, "gpu": 1 << 25}
"""On a CPU what a cache holds; on a GPU what bounds the memory to some 0.8 GB, in as few launches as that allows: the
noise of 111 images of two views at 224 pixels."""


def constant(values: Any, device: torch.device) -> Tensor:
    """A constant on a device; to be cached by its caller.

    From pinned memory, as a copy from pageable memory waits for all work that was enqueued before.
    """
    tensor = torch.as_tensor(values, device="cpu")
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def philox(key: tuple[int, int], counter: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[Tensor, ...]:
    """The four words of Philox4x32-10 for each counter; all tensors hold 32-bit values in int64 and broadcast."""
    c0, c1, c2, c3 = torch.broadcast_tensors(*counter)  # type: ignore[no-untyped-call]
    keys = _round_keys(key[0], (key[1],), c0.device).view(_ROUNDS, 2, *([1] * c0.ndim))
    rounds = _few_launches if c0.device.type != "cpu" else _rounds
    even, odd = rounds(torch.stack([c0, c2]), torch.stack([c1, c3]), keys, _multipliers(c0.device))
    return even[0], odd[0], even[1], odd[1]


def _rounds(even: Tensor, odd: Tensor, keys: Tensor, multipliers: Tensor) -> tuple[Tensor, Tensor]:
    """All rounds.

    Products of 32-bit values wrap in int64; the mask takes off what wrapping did to their high halves. The odd words
    keep garbage above 32 bits from round to round: it enters an exclusive or, whose result is masked anyway.

    Args:
        even: counter words 0 and 2, stacked first.
        odd: counter words 1 and 3.
        keys: of each round, for words 0 and 2.
        multipliers: of words 0 and 2.

    Returns:
        Words 0 and 2, and words 1 and 3.
    """
    multipliers = multipliers.view(2, *([1] * (even.ndim - 1)))
    for round_keys in keys.unbind():
        product = (even * multipliers).flip(0)
        even = (product >> 32).bitwise_xor_(odd).bitwise_xor_(round_keys).bitwise_and_(_MASK)
        odd = product
    return even, odd & _MASK


def _few_launches(even: Tensor, odd: Tensor, keys: Tensor, multipliers: Tensor) -> tuple[Tensor, Tensor]:
    """As `_rounds`, in three kernels a round instead of six.

    The halves of a product are read in place, as every second int32 (the low half first, as on all devices that torch
    runs on), and written over the low halves of `even`: so there is no shift and no mask. The products are made twice
    over, so that the exchanged pair is a part of them. For GPUs: a CPU reads every second value slowly.

    Args:
        even: as there; overwritten.
        odd: as there.
        keys: as there.
        multipliers: as there.
    """
    multipliers = multipliers.view(2, *([1] * (even.ndim - 1)))
    low, odd_low = even.view(torch.int32)[..., ::2], odd.view(torch.int32)[..., ::2]
    for round_keys in keys.to(torch.int32).unbind():
        product = (even.expand(2, *even.shape) * multipliers).flatten(0, 1)[1:3]
        halves = product.view(torch.int32)
        torch.bitwise_xor(halves[..., 1::2], odd_low, out=low).bitwise_xor_(round_keys)
        odd_low = halves[..., ::2]
    return even, product & _MASK


@lru_cache(maxsize=16)
def _multipliers(device: torch.device) -> Tensor:
    return constant(_MULTIPLIERS, device)


@lru_cache(maxsize=64)
def _round_keys(seed: int, purposes: tuple[int, ...], device: torch.device) -> Tensor:
    """Keys (rounds, 2, purposes)."""
    rounds = np.arange(_ROUNDS)[:, None]
    first, second = (seed + rounds * _WEYL[0]) & _MASK, (np.array(purposes) + rounds * _WEYL[1]) & _MASK
    return constant(np.stack(np.broadcast_arrays(first, second), 1).copy(), device)


Wanted = tuple[tuple[int, int, int], ...]  # (purpose, words, stream)


@lru_cache(maxsize=64)
def _columns(seed: int, wanted: Wanted, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of each block drawn for a number: its index and its stream (K,), and its keys (rounds, 2, 1, K or 1).

    And the multipliers of all.
    """
    blocks = [-(-count // 4) for _, count, _ in wanted]
    indices = constant(np.concatenate([np.arange(count) for count in blocks]), device)
    streams = constant(np.repeat([stream for _, _, stream in wanted], blocks), device)
    purposes = [purpose for purpose, _, _ in wanted]
    each = purposes[:1] if len(set(purposes)) == 1 else np.repeat(purposes, blocks).tolist()
    return indices, streams, _round_keys(seed, tuple(each), device)[:, :, None], _multipliers(device)


def _draw(seed: int, numbers: Tensor, wanted: Wanted) -> Tensor:
    """The blocks of each number, those of the first wanted first: int64 (n, K, 4)."""
    return _blocks(numbers, *_columns(seed, wanted, numbers.device))


def _blocks(numbers: Tensor, indices: Tensor, streams: Tensor, keys: Tensor, multipliers: Tensor) -> Tensor:
    shape = (len(numbers), len(indices))
    low, high = (numbers & _MASK)[:, None], (numbers >> 32)[:, None]
    even = torch.stack([low.expand(shape), indices.expand(shape)])
    odd = torch.stack([high.expand(shape), streams.expand(shape)])
    rounds = _rounds if numbers.device.type == "cpu" else _few_launches
    even, odd = rounds(even, odd, keys, multipliers)
    return torch.stack([even[0], odd[0], even[1], odd[1]], -1)


def words(seed: int, purpose: int, numbers: Tensor, count: int, stream: int = 0) -> Tensor:
    """The first `count` words of each number.

    Args:
        seed: below 2**32.
        purpose: what they are drawn for; `philox.Purpose`, or a plug-in's own.
        numbers: int64 (n,), not negative.
        count: words of each number.
        stream: the view, where nothing else is said.

    Returns:
        int64 (n, count) on the device of `numbers`.
    """
    return _draw(seed, numbers, ((int(purpose), count, stream),)).flatten(1)[:, :count]


def view_words(
    seed: int, numbers: Tensor, views: int, counts: Mapping[int, int], first_stream: int = 0
) -> dict[int, Tensor]:
    """The first words of each view of each number for several purposes, in one call of the generator.

    Args:
        seed: below 2**32.
        numbers: int64 (n,), not negative.
        views: views of each number; a view is a stream.
        counts: words of a view, by purpose.
        first_stream: stream of the first view.

    Returns:
        int64 (n, V, count) by purpose, on the device of `numbers`.
    """
    streams = range(first_stream, first_stream + views)
    wanted = tuple((int(purpose), count, stream) for purpose, count in counts.items() for stream in streams)
    sizes = [views * -(-count // 4) for count in counts.values()]
    parts = torch.split(_draw(seed, numbers, wanted), sizes, 1)
    return {
        purpose: part.reshape(len(numbers), views, -1)[:, :, :count]
        for part, (purpose, count) in zip(parts, counts.items(), strict=True)
    }


def stream_words(seed: int, purpose: int, numbers: Tensor, counts: Mapping[int, int]) -> dict[int, Tensor]:
    """The first words of several streams of each number for one purpose, in one call of the generator.

    Args:
        seed: below 2**32.
        purpose: what they are drawn for.
        numbers: int64 (n,), not negative.
        counts: words of a number, by stream.

    Returns:
        int64 (n, count) by stream, on the device of `numbers`.
    """
    wanted = tuple((int(purpose), count, stream) for stream, count in counts.items())
    parts = torch.split(_draw(seed, numbers, wanted), [-(-count // 4) for count in counts.values()], 1)
    return {stream: part.flatten(1)[:, : counts[stream]] for stream, part in zip(counts, parts, strict=True)}


def uniform(words: Tensor) -> Tensor:
    """Float32 in [0, 1), multiples of 2**-24."""
    return (words >> 8).to(torch.float32) * 2.0**-24


def uniform_plus(words: Tensor) -> Tensor:
    """Float32 in (0, 1], multiples of 2**-24."""
    return ((words >> 8) + 1).to(torch.float32) * 2.0**-24


def integer(words: Tensor, m: int | Tensor) -> Tensor:
    """Integers 0 .. m - 1; an int64 tensor of m broadcasts."""
    return (words * m) >> 32


def threshold(q: Fraction | float) -> int:
    """What the upper 24 bits of a word are below with probability q; a float is taken as its decimal."""
    q = Fraction(str(q)) if isinstance(q, float) else Fraction(q)
    return -(-q.numerator * 2**24 // q.denominator)


def bernoulli(words: Tensor, q: Fraction | float) -> Tensor:
    """True with probability q; a float stands for the decimal it is written as."""
    return (words >> 8) < threshold(q)


def order(words: Tensor) -> Tensor:
    """A uniformly random order of items (..., N), from a word of each."""
    # integers: among 24-bit uniforms two may be equal, and a sort may break ties either way
    return ((words << 16) + torch.arange(words.shape[-1], device=words.device)).argsort(-1)


def normals(words_n2k: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normals by Box-Muller, as many as words; words 2k and 2k + 1 make normals 2k and 2k + 1."""
    pairs = words_n2k.reshape(*words_n2k.shape[:-1], -1, 2)
    radius = (-2 * uniform_plus(pairs[..., 0]).to(dtype).log()).sqrt()
    angle = uniform(pairs[..., 1]).to(dtype) * (2 * math.pi)
    return torch.stack([radius * angle.cos(), radius * angle.sin()], -1).flatten(-2)


def pixel_noise(
    seed: int, numbers: Tensor, *, views: int, size: int, dtype: torch.dtype, first_stream: int = 0
) -> Tensor:
    """Standard normals for each pixel and channel, drawn a few images at a time to bound the memory.

    Returns:
        (n, V, 3, S, S).
    """
    count = 3 * size * size
    at_once = max(1, _WORDS_AT_ONCE["cpu" if numbers.device.type == "cpu" else "gpu"] // (count * views))
    parts = [_noise(seed, some, views, count, dtype, first_stream) for some in torch.split(numbers, at_once)]
    return (parts[0] if len(parts) == 1 else torch.cat(parts)).reshape(-1, views, 3, size, size)


def _noise(seed: int, numbers: Tensor, views: int, count: int, dtype: torch.dtype, first_stream: int) -> Tensor:
    wanted = tuple((int(Purpose.NOISE), count, stream) for stream in range(first_stream, first_stream + views))
    return _normals_of_blocks(numbers, *_columns(seed, wanted, numbers.device), views, dtype)[:, :, :count]


def _normals_of_blocks(
    numbers: Tensor,
    indices: Tensor,
    streams: Tensor,
    keys: Tensor,
    multipliers: Tensor,
    views: int,
    dtype: torch.dtype,
) -> Tensor:
    """Normals of all words of each view (n, V, 4 K / V)."""
    blocks = _blocks(numbers, indices, streams, keys, multipliers)
    return normals(blocks.view(len(numbers), views, -1), dtype)
