"""Patches augmented all at once against one patch at a time: colours by `colorsys`, resizing by torch's own."""

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from gmml_cluster.data.augment import prepare
from gmml_cluster.data.patches import from_patches, mega_lines, mega_patches, to_patches
from gmml_cluster.data.random import philox
from gmml_cluster.spec.augment import AUGMENTS, NORMALISATIONS, Augment, Mega, Normalise, PatchAugment, PatchJitter
from tests.fixtures.tolerances import ULP
from tests.unit.data.colours import adjusted

PLAIN = Normalise(mean=(0, 0, 0), std=(1, 1, 1))
SEED, COUNT, SIDE, PATCH = 11, 6, 16, 4
GREY = np.array([0.2989, 0.587, 0.114])


def images(count: int = COUNT, views: int = 2, side: int = SIDE) -> torch.Tensor:
    drawn = np.random.default_rng(0).integers(0, 256, (count, views, 3, side, side), dtype=np.uint8)
    return torch.from_numpy(drawn)


def made(augment: Augment, pixels: torch.Tensor, normalise: Normalise = PLAIN, patch: int = PATCH) -> torch.Tensor:
    numbers = torch.arange(len(pixels))
    return prepare(pixels, numbers, seed=SEED, augment=augment, normalise=normalise, patch_size=patch)


def words(number: int, view: int, patch: int) -> np.ndarray:
    return philox.words(SEED, 42, np.array([number]), 12 * (patch + 1), view)[0, 12 * patch :]


def single(pixels: np.ndarray, w: np.ndarray, spec: PatchAugment) -> np.ndarray:
    """One patch (p, p, 3) cropped, jittered and made grey."""
    p = len(pixels)
    crop = round(p / spec.crop)
    top, left = (int(philox.integer(w, p - crop + 1)[k]) for k in (0, 1))
    cut = torch.from_numpy(pixels[top : top + crop, left : left + crop].transpose(2, 0, 1))[None]
    pixels = interpolate(cut, (p, p), mode="bilinear", align_corners=False)[0].numpy().transpose(1, 2, 0)
    if spec.jitter is not None:
        pixels = adjusted(pixels, w[2:], spec.jitter)
    return np.repeat((pixels @ GREY)[..., None], 3, 2) if philox.bernoulli(w, spec.grey)[8] else pixels


@pytest.mark.parametrize("patch", [4, 8, 16])
def test_each_patch_is_augmented_by_its_own_draws(patch: int) -> None:
    spec, pixels = PatchAugment(), images(side=16)
    found = made(Augment(patches=spec), pixels, patch=patch).numpy()
    grid = 16 // patch
    for number, view, q in np.ndindex(COUNT, 2, grid**2):
        rows, columns = (slice(at * patch, (at + 1) * patch) for at in divmod(q, grid))
        clean = pixels[number, view, :, rows, columns].numpy().transpose(1, 2, 0) / 255
        expected = single(clean, words(number, view, q), spec).transpose(2, 0, 1)
        np.testing.assert_allclose(found[number, view, :, rows, columns], expected, rtol=0, atol=64 * ULP)


@pytest.mark.parametrize(("patch", "crop"), [(4, 3), (8, 7), (16, 14), (32, 28)])
def test_the_crop_of_a_patch_has_the_released_side(patch: int, crop: int) -> None:
    ramp = (torch.arange(patch) * 255 // patch).to(torch.uint8).expand(200, 1, 3, patch, patch)
    found = made(Augment(patches=PatchAugment(jitter=None, grey=0)), ramp.contiguous(), patch=patch)
    firsts = {round(float(value) * 255) for value in found[:, 0, 0, 0, 0]}
    assert firsts == {int(value) for value in ramp[0, 0, 0, 0, : patch - crop + 1]}


def test_patches_keep_their_place_and_equal_ones_come_out_different() -> None:
    pixels = torch.full((4, 1, 3, SIDE, SIDE), 90, dtype=torch.uint8)
    pixels[:, :, 0] = torch.arange(SIDE).mul(10)
    found = to_patches(made(Augment(patches=PatchAugment(jitter=None, grey=0)), pixels)[:, 0], PATCH)
    means = found.view(4, 4, 4, 3, PATCH, PATCH)[:, :, :, 0].mean((3, 4))
    assert (means.diff(dim=2) > 0).all()
    equal = made(Augment(patches=PatchAugment()), torch.full_like(pixels, 90))[:, 0]
    assert len(to_patches(equal, PATCH).flatten(1).unique(dim=0)) > 4 * 16 * 0.7


def test_colours_may_be_changed_after_normalisation_and_are_then_cut() -> None:
    imagenet, always = NORMALISATIONS["imagenet"], PatchJitter(probability=1)
    spec = PatchAugment(crop=1, jitter=always, grey=0)
    before, after = (
        made(Augment(patches=spec.model_copy(update={"after_normalise": late})), images(), imagenet)
        for late in (False, True)
    )
    assert (float(after.min()), float(after.max())) == (0, 1)
    assert float(before.min()) < -1
    normalised = made(Augment(), images(), imagenet)
    off = made(Augment(patches=PatchAugment(crop=1, jitter=None, grey=0, after_normalise=True)), images(), imagenet)
    assert torch.equal(off, normalised)


def test_shares_of_jittered_and_grey_patches_are_as_written() -> None:
    pixels = images(40, side=32)
    clean = to_patches(pixels[:, 0].float() / 255, PATCH)
    count = len(clean)
    only_jitter = to_patches(made(Augment(patches=PatchAugment(crop=1, grey=0)), pixels)[:, 0], PATCH)
    only_grey = to_patches(made(Augment(patches=PatchAugment(crop=1, jitter=None)), pixels)[:, 0], PATCH)
    for found, share in ((only_jitter, 0.8), (only_grey, 0.2)):
        changed = (found != clean).flatten(1).any(1).double().mean()
        assert abs(float(changed) - share) < 4 * (share * (1 - share) / count) ** 0.5


def test_patches_are_put_back_where_they_were() -> None:
    pixels = images(2, 1, 32).flatten(0, 1)
    assert torch.equal(from_patches(to_patches(pixels, 8), 32), pixels)


def test_mega_lines_are_the_reference_and_all_partitions_are_equally_likely() -> None:
    assert mega_lines(7, torch.tensor([0]), 6, 4).tolist() == [[2, 3, 5, 6]]
    drawn = mega_lines(3, torch.arange(3000), 6, 4)
    kinds, counts = drawn.unique(dim=0, return_counts=True)
    assert len(kinds) == 15
    assert (counts - 200).abs().max() < 5 * (200 * 14 / 15) ** 0.5
    assert len(mega_lines(3, torch.arange(200), 6, 5).unique(dim=0)) == 6


@pytest.mark.parametrize("own_columns", [False, True])
def test_mega_patches_are_blocks_resized_to_a_patch(own_columns: bool) -> None:
    numbers, spec = torch.arange(5), Mega(blocks=4, own_columns=own_columns)
    pixels = images(5, 1, 28).double()
    found = mega_patches(pixels, numbers, seed=SEED, spec=spec, p=4)
    assert found.shape == (5, 1, 3, 16, 16)
    for n in range(5):
        rows, columns = (mega_lines(SEED, numbers[n : n + 1], 6, 3, stream=s)[0] for s in (0, int(own_columns)))
        rows, columns = ([0, *lines.tolist(), 7] for lines in (rows, columns))
        for i, j in np.ndindex(4, 4):
            block = pixels[n, :, :, 4 * rows[i] : 4 * rows[i + 1], 4 * columns[j] : 4 * columns[j + 1]]
            expected = interpolate(block, (4, 4), mode="bilinear", align_corners=False)[0]
            cell = found[n, 0, :, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4]
            np.testing.assert_allclose(cell, expected, rtol=0, atol=1e-10)


def test_rows_and_columns_are_cut_alike_unless_columns_draw_their_own() -> None:
    numbers = torch.arange(50)
    rows, own = (mega_lines(SEED, numbers, 6, 4, stream=stream) for stream in (0, 1))
    assert (rows != own).any(1).sum() > 30


def test_a_patch_looks_the_same_in_any_batch() -> None:
    spec = Augment(mega=Mega(blocks=3), patches=PatchAugment())
    pixels = images(8)
    whole = made(spec, pixels)
    numbers = torch.arange(4, 8)
    alone = prepare(pixels[4:], numbers, seed=SEED, augment=spec, normalise=PLAIN, patch_size=PATCH)
    np.testing.assert_allclose(alone, whole[4:], rtol=0, atol=16 * ULP)


def test_the_preset_is_the_released_recipe() -> None:
    augment = AUGMENTS["relvit"]
    assert augment.crop is not None
    assert augment.patches is not None
    assert augment.patches.jitter is not None
    assert (augment.crop.scale, augment.crop.ratio, augment.flip) == ((0.08, 1.0), (0.75, 4 / 3), True)
    assert augment.patches.jitter.model_dump() == {
        "probability": 0.8,
        "brightness": 0.4,
        "contrast": 0.4,
        "saturation": 0.4,
        "hue": 0.1,
    }
    assert (augment.patches.crop, augment.patches.grey) == (1.15, 0.2)
