"""Segmentation against a plain oracle, pixel by pixel in numpy, and against torch's interpolation."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from gmml_cluster.errors import SpecError
from gmml_cluster.methods import reference
from gmml_cluster.methods.build import blank
from gmml_cluster.methods.protocol import Setting
from gmml_cluster.methods.segmentation import upsampled
from gmml_cluster.spec.job import SIZES
from gmml_cluster.spec.methods.segmentation import mask_table
from tests.golden.test_methods import COUNT, GROUP, MODEL, SIZE, images, state
from tests.unit.methods import vit_oracle
from tests.unit.methods.jobs import job

CLASSES = 3


def spec_of(**options: Any) -> dict[str, Any]:
    method = {"name": "segmentation", "classes": CLASSES, **options}
    return {"model": {**MODEL, "drop_path": 0}, "data": {"group": GROUP}, "seed": 0, "method": method}


def masks(seed: int) -> Any:
    return np.random.default_rng(seed).choice([0, 1, 2, 255], (COUNT, SIZE, SIZE)).astype(np.uint8)


def oracle_pixel(maps: Any, row: int, column: int) -> Any:
    """The four cells around a pixel's centre, each weighted by its nearness."""
    grid = maps.shape[-1]
    at = [min(max((each + 0.5) * grid / SIZE - 0.5, 0), grid - 1) for each in (row, column)]
    low = [int(each) for each in at]
    high = [min(each + 1, grid - 1) for each in low]
    y, x = (each - first for each, first in zip(at, low, strict=True))
    upper = (1 - x) * maps[:, low[0], low[1]] + x * maps[:, low[0], high[1]]
    return (1 - y) * upper + y * ((1 - x) * maps[:, high[0], low[1]] + x * maps[:, high[0], high[1]])


def joined(weights: Any, image: Any, blocks: Sequence[int]) -> Any:
    """Patch tokens of an image behind each of the blocks, each normed, side by side."""
    shape = {"heads": 2, "patch": MODEL["patch_size"]}
    behind = [vit_oracle.tokens(weights, image, np.ones((block, 2)), **shape) for block in blocks]
    return np.concatenate([vit_oracle.norm(x, weights, "encoder.norm")[1:] for x in behind], 1)


def oracle(weights: Any, pixels: Any, mask: Any, *, frozen: bool, blocks: Sequence[int]) -> tuple[list[float], Any]:
    """Loss and hits of each group."""
    patch = MODEL["patch_size"]
    tokens = np.array([joined(weights, x, blocks) for x in pixels[:, 0]])
    losses, hits = [], []
    for first in range(0, COUNT, GROUP):
        own = tokens[first : first + GROUP]
        if frozen:
            flat = own.reshape(-1, own.shape[-1])
            own = (own - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-6)
        found, right = [], []
        for number, x in enumerate(own):
            logits = x @ weights["classifier.weight"].T + weights["classifier.bias"]
            maps = logits.T.reshape(CLASSES, SIZE // patch, SIZE // patch)
            for (row, column), label in np.ndenumerate(mask[first + number]):
                if label != 255:
                    scores = oracle_pixel(maps, row, column)
                    found.append(np.log(np.exp(scores).sum()) - scores[label])
                    right.append(scores.argmax() == label)
        losses.append(float(np.mean(found)))
        hits.append([sum(right), len(right)])
    return losses, np.array(hits)


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("blocks", [None, [1, MODEL["depth"]]])
def test_it_is_a_plain_oracles(frozen: bool, blocks: list[int] | None) -> None:
    spec = spec_of(frozen=frozen, blocks=blocks)
    random = np.random.default_rng(frozen)
    weights = {name: value + 0.1 * random.standard_normal(value.shape) for name, value in state(spec).items()}
    pixels, mask = images(1), masks(2)
    found = reference.verify(spec, weights, pixels, {"mask": mask}, dtype="float64", gradients=list(weights))
    losses, hits = oracle(weights, pixels, mask, frozen=frozen, blocks=blocks or [MODEL["depth"]])
    assert found.losses == pytest.approx(losses, rel=1e-9)
    assert np.array_equal(found.scalars["pixel_accuracy"], hits)
    trained = {name for name, gradient in found.gradients.items() if gradient is not None}
    head = {"classifier.weight", "classifier.bias"}
    # a frozen encoder gets none, and a trained one's class token has one by way of the attention
    assert trained == head if frozen else trained == set(weights)


def test_a_group_without_a_labelled_pixel_has_no_loss() -> None:
    spec, mask = spec_of(), masks(2)
    mask[:GROUP] = 255
    found = reference.verify(spec, state(spec), images(1), {"mask": mask}, gradients=["classifier.weight"])
    assert found.losses[0] == 0
    assert found.losses[1] > 0
    assert np.isfinite(found.gradients["classifier.weight"]).all()


def test_masks_with_other_values_are_refused() -> None:
    spec, mask = spec_of(), masks(2)
    mask[0, 0, 0] = CLASSES
    with pytest.raises(SpecError, match=r"draws\.mask: holds other values than the classes 0 to 2 and 255"):
        reference.verify(spec, state(spec), images(1), {"mask": mask})


@pytest.mark.parametrize(("height", "width"), [(8, 8), (32, 32), (19, 7), (4, 4), (3, 11)])
def test_upsampling_is_torchs(height: int, width: int) -> None:
    maps = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 3, 4, 4)))
    expected = F.interpolate(maps, (height, width), mode="bilinear", align_corners=False)
    assert torch.allclose(upsampled(maps, height, width), expected, atol=1e-12)


def test_a_table_says_what_each_value_means() -> None:
    assert mask_table(2, ignore=255, zero_ignored=False) == (0, 1, *[-1] * 253, 255)
    assert mask_table(2, ignore=None, zero_ignored=True) == (255, 0, 1, *[-1] * 253)


@pytest.mark.parametrize("size", ["small", "base", "large"])
@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("joined", [True, False])
def test_the_plan_counts_the_modules_parameters(size: str, frozen: bool, joined: bool) -> None:
    depth = SIZES[size]["depth"]
    blocks = [depth // 3, depth // 2, 2 * depth // 3, depth] if joined else None
    method = {"name": "segmentation", "classes": 150, "frozen": frozen, "blocks": blocks}
    found = job(method, image_size=224, model=SIZES[size], init={"run": "none"})
    parameters = list(blank(Setting.of(found)).module.parameters())
    counts = found.method.counts(found.model, 224)
    assert counts.trained == sum(each.numel() for each in parameters if each.requires_grad)
    assert counts.frozen == sum(each.numel() for each in parameters if not each.requires_grad)


def test_early_layers_of_a_trained_encoder_learn_more_slowly() -> None:
    method: Any = blank(Setting.of(job({"name": "segmentation", "classes": 2, "frozen": False}, init={"run": "none"})))
    names = ("encoder.pos_embed", "encoder.blocks.3.mlp.fc1.weight", "classifier.weight")
    assert [method.multipliers(name)[0] for name in names] == pytest.approx([0.65**5, 0.65, 1.0])
