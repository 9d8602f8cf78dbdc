"""GMML: what is corrupted by what, and what the loss counts."""

from typing import Any

import numpy as np
import pytest
import torch

from gmml_cluster.methods.build import blank, build
from gmml_cluster.methods.gmml import ITSELF, NOISE, ZEROS, Gmml, default_taps
from tests.unit.methods.jobs import job, setting

CPU = torch.device("cpu")


def gmml(image_size: int = 16, **options: Any) -> Gmml:
    method = blank(setting({"name": "gmml", **options}, image_size=image_size))
    assert isinstance(method, Gmml)
    return method


def images(count: int, views: int = 2, size: int = 16) -> torch.Tensor:
    return torch.randn(count, views, 3, size, size, generator=torch.Generator().manual_seed(0))


def test_a_view_shows_one_kind_and_one_donor_as_released() -> None:
    source = gmml().draw(torch.arange(400), CPU, names=["source"])["source"]
    kinds = [set(view.unique().tolist()) - {ITSELF} for view in source.flatten(0, 1)]
    assert all(len(kind) == 1 for kind in kinds)
    assert {code for kind in kinds for code in kind} == {NOISE, 0, 1, 2, 3}


def test_the_paper_mixes_kinds_and_donors_on_the_patch_grid() -> None:
    drawn = gmml(64, preset="paper").draw(torch.arange(50), CPU, names=["source"])["source"].flatten(0, 1)
    cells = drawn.unfold(1, 4, 4).unfold(2, 4, 4).flatten(3)
    assert bool((cells == cells[..., :1]).all())
    kinds = [set(view.unique().tolist()) - {ITSELF} for view in drawn]
    assert np.mean([len(kind) > 2 for kind in kinds]) > 0.9, "several donors beside noise"


def test_the_paper_shows_the_rectangle_laid_last() -> None:
    method = gmml(32, preset="paper", align=1)
    first = gmml(32, preset="released", align=1, noise_ratio=0.70, alien_ratio=0.35)
    numbers = torch.arange(20)
    mixed, whole = (m.draw(numbers, CPU, names=["source"])["source"] for m in (method, first))
    assert torch.equal(mixed != ITSELF, whole != ITSELF), "the kinds change nothing of what is hidden"


@pytest.mark.parametrize("mixing", ["view", "rectangle"])
def test_an_image_is_its_own_donor_only_on_request(mixing: str) -> None:
    numbers = torch.arange(200)
    own = (numbers % 4)[:, None, None, None]
    for self_donor, expected in ((False, False), (True, True)):
        source = gmml(mixing=mixing, self_donor=self_donor).draw(numbers, CPU, names=["source"])["source"]
        assert bool((source == own).any()) is expected


@pytest.mark.parametrize(
    ("options", "codes"),
    [
        ({"noise_ratio": 0}, {0, 1, 2, 3}),
        ({"alien_ratio": 0}, {NOISE}),
        ({"fill": ["noise", "zeros"]}, {NOISE, ZEROS, 0, 1, 2, 3}),
        ({"fill": ["zeros"], "alien_ratio": 0}, {ZEROS}),
    ],
    ids=str,
)
@pytest.mark.parametrize("mixing", ["view", "rectangle"])
def test_what_is_off_is_never_shown(options: dict[str, Any], codes: set[int], mixing: str) -> None:
    drawn = gmml(mixing=mixing, **options).draw(torch.arange(100), CPU)
    assert set(drawn["source"].unique().tolist()) - {ITSELF} == codes
    assert ("noise" in drawn) == (NOISE in codes)


def test_corruption_copies_the_donors_clean_pixels_of_the_same_view() -> None:
    method, clean = gmml(), images(8)
    draws = method.draw(torch.arange(8), CPU)
    seen, source = method.corrupt(clean, draws).numpy(), draws["source"].numpy()
    for b, v, y, x in np.ndindex(8, 2, 16, 16):
        shown = source[b, v, y, x]
        if shown == NOISE:
            expected = draws["noise"][b, v, :, y, x]
        else:
            expected = clean[b if shown == ITSELF else b // 4 * 4 + shown, v, :, y, x]
        assert np.array_equal(seen[b, v, :, y, x], expected.numpy())


def test_draws_depend_on_the_number_alone() -> None:
    method = blank(setting({"name": "gmml"}, model={"drop_path": 0.1}))
    together = method.draw(torch.tensor([5, 8, 2**40]), CPU)
    for index, number in enumerate((5, 8, 2**40)):
        alone = method.draw(torch.tensor([number]), CPU)
        for name, value in together.items():
            assert torch.equal(value[index : index + 1], alone[name]), name


def test_groups_do_not_touch_each_other() -> None:
    method = build(job({"name": "gmml"}))
    clean, numbers = images(8), torch.arange(8)
    whole = method.loss(method.module, clean, method.draw(numbers, CPU))
    for group, part in enumerate((slice(0, 4), slice(4, 8))):
        alone = method.loss(method.module, clean[part], method.draw(numbers[part], CPU))
        torch.testing.assert_close(alone.groups[0], whole.groups[group])
        for name, pair in whole.scalars.items():
            torch.testing.assert_close(alone.scalars[name][0], pair[group])


def test_scalars_count_pixels_and_views() -> None:
    method = build(job({"name": "gmml"}))
    draws = method.draw(torch.arange(4), CPU)
    losses = method.loss(method.module, images(4), draws)
    source = draws["source"]
    counts = {name: int(pair[0, 1]) for name, pair in losses.scalars.items()}
    noisy, alien = int((source == NOISE).sum()), int((source >= 0).sum())
    assert counts == {"loss_noise": noisy, "loss_alien": alien, "masked": source.numel(), "short": 8}
    total = losses.scalars["loss_noise"][0, 0] + losses.scalars["loss_alien"][0, 0]
    torch.testing.assert_close(total / (noisy + alien), losses.groups[0])
    assert losses.scalars["masked"][0, 0] == noisy + alien


def test_the_loss_counts_all_pixels_on_request() -> None:
    method = build(job({"name": "gmml", "masked_only": False, "views": 1}))
    clean = images(4, views=1)
    losses = method.loss(method.module, clean, method.draw(torch.arange(4), CPU))
    torch.testing.assert_close(losses.groups[0], (losses.outputs["prediction"] - clean).abs().mean())


@pytest.mark.parametrize("preset", ["released", "paper"])
def test_every_parameter_is_trained_by_every_micro_batch(preset: str) -> None:
    method = build(job({"name": "gmml", "preset": preset}, image_size=32))
    method.loss(method.module, images(4, size=32), method.draw(torch.arange(4), CPU)).groups.sum().backward()
    assert all(parameter.grad is not None for parameter in method.module.parameters())


@pytest.mark.parametrize(
    ("depth", "taps"),
    [
        (1, (1,)),
        (2, (1, 2)),
        (4, (2, 3, 4)),
        (6, (3, 4, 5, 6)),
        (12, (6, 8, 10, 12)),
        (24, (12, 16, 20, 24)),
        (32, (16, 21, 27, 32)),
    ],
)
def test_taps_are_at_the_relative_depths(depth: int, taps: tuple[int, ...]) -> None:
    assert default_taps(depth) == taps
