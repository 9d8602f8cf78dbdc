"""The call for verification refuses what does not fit, by name, and draws what is absent."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gmml_cluster.errors import SpecError
from gmml_cluster.methods import reference
from gmml_cluster.methods.build import build
from gmml_cluster.spec.methods.registry import plug_ins
from tests.fixtures.plugins import install
from tests.unit.methods.jobs import job

MODEL = {"width": 16, "depth": 4, "heads": 2, "patch_size": 4, "image_size": 16, "mlp_ratio": 4, "drop_path": 0.1}
GMML = {"model": MODEL, "method": {"name": "gmml", "amt": False}, "data": {"group": 4}, "seed": 3}
SMALL_MAE = {"name": "mae", "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}
MAE = {**GMML, "model": {**MODEL, "drop_path": 0}, "method": SMALL_MAE}
SPECS = {"gmml": GMML, "mae": MAE}


def state(name: str) -> dict[str, np.ndarray]:
    """Initial weights, moved so far that everything shows in the loss."""
    built, moves = build(job(SMALL_MAE if name == "mae" else {"name": name})), np.random.default_rng(1)
    return {
        key: value.numpy() + moves.normal(0, 0.2, tuple(value.shape)).astype(np.float32)
        for key, value in built.module.state_dict().items()
    }


def images(views: int = 2, count: int = 8) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, views, 3, 16, 16)).astype(np.float32)


def faults(call: Any) -> str:
    with pytest.raises(SpecError) as error:
        call()
    return str(error.value)


@pytest.mark.parametrize(("name", "views"), [("gmml", 2), ("mae", 1)])
def test_what_is_absent_is_drawn_for_the_numbers_from_first(name: str, views: int) -> None:
    spec, weights, pixels = SPECS[name], state(name), images(views)
    drawn = {key: value for key, value in reference.draw(spec, range(16, 24)).items() if key != "keep"}
    given = reference.verify(spec, weights, pixels, drawn)
    made = reference.verify(spec, weights, pixels, {"first": 16})
    other = reference.verify(spec, weights, pixels, {"first": 24})
    assert np.array_equal(given.losses, made.losses)
    assert not np.array_equal(given.losses, other.losses)
    assert made["losses"] is made.losses


def test_a_given_source_is_not_called_short_for_the_views_of_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gmml_cluster.methods.masks.gmml_rectangles.CANDIDATES", 48)
    monkeypatch.setattr("gmml_cluster.methods.masks.gmml_rectangles.WORDS", 4 * 48)
    monkeypatch.setattr("gmml_cluster.methods.masks.gmml_rectangles._BITS", 6)
    weights, source = state("gmml"), np.full((8, 2, 16, 16), -2, np.int16)
    result = reference.verify(GMML, weights, images(), {"first": 0, "source": source})
    assert result.scalars["short"][:, 0].sum() == 0


def test_without_drop_and_first_no_branch_is_dropped() -> None:
    drawn = reference.draw(GMML, range(8), names=["source", "noise"])
    ones = {**drawn, "drop": np.ones((8, 2, 4, 2))}
    weights = state("gmml")
    absent, present, first = (reference.verify(GMML, weights, images(), d).losses for d in (drawn, ones, {"first": 0}))
    assert np.array_equal(absent, present)
    assert not np.array_equal(absent, first)


@pytest.mark.parametrize(("name", "views"), [("gmml", 2), ("mae", 1)])
def test_runs_in_every_type(name: str, views: int) -> None:
    weights = state(name)
    results = {d: reference.verify(SPECS[name], weights, images(views), {"first": 0}, dtype=d) for d in reference.TYPES}
    assert results["float64"].losses.dtype == np.float64
    assert results["float32"].losses == pytest.approx(results["float64"].losses, rel=1e-5)
    assert results["bf16"].losses == pytest.approx(results["float64"].losses, rel=0.03)
    assert not np.array_equal(results["bf16"].losses, results["float32"].losses)


def test_gradients_are_of_the_mean_loss() -> None:
    weights, step = {key: value.astype(np.float64) for key, value in state("gmml").items()}, 1e-5
    found = reference.verify(GMML, weights, images(), {"first": 0}, dtype="float64", gradients=["encoder.norm.weight"])
    gradient = found.gradients["encoder.norm.weight"]
    assert gradient is not None
    means = []
    for sign in (1, -1):
        moved = {**weights, "encoder.norm.weight": weights["encoder.norm.weight"] + sign * step * np.eye(16)[3]}
        means.append(reference.verify(GMML, moved, images(), {"first": 0}, dtype="float64").losses.mean())
    assert gradient[3] == pytest.approx((means[0] - means[1]) / (2 * step), rel=1e-6)


def test_a_group_left_out_or_auto_is_the_advised_one() -> None:
    weights, pixels = state("gmml"), images(count=16)
    explicit = {**GMML, "data": {"group": 8}}
    for data in ({}, {"group": "auto"}):
        losses = reference.verify({**GMML, "data": data}, weights, pixels, {"first": 0}).losses
        assert np.array_equal(losses, reference.verify(explicit, weights, pixels, {"first": 0}).losses)


@pytest.mark.parametrize(("count", "group"), [(64, 64), (128, 64), (8, 8), (12, 12)])
def test_without_a_group_it_is_the_largest_up_to_the_advised_that_divides_the_images(count: int, group: int) -> None:
    method, still = {"name": "conmim", "projector": [8, 8, 4]}, {**MODEL, "depth": 1, "drop_path": 0}
    spec = {"model": still, "method": method, "seed": 3}
    built = build(job(method, model={"depth": 1, "drop_path": 0}))
    weights = {key: value.numpy() for key, value in built.module.state_dict().items()}
    assert len(reference.verify(spec, weights, images(count=count), {"first": 0}).losses) == count // group


def test_verification_leaves_torchs_generator_alone() -> None:
    before = torch.get_rng_state()
    reference.verify(GMML, state("gmml"), images(), {"first": 0})
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": {"name": "nobodys"}}, "method.name: 'nobodys' does not fit; write 'gmml', 'mae', "),
        ({"method": {"name": "relvit", "amt": True}}, "method.amt: an option of gmml, mae, simmim, conmim alone"),
        ({"method": {"name": "gmml", "noise": 1}}, "method.noise: unknown key"),
        ({"model": {**MODEL, "heads": 3}}, "model.heads: 3 heads do not divide the width of 16"),
        ({"model": {**MODEL, "image_size": 18}}, "data.image_size: 18 is no multiple of the patch of 4"),
        ({"method": {"name": "gmml", "align": 4}}, "method.align: 192 rectangles of sides below 4 pixels"),
        ({"method": {"name": "gmml", "taps": [2, 3]}}, "method.taps: [2, 3] does not fit"),
        ({"method": {"name": "mae"}}, "model.drop_path: 0.1 does not fit; MAE drops no blocks"),
        ({"sede": 1}, "sede: unknown key; did you mean 'seed'?"),
    ],
    ids=str,
)
def test_a_faulty_spec_is_refused_by_field(changes: dict[str, Any], message: str) -> None:
    assert message in faults(lambda: reference.draw({**GMML, **changes}, [0]))


def test_missing_and_extra_parameters_are_listed_in_one_fault() -> None:
    weights = state("gmml")
    weights["encoder.norm.weights"] = weights.pop("encoder.norm.weight")
    weights["encoder.norm.bias"] = np.zeros(15)
    message = faults(lambda: reference.verify(GMML, weights, images(), {"first": 0}))
    assert "missing ['encoder.norm.weight'], extra ['encoder.norm.weights']" in message
    assert "encoder.norm.bias of shape (15,), not (16,)" in message


@pytest.mark.parametrize("shape", [(8, 1, 3, 16, 16), (6, 2, 3, 16, 16), (0, 2, 3, 16, 16), (8, 2, 3, 32, 32), (8,)])
def test_images_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    message = faults(lambda: reference.verify(GMML, state("gmml"), np.zeros(shape), {"first": 0}))
    assert message.startswith(f"images: shape {shape}; (B, 2, 3, 16, 16) is required, B a multiple of the group of 4")


@pytest.mark.parametrize(
    ("draws", "message"),
    [
        ({}, "draws.source: absent, and so is `first`"),
        ({"source": np.full((8, 2, 16, 16), -2)}, "draws.noise: absent"),
        (
            {"source": np.full((8, 2, 16, 16), 4)},
            "draws.source: holds 4 to 4; codes are -3 to -1, indices of the group 0 to 3",
        ),
        ({"source": np.zeros((8, 2, 16))}, "draws.source: shape (8, 2, 16); it is (8, 2, 16, 16)"),
        ({"first": 0, "mask": np.zeros((8, 16))}, "draws.mask: unknown; known are source, noise, drop"),
        ({"first": 2}, "draws.first: 2; groups of 4 begin at its multiples"),
    ],
    ids=str,
)
def test_faulty_draws_are_refused_by_name(draws: dict[str, Any], message: str) -> None:
    assert message in faults(lambda: reference.verify(GMML, state("gmml"), images(), draws))


def test_a_method_without_accept_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(install(tmp_path)))
    setting = replace(reference._setting(MAE), options=plug_ins()[0](name="theirs"))  # type: ignore[arg-type]
    assert "method.name: 'theirs' has no `accept`" in faults(lambda: reference._verifiable(setting))
    for name in [name for name in sys.modules if name.partition(".")[0] == "theirs"]:
        del sys.modules[name]


def test_masks_of_unequal_counts_are_refused() -> None:
    mask = np.zeros((8, 16), bool)
    mask[:, 0] = mask[3, 5] = True
    message = faults(lambda: reference.verify(MAE, state("mae"), images(1), {"mask": mask}))
    assert message.startswith("draws.mask: removes [1, 2] patches; all images lose the same number")


def test_an_unknown_gradient_is_refused() -> None:
    message = faults(lambda: reference.verify(GMML, state("gmml"), images(), {"first": 0}, gradients=["norm"]))
    assert message.startswith("gradients: ['norm']")
