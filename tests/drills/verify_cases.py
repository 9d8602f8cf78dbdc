"""What a random configuration of a method is made of, for `test_verify`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from gmml_cluster.methods.build import blank
from gmml_cluster.methods.reference import _setting

State = dict[str, np.ndarray]
Rng = np.random.Generator
VISIBLE, MASKED, THROWN = 0, 1, 2


@dataclass(frozen=True)
class Case:
    """What `verify` is asked, and what it has to answer.

    Attributes:
        losses: of each group, by an oracle of the weights.
        in_targets: beginnings of the names of trained weights on which targets depend too, which have no gradient.
        tolerance: relative, of the losses.
    """

    spec: dict[str, Any]
    pixels: np.ndarray
    draws: dict[str, np.ndarray]
    losses: Callable[[State], list[float]]
    in_targets: tuple[str, ...] = ()
    tolerance: float = 1e-9


def between(rng: Rng, least: int, most: int) -> int:
    return int(rng.integers(least, most + 1))


def flag(rng: Rng) -> bool:
    return bool(rng.integers(2))


def model_of(rng: Rng, *, drops: bool = False, head: int | None = None) -> dict[str, Any]:
    """A small encoder; `head` is the width of a head, and random where it is None."""
    width, grid, patch = 4 * between(rng, 1, 6), between(rng, 2, 4), between(rng, 1, 4)
    heads = int(rng.choice([number for number in (1, 2, 3, 4) if width % number == 0]))
    if head is not None:
        heads = between(rng, 1, 3)
        width = heads * head
    shape = {"width": width, "depth": between(rng, 1, 3), "heads": heads, "patch_size": patch}
    ratio, rate = float(rng.choice([1, 1.75, 2, 4])), float(rng.choice([0, 0.1])) if drops else 0.0
    return {**shape, "image_size": patch * grid, "mlp_ratio": ratio, "drop_path": rate}


def grid_of(model: dict[str, Any]) -> int:
    return int(model["image_size"] // model["patch_size"])


def spec_of(rng: Rng, model: dict[str, Any], method: dict[str, Any], least: int = 1) -> tuple[dict[str, Any], int]:
    """A specification, and how many images it is asked for: one to three groups."""
    group = between(rng, least, 4)
    spec = {"model": model, "method": method, "data": {"group": group}, "seed": between(rng, 0, 10**6)}
    return spec, group * between(rng, 1, 3)


def pixels_of(rng: Rng, count: int, views: int, model: dict[str, Any]) -> np.ndarray:
    size = model["image_size"]
    return 1.2 * rng.standard_normal((count, views, 3, size, size))


def drop_of(rng: Rng, count: int, views: int, blocks: int) -> np.ndarray:
    """Multipliers of branches; any numbers are taken."""
    return rng.choice([0.0, 1.0, 1.25], (count, views, blocks, 2))


def even_mask(rng: Rng, count: int, patches: int) -> np.ndarray:
    """Equally many true of each image, neither none nor all."""
    order = np.argsort(np.argsort(rng.random((count, patches)), 1), 1)
    return np.asarray(order < between(rng, 1, patches - 1))


def roles_of(rng: Rng, *shape: int) -> np.ndarray:
    """Equally many of each role in each row, some masked and some visible."""
    patches = shape[-1]
    masked = between(rng, 1, patches - 1)
    thrown = between(rng, 0, patches - masked - 1)
    order = np.argsort(np.argsort(rng.random(shape), -1), -1)
    return np.where(order < masked, MASKED, np.where(order < masked + thrown, THROWN, VISIBLE)).astype(np.uint8)


def weights_of(rng: Rng, spec: dict[str, Any]) -> tuple[State, list[str]]:
    """Weights far from any start, and the names of those that are trained."""
    named = dict(blank(_setting(spec, spec["data"]["group"])).module.named_parameters())
    weights = {name: 0.5 * rng.standard_normal(tuple(parameter.shape)) for name, parameter in named.items()}
    return weights, [name for name, parameter in named.items() if parameter.requires_grad]


def by_group(values: list[float], group: int) -> list[float]:
    return [float(np.mean(values[first : first + group])) for first in range(0, len(values), group)]


def in_groups(count: int, group: int) -> Iterator[range]:
    return (range(first, first + group) for first in range(0, count, group))
