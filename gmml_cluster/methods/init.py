"""Initial weights by number: a function of the seed and a parameter's name, on every rank and machine.

Draws (docs/reference/draws.md): purpose 10, number = CRC-32 of the name, word = index in the flattened tensor. Normals
are Box-Muller's, a pair of neighbouring words making a pair of neighbouring weights, computed in float64 and rounded:
so a logarithm whose last digit differs from processor to processor hardly ever shows. GMML's cut at 2, which is 100
standard deviations, needs no code: 24-bit uniforms reach 5.8 standard deviations at most.
"""

import math
import zlib

import torch
from torch import Tensor

from gmml_cluster.data.random.philox import Purpose
from gmml_cluster.data.random.philox_torch import normals, philox, uniform
from gmml_cluster.methods.protocol import InitDistribution, Method

_BLOCKS_AT_ONCE = 1 << 14


def initial_weights(method: Method, seed: int) -> dict[str, Tensor]:
    """Float32 weights on the CPU for every parameter of the method's module."""
    return {
        name: draw_weight(seed, name, parameter.shape, method.init_distribution(name, parameter.shape))
        for name, parameter in method.module.named_parameters()
    }


def draw_weight(seed: int, name: str, shape: torch.Size, distribution: InitDistribution) -> Tensor:
    """A parameter's initial value, drawn in chunks that fit a cache."""
    if distribution.kind == "constant":
        return torch.full(shape, distribution.scale, device="cpu")
    flat = torch.empty(shape.numel(), device="cpu")
    number = zlib.crc32((distribution.like or name).encode())
    for block in range(0, -(-len(flat) // 4), _BLOCKS_AT_ONCE):
        part = flat[4 * block : 4 * (block + _BLOCKS_AT_ONCE)]
        drawn = _words(seed, number, torch.arange(block, block - (-len(part) // 4)))
        values = _STANDARD[distribution.kind](drawn)
        part.copy_(distribution.scale * values[: len(part)])
    return flat.view(shape)


def _uniform(drawn: Tensor) -> Tensor:
    return 2 * uniform(drawn) - 1


def _normal(drawn: Tensor) -> Tensor:
    return normals(drawn, torch.float64)


def _truncated(drawn: Tensor) -> Tensor:
    """Normals within one standard deviation, by the inverse of their distribution at the middle of each 2^-24."""
    middle = ((drawn >> 8).double() + 0.5) * 2.0**-23 - 1
    return math.sqrt(2) * torch.erfinv(middle * math.erf(math.sqrt(0.5)))


_STANDARD = {"uniform": _uniform, "normal": _normal, "truncated": _truncated}


def _words(seed: int, number: int, blocks: Tensor) -> Tensor:
    none = torch.zeros_like(blocks)
    return torch.stack(philox((seed, int(Purpose.INIT)), (none + number, none, blocks, none)), 1).flatten()
