"""AMT: reference losses, gradients and orders computed apart from this code, and what throwing means."""

from typing import Any

import numpy as np
import pytest
import torch

from gmml_cluster.errors import SpecError
from gmml_cluster.methods import draw, verify
from gmml_cluster.methods.build import blank
from gmml_cluster.methods.masks.attention import draw_roles, map_weights, weighted_order
from gmml_cluster.methods.reference import _setting
from gmml_cluster.spec.methods.amt import AmtOptions, MaeAmtOptions, Roles, cell_roles, token_roles
from gmml_cluster.spec.methods.simmim import SimmimOptions
from tests.golden import amt_oracle as oracle
from tests.golden.test_conmim import spec as conmim_spec
from tests.golden.test_methods import COUNT, FAR, GMML, MODEL, QKV, RAW, gmml_draws, images, state
from tests.golden.test_simmim import draws as simmim_draws
from tests.golden.test_simmim import parameter
from tests.golden.test_simmim import spec as simmim_spec

SPECS: dict[str, dict[str, Any]] = {
    "mae": {**RAW, "method": {**RAW["method"], "amt": True}},
    "simmim": simmim_spec(amt=True),
    "gmml": {**GMML, "method": {**GMML["method"], "amt": True}},
    "conmim": conmim_spec(amt=True),
}
EXPECTED = {
    "mae": ((2.438656500, 2.385019269), 2.702529913, 0.156591013),
    "simmim": ((1.038884680, 1.002302560), 0.837994596, 0.131061790),
    "gmml": ((0.766850267, 0.768311194), 0.100047469, 0.008363158),
    "conmim": ((3.243697221, 3.223938669), 11.419934701, 2.053564875),
}
VIEWS = {"mae": 1, "simmim": 1, "gmml": 2, "conmim": 2}
RAMP = (15 * np.arange(1, 17)).astype(np.uint8)


def roles() -> np.ndarray:
    b, i = np.ogrid[:COUNT, :16]
    order = (5 * i + 3 * b) % 16
    return np.where(order < 7, 1, np.where(order < 13, 2, 0)).astype(np.uint8)


def weights_of(name: str) -> dict[str, np.ndarray]:
    named = blank(_setting(SPECS[name])).module.named_parameters()
    return {key: parameter(key, tuple(value.shape)) for key, value in named}


def draws_of(name: str) -> dict[str, np.ndarray]:
    if name == "gmml":
        b, v = np.ogrid[:COUNT, :2]
        shows = np.where((b + v) % 2 == 0, -2, (b % 4 + 1 + (b + v) % 3) % 4)[:, :, None, None]
        masked = (roles() == 1).reshape(COUNT, 1, 4, 4).repeat(4, 2).repeat(4, 3)
        return {**gmml_draws(), "role": roles(), "source": np.where(masked, shows, -1).astype(np.int16)}
    return {"role": roles(), **({"drop": simmim_draws()["drop"]} if name == "simmim" else {})}


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-9), ("float32", 5e-6)])
def test_losses_and_gradients_are_the_reference(name: str, dtype: Any, tolerance: float) -> None:
    weights, (losses, norm, qkv) = weights_of(name), EXPECTED[name]
    pixels, given = images(VIEWS[name]), draws_of(name)
    result = verify(SPECS[name], weights, pixels, given, dtype=dtype, gradients=list(weights))
    squares = {name: float((g.astype(np.float64) ** 2).sum()) for name, g in result.gradients.items() if g is not None}
    assert result.losses == pytest.approx(losses, rel=tolerance)
    assert sum(squares.values()) ** 0.5 == pytest.approx(norm, rel=20 * tolerance)
    assert squares[QKV] ** 0.5 == pytest.approx(qkv, rel=20 * tolerance, abs=5e-10)


def test_orders_are_the_reference() -> None:
    weights = map_weights(torch.tensor(RAMP).expand(3, 1, 16))
    first = weighted_order(7, torch.tensor([0, 1, FAR]), weights)[:, 0, :8]
    assert first.tolist() == [
        [11, 7, 13, 4, 14, 10, 6, 15],
        [6, 13, 11, 12, 15, 14, 1, 5],
        [8, 0, 11, 13, 7, 10, 12, 15],
    ]


def test_counts_are_those_of_the_released_settings() -> None:
    assert token_roles(MaeAmtOptions(), 196) == Roles(88, 78, 30)
    assert cell_roles(AmtOptions(), 49).times(4) == Roles(88, 52, 56)
    assert token_roles(AmtOptions(), 196) == Roles(86, 51, 59)
    assert token_roles(AmtOptions(mask_ratio=0.75, throw_ratio=0), 196) == Roles(147, 0, 49)
    assert token_roles(AmtOptions(mask_ratio=0.6, throw_ratio=0.15), 196) == Roles(117, 30, 49)


def test_the_first_places_have_the_law_of_sequential_draws() -> None:
    weights = map_weights(torch.tensor([[60, 120, 180, 240]], dtype=torch.uint8)).expand(40_000, 1, 4)
    order = weighted_order(3, torch.arange(40_000), weights)[:, 0]
    law = [[0.1, 0.2, 0.3, 0.4], [0.1349, 0.2409, 0.3086, 0.3155]]
    for place, expected in enumerate(law):
        shares = torch.bincount(order[:, place], minlength=4).double() / len(order)
        assert shares.tolist() == pytest.approx(expected, abs=4.5 * (0.25 / len(order)) ** 0.5)


def test_equal_weights_mask_all_patches_equally_often() -> None:
    flat = torch.full((4000, 1, 16), 7, dtype=torch.uint8)
    found = draw_roles(5, torch.arange(4000), flat, Roles(12, 0, 4))[:, 0]
    assert set((found == 1).sum(1).tolist()) == {12}
    assert float(((found == 1).double().mean(0) - 0.75).abs().max()) < 4.5 * (0.75 * 0.25 / 4000) ** 0.5


def test_masks_follow_the_map_from_the_sample_numbers() -> None:
    maps, spec = np.tile(RAMP, (COUNT, 1)), {**SPECS["mae"], "seed": 7}
    result = verify(spec, state(spec), images(1), {"first": 8, "map": maps}, dtype="float64")
    drawn = draw(spec, range(8, 16), given={"map": maps})
    assert np.array_equal(result.outputs["role"], drawn["role"])
    assert np.array_equal(result.outputs["mask"], drawn["role"] == 1)
    assert [(drawn["role"] == role).sum(1).tolist() for role in (1, 2, 0)] == [[7] * 8, [6] * 8, [3] * 8]
    means = [result.scalars[f"weight_{name}"].sum(0) for name in ("masked", "thrown", "visible")]
    assert sum(mean[0] for mean in means) == pytest.approx(maps.sum() / 255)
    assert means[0][0] / means[0][1] > means[1][0] / means[1][1] > means[2][0] / means[2][1]


def test_without_a_map_masks_are_random_as_without_amt() -> None:
    for given in ({"first": 0}, {"mask": draw(RAW, range(COUNT))["mask"]}):
        first, second = (verify(spec, state(RAW), images(1), given, dtype="float64") for spec in (SPECS["mae"], RAW))
        assert np.array_equal(first.losses, second.losses)


def thrown_pixels() -> np.ndarray:
    return (roles() == 2).reshape(COUNT, 1, 1, 4, 4).repeat(4, 3).repeat(4, 4)


@pytest.mark.parametrize("name", SPECS)
def test_what_is_thrown_away_changes_nothing_to_the_bit(name: str) -> None:
    weights, pixels, given = weights_of(name), images(VIEWS[name]), draws_of(name)
    if name == "gmml":  # an alien donor's thrown pixels may serve another image
        given["source"] = np.where(given["source"] != -1, -2, -1).astype(np.int16)
    other = np.where(thrown_pixels(), 3 - pixels, pixels)
    first, second = (
        verify(SPECS[name], weights, some, given, dtype="float64", gradients=list(weights)) for some in (pixels, other)
    )
    assert np.array_equal(first.losses, second.losses)
    assert np.array_equal(first.outputs["prediction"], second.outputs["prediction"])
    trained = [key for key, value in first.gradients.items() if value is not None]
    assert trained
    assert all(np.array_equal(first.gradients[key], second.gradients[key]) for key in trained)


@pytest.mark.parametrize("name", ["mae", "simmim", "gmml"])
def test_masked_patches_are_a_target_and_visible_ones_an_input(name: str) -> None:
    weights, pixels, given = weights_of(name), images(VIEWS[name]), draws_of(name)
    if name == "gmml":
        given["source"] = np.where(given["source"] != -1, -2, -1).astype(np.int16)

    def changed(role: int) -> Any:
        where = (roles() == role).reshape(COUNT, 1, 1, 4, 4).repeat(4, 3).repeat(4, 4)
        return verify(SPECS[name], weights, np.where(where, -pixels, pixels), given, dtype="float64")

    first, target, source = verify(SPECS[name], weights, pixels, given, dtype="float64"), changed(1), changed(0)
    assert np.array_equal(first.outputs["prediction"], target.outputs["prediction"])
    assert (first.losses != target.losses).all()
    assert (first.outputs["prediction"] != source.outputs["prediction"]).any()


@pytest.mark.parametrize("name", SPECS)
def test_every_method_draws_roles_by_its_maps(name: str) -> None:
    maps = np.stack([np.tile(RAMP, (COUNT, 1)), np.tile(RAMP[::-1], (COUNT, 1))][: VIEWS[name]], 1)
    drawn = draw(SPECS[name], range(COUNT), given={"map": maps})
    result = verify(SPECS[name], weights_of(name), images(VIEWS[name]), {"first": 0, "map": maps}, dtype="float64")
    role = drawn["role"]
    assert np.array_equal(result.outputs["role"], role)
    assert role.shape == ((COUNT, 2, 16) if name == "gmml" else (COUNT, 16))
    counts = {int((row == code).sum()) for row in role.reshape(-1, 16) for code in (1,)}
    assert counts == ({8} if name in ("simmim", "conmim") else {7})
    if name == "gmml":
        hidden = (role == 1).reshape(COUNT, 2, 4, 4).repeat(4, 2).repeat(4, 3)
        assert np.array_equal(drawn["source"] != -1, hidden)
        assert (role[:, 0] != role[:, 1]).any()


def test_gmml_hides_the_masked_patches_alone() -> None:
    given = {**draws_of("gmml"), "source": gmml_draws()["source"]}
    with pytest.raises(SpecError, match="hides other pixels"):
        verify(SPECS["gmml"], weights_of("gmml"), images(2), given)


@pytest.mark.parametrize("change", ["ragged", "no such role", "nothing visible"])
def test_roles_that_cannot_be_are_refused(change: str) -> None:
    given = roles()
    given[0, 0] = {"ragged": (given[0, 0] + 1) % 3, "no such role": 3, "nothing visible": given[0, 0]}[change]
    given = np.where(given == 0, 2, given) if change == "nothing visible" else given
    with pytest.raises(SpecError, match="codes are 0 visible"):
        verify(SPECS["mae"], weights_of("mae"), images(1), {"role": given})


def test_simmim_masks_at_random_what_it_masks_later_unless_told() -> None:
    assert SimmimOptions.model_validate({"name": "simmim", "amt": True}).mask_ratio == 0.44
    assert SimmimOptions.model_validate({"name": "simmim", "amt": {"mask_ratio": 0.3}}).mask_ratio == 0.3
    assert SimmimOptions.model_validate({"name": "simmim", "amt": True, "mask_ratio": 0.6}).mask_ratio == 0.6
    assert SimmimOptions.model_validate({"name": "simmim", "amt": False}).mask_ratio == 0.6


def random_case(name: str, seed: int) -> tuple[dict[str, Any], np.random.Generator]:
    rng = np.random.default_rng([seed, sum(name.encode())])
    heads = int(rng.integers(1, 3))
    model = {**MODEL, "width": 4 * heads * int(rng.integers(1, 3)), "heads": heads, "depth": int(rng.integers(2, 4))}
    model["drop_path"] = 0.1 if name in ("simmim", "gmml") else 0
    ratios = {"mask_ratio": float(rng.uniform(0.2, 0.5)), "throw_ratio": float(rng.uniform(0.1, 0.4))}
    own: dict[str, Any] = {
        "mae": {"decoder_width": 8, "decoder_depth": 1, "decoder_heads": 2, "standardise": bool(rng.integers(2))},
        "simmim": {"cell": int(rng.integers(1, 3)), "plain": bool(rng.integers(2))},
        "gmml": {"views": int(rng.integers(1, 3))},
        "conmim": {"cell": int(rng.integers(1, 3)), "projector": [12, 8, 6], "temperature": 0.3},
    }
    method = {"name": name, "amt": ratios, **own[name]}
    return {"model": model, "method": method, "data": {"group": 2}, "seed": seed}, rng


def expected_roles(case: dict[str, Any], maps: np.ndarray, first: int) -> np.ndarray:
    """Roles (n, V, 16) by the oracle."""
    method, amt = case["method"], case["method"]["amt"]
    cell = method.get("cell", 2) if method["name"] in ("simmim", "conmim") else 0
    found = np.empty(maps.shape, np.uint8)
    for n, v in np.ndindex(maps.shape[:2]):
        weights, expand = maps[n, v] / 255, 1
        if cell:
            weights, expand = weights.reshape(4 // cell, cell, 4 // cell, cell).sum((1, 3)).ravel(), cell
            masked = int(np.ceil(len(weights) * amt["mask_ratio"]))
            thrown = min(int(np.ceil(len(weights) * amt["throw_ratio"])), len(weights) - masked - 1)
        else:
            masked = int(np.floor(16 * amt["mask_ratio"]))
            thrown = int(np.floor(16 * (amt["mask_ratio"] + amt["throw_ratio"]))) - masked
        of_items = oracle.roles_of(case["seed"], first + n, weights, masked, thrown)
        side = 4 // expand
        found[n, v] = of_items.reshape(side, side).repeat(expand, 0).repeat(expand, 1).ravel()
    return found


def expected_losses(
    case: dict[str, Any], state: Any, pixels: np.ndarray, role: np.ndarray, drawn: dict[str, np.ndarray]
) -> list[float]:
    """Loss of each group of two by the oracle; role (n, V, 16)."""
    model, method, name = case["model"], case["method"], case["method"]["name"]
    drop = drawn.get("drop", np.ones((4, pixels.shape[1], model["depth"], 2))).astype(np.float64)
    rates = model["drop_path"] * np.arange(model["depth"])[:, None] / max(1, model["depth"] - 1)
    drop = np.where(drop > 0, 1 / (1 - rates), 0.0)
    losses = []
    for group in (range(2), range(2, 4)):
        if name == "conmim":
            part = slice(group[0], group[-1] + 1)
            losses.append(oracle.conmim_loss(pixels[part], state, model, role[part, 0], method["temperature"]))
            continue
        errors: list[Any] = []
        for i in group:
            if name == "mae":
                small = {"width": 8, "heads": 2, "depth": 1, "image_size": 16, "patch_size": 4}
                flag = method["standardise"]
                errors += oracle.mae_errors(pixels[i, 0], state, model, small, role[i, 0], standardise=flag)
            elif name == "simmim":
                errors += oracle.simmim_errors(pixels[i, 0], state, model, role[i, 0], drop[i, 0])
            for v in range(pixels.shape[1]) if name == "gmml" else ():
                shown = pixels[i, v].copy()
                for y, x in np.ndindex(16, 16):
                    code = drawn["source"][i, v, y, x]
                    if code != -1:
                        source = drawn["noise"][i, v] if code == -2 else pixels[group[0] + code, v]
                        shown[:, y, x] = source[:, y, x]
                tapped = {**model, "taps": {2: (1, 2), 3: (2, 3)}[model["depth"]]}
                errors += oracle.gmml_errors(shown, pixels[i, v], state, tapped, role[i, v], drop[i, v])
        total, values = np.sum(errors), np.size(errors)
        losses.append(float(total / 3 / (values / 3 + 1e-5) if name == "simmim" else total / values))
    return losses


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("seed", range(4))
def test_random_cases_are_those_of_the_oracle(name: str, seed: int) -> None:
    case, rng = random_case(name, seed)
    setting = _setting(case)
    views = setting.options.views
    shapes = {key: tuple(p.shape) for key, p in blank(setting).module.named_parameters()}
    weights = {key: rng.normal(0, 0.4, shape) for key, shape in shapes.items()}
    pixels = rng.normal(size=(4, views, 3, 16, 16))
    maps = rng.integers(1, 256, (4, views, 16)).astype(np.uint8)
    maps = maps if name == "gmml" else maps[:, :1].repeat(views, 1)
    role, drawn = expected_roles(case, maps, first=6), draw(case, range(6, 10), given={"map": maps})
    found = drawn["role"] if name == "gmml" else drawn["role"][:, None].repeat(views, 1)
    assert np.array_equal(found, role)
    noise = {"noise": drawn["noise"].astype(np.float64)} if "noise" in drawn else {}
    result = verify(case, weights, pixels, {"first": 6, "map": maps, **noise}, dtype="float64")
    assert result.losses == pytest.approx(expected_losses(case, weights, pixels, role, {**drawn, **noise}), rel=1e-10)


@pytest.mark.parametrize("name", SPECS)
def test_nothing_waits_for_the_device_where_maps_decide(name: str) -> None:
    """On torch's meta device there are no values: whatever would read one back raises."""
    setting, meta = _setting(SPECS[name]), torch.device("meta")
    method: Any = blank(setting)
    for part in method.module.modules():
        part._buffers = {key: b if b is None else b.to(meta) for key, b in part._buffers.items()}
    maps = torch.zeros(COUNT, VIEWS[name], 16, dtype=torch.uint8, device=meta)
    drawn = method.draw(torch.arange(COUNT, device=meta), meta, given={"map": maps})
    losses = method.loss(method.module, torch.zeros(COUNT, VIEWS[name], 3, 16, 16, device=meta), drawn)
    losses.groups.sum().backward()
    assert losses.groups.shape == (2,)
