"""ConMIM in numpy float64, one image and one masked token at a time; shares no code with the method."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from tests.golden.simmim_oracle import Model, State, encoded


@dataclass(frozen=True)
class Reading:
    """How the description is read; the defaults are right, each other value is a mistake that it names."""

    strong_is_masked: bool = False
    over: int | None = None
    """Images whose rows are normed together and whose tokens are averaged; None: a group's."""
    freedom: int = 0
    """Subtracted from the number of rows in the variance."""
    class_rows: bool = True
    mean_of_images: bool = False


@dataclass
class Found:
    """Of one group: its loss, and of each masked token in order what the metrics are means of."""

    loss: float
    positive: list[float] = field(default_factory=list)
    negative: list[float] = field(default_factory=list)
    top1: list[float] = field(default_factory=list)
    key_std: float = 0.0


def batch_norm(rows: np.ndarray, freedom: int) -> np.ndarray:
    centred = rows - rows.sum(0) / len(rows)
    return centred / np.sqrt((centred**2).sum(0) / (len(rows) - freedom) + 1e-5)


def projected(tokens: list[np.ndarray], state: State, reading: Reading) -> list[np.ndarray]:
    """Unit vectors (N, K) of the patches of each image; tokens (1 + N, D) of the images that are normed together."""
    first = 0 if reading.class_rows else 1
    x = np.concatenate([of_image[first:] for of_image in tokens])
    for layer, norm in ((0, 1), (3, 4)):
        x = batch_norm(x @ state[f"projector.{layer}.weight"].T, reading.freedom)
        x = np.maximum(x * state[f"projector.{norm}.weight"] + state[f"projector.{norm}.bias"], 0)
    x = batch_norm(x @ state["projector.6.weight"].T, reading.freedom)
    x = x / np.maximum(np.sqrt((x**2).sum(1, keepdims=True)), 1e-12)
    return [part[1 - first :] for part in np.split(x, len(tokens))]


def queries_and_keys(
    images: np.ndarray, masks: np.ndarray, state: State, model: Model, group: int, reading: Reading
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Of each image; images (B, 2, 3, S, S), weak and strong."""
    teacher = {name.removeprefix("teacher."): value for name, value in state.items() if name.startswith("teacher.")}
    ones, none = np.ones((model["depth"], 2)), np.zeros(masks.shape[1], bool)
    masked, whole = (1, 0) if reading.strong_is_masked else (0, 1)
    seen = [encoded(image[masked], state, model, mask, ones) for image, mask in zip(images, masks, strict=True)]
    full = [encoded(image[whole], teacher, model, none, ones) for image in images]
    queries, keys = [], []
    for begin in range(0, len(images), group):
        queries += projected(seen[begin : begin + group], state, reading)
        keys += projected(full[begin : begin + group], teacher, reading)
    return queries, keys


def group_results(
    images: np.ndarray,
    masks: np.ndarray,
    state: State,
    model: Model,
    *,
    group: int,
    temperature: float,
    reading: Reading | None = None,
) -> list[Found]:
    """Of each group of images (B, 2, 3, S, S) with masks (B, N)."""
    reading = reading or Reading()
    group = reading.over or group
    queries, keys = queries_and_keys(images, masks, state, model, group, reading)
    results = []
    for begin in range(0, len(images), group):
        found = Found(0.0)
        losses: list[list[float]] = []
        for image in range(begin, begin + group):
            losses.append([])
            for j in np.flatnonzero(masks[image]):
                cosines = [float(queries[image][j] @ key) for key in keys[image]]
                whole = sum(math.exp(cosine / temperature) for cosine in cosines)
                losses[-1].append(-math.log(math.exp(cosines[j] / temperature) / whole))
                others = cosines[:j] + cosines[j + 1 :]
                found.positive.append(cosines[j])
                found.negative.append(sum(others) / len(others))
                found.top1.append(float(cosines[j] >= max(others)))
        means = [sum(some) / len(some) for some in losses if some]
        mean = sum(map(sum, losses)) / sum(map(len, losses))
        found.loss = sum(means) / len(means) if reading.mean_of_images else mean
        found.key_std = float(np.concatenate(keys[begin : begin + group]).std(0).mean())
        results.append(found)
    return results


WRONG: Mapping[str, tuple[Reading, float]] = {
    "views swapped": (Reading(strong_is_masked=True), 4.014742),
    "batch norm and mean over all 8 images": (Reading(over=8), 3.818496),
    "unbiased variance": (Reading(freedom=1), 3.758291),
    "no rows of class tokens": (Reading(class_rows=False), 3.730418),
    "mean of the images' means": (Reading(mean_of_images=True), 3.756291),
}
"""Readings that are wrong, and the loss of group 0 of the reference case under each, computed apart from this code."""
