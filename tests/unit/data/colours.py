"""Colour jitter of one image, pixel by pixel, with the standard library's `colorsys`."""

import colorsys
from itertools import permutations

import numpy as np

from gmml_cluster.data.random import philox
from gmml_cluster.spec.augment import Jitter


def adjusted(pixels: np.ndarray, w: np.ndarray, spec: Jitter) -> np.ndarray:
    """Jitter an image (side, side, 3) in [0, 1] by its words: on, order, four factors."""
    u = philox.uniform(w).astype(float)
    strengths = (spec.brightness, spec.contrast, spec.saturation)
    brightness, contrast, saturation = (1 - s + 2 * s * u[2 + k] for k, s in enumerate(strengths))
    turn, weights = spec.hue * (2 * u[5] - 1), np.array([0.2989, 0.587, 0.114])

    def hue(pixel: np.ndarray) -> tuple[float, float, float]:
        h, s, v = colorsys.rgb_to_hsv(*pixel)
        return colorsys.hsv_to_rgb((h + turn) % 1, s, v)

    operations = (
        lambda x: np.clip(brightness * x, 0, 1),
        lambda x: np.clip(contrast * x + (1 - contrast) * (x @ weights).mean(), 0, 1),
        lambda x: np.clip(saturation * x + (1 - saturation) * (x @ weights)[..., None], 0, 1),
        lambda x: np.apply_along_axis(hue, 2, x),
    )
    if not philox.bernoulli(w, spec.probability)[0]:
        return pixels
    for index in list(permutations(range(4)))[int(philox.integer(w, 24)[1])]:
        pixels = operations[index](pixels)
    return pixels
