"""Draws of the device against the host's: integers equal bit for bit, normals to 2 ulp (docs/reference/draws.md)."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.gpu_check.result import Result, Setting, verdict
from gmml_cluster.data.random import philox, philox_torch
from gmml_cluster.data.random.philox import Purpose
from gmml_cluster.data.random.philox_torch import normals
from gmml_cluster.data.reader.crop import draw_crops
from gmml_cluster.methods.build import blank
from gmml_cluster.methods.drawing import token_order
from gmml_cluster.methods.protocol import Setting as MethodSetting
from gmml_cluster.spec.augment import Crop
from gmml_cluster.spec.loading.validate import parse_job

_SEEDS = (0, 7, 2**32 - 1)
_RANGES = (1, 2, 24, 197, 224, 2**31)
_MOST_ULPS = 2
Pair = tuple[str, "Tensor | NDArray[np.generic]", Tensor]
"""Name, the host's values, the device's."""


def draws(variant: str, setting: Setting) -> Result:
    """`integers` or `normals`."""
    device, count = torch.device(setting.device), 16 if setting.quick else 128
    return _integers(device, count) if variant == "integers" else _normals(device, count)


def _integers(device: torch.device, count: int) -> Result:
    compared, differing = 0, []
    for name, host, found in _pairs(device, count):
        expected = torch.as_tensor(host if isinstance(host, Tensor) else np.asarray(host, np.int64)).long()
        compared += expected.numel()
        if not torch.equal(expected, found.cpu().long()):
            differing.append(f"{name}: {int((expected != found.cpu().long()).sum())} of {expected.numel()} differ")
    return verdict(differing, {"values_compared": compared})


def _pairs(device: torch.device, count: int) -> Iterator[Pair]:
    numbers = np.concatenate([np.arange(count), 2**33 + 7 * np.arange(count), 2**52 - 1 - np.arange(count)])
    on_device = torch.from_numpy(numbers).to(device)
    for seed in _SEEDS:
        for purpose in (Purpose.CROP, Purpose.FLIP, Purpose.RECTANGLES, Purpose.NOISE):
            name = f"{purpose.name} of seed {seed}"
            words = philox.words(seed, purpose, numbers, 43, stream=1)
            found = philox_torch.words(seed, purpose, on_device, 43, stream=1)
            yield f"words for {name}", words, found
            viewed = philox_torch.view_words(seed, on_device, 2, {Purpose.COLOUR: 9, purpose: 43})
            yield f"words of view 1 for {name}", words, viewed[purpose][:, 1]
            for m in _RANGES:
                yield f"integers below {m} for {name}", philox.integer(words, m), philox_torch.integer(found, m)
            for q in (0.1, 0.5, 0.999):
                yield f"{q} for {name}", philox.bernoulli(words, q), philox_torch.bernoulli(found, q)
    yield from _crops(numbers, on_device)
    yield from _masks(numbers, device)


def _crops(numbers: NDArray[np.int64], on_device: Tensor) -> Iterator[Pair]:
    """First rows and columns of crops: boxes are computed on the host in float64, from these random bits."""
    crops = draw_crops(7, numbers, 2, Crop())
    tries = philox_torch.view_words(7, on_device, 2, {Purpose.CROP: 40})[Purpose.CROP].view(len(numbers), 2, 10, 4)
    for index, (name, bits) in enumerate([("row", crops.top), ("column", crops.left)], start=2):
        yield f"random bits of a crop's {name}", bits, tries[..., index]
        yield f"a crop's {name}", philox.integer(bits, 113), philox_torch.integer(tries[..., index], 113)


def _masks(numbers: NDArray[np.int64], device: torch.device) -> Iterator[Pair]:
    """GMML's masks and donors, in both ways of mixing, and the order of MAE's tokens."""
    host = torch.from_numpy(numbers[: len(numbers) // 8 * 8])
    for mixing in ("view", "rectangle"):
        job = parse_job(
            {
                "name": "draws",
                "model": {"size": "small"},
                "method": {"name": "gmml", "views": 2, "mixing": mixing},
                "data": {"corpora": [{"url": "/none"}], "image_size": 64},
                "batch": {"size": 8},
                "run": {"steps": 1},
            }
        )
        method = blank(MethodSetting.of(job))
        expected, found = method.draw(host, torch.device("cpu")), method.draw(host.to(device), device)
        for name in ("source", "short"):
            yield f"GMML's {name}, mixing by {mixing}", expected[name], found[name]
    yield "order of tokens", token_order(7, host, 196), token_order(7, host.to(device), 196)


def _normals(device: torch.device, count: int) -> Result:
    """Largest distance in units in the last place; on a CPU both are the same code."""
    words = philox_torch.words(7, Purpose.NOISE, torch.arange(4 * count), 3 * 64 * 64)
    expected, found = normals(words), normals(words.to(device)).cpu()
    distance = (_ordered(expected) - _ordered(found)).abs()
    most = int(distance.max())
    beyond = int((distance > _MOST_ULPS).sum())
    problems = [f"{beyond} of {distance.numel()} are more than {_MOST_ULPS} ulp apart"] if beyond else []
    figures = {"values_compared": distance.numel(), "most_ulps": most}
    return verdict(problems, {**figures, "share_that_differs": float((distance > 0).double().mean())})


def _ordered(values: Tensor) -> Tensor:
    """Float32 as integers in the order of their values, neighbours 1 apart."""
    bits = values.view(torch.int32).long()
    return torch.where(bits < 0, -(bits & 0x7FFFFFFF), bits)
