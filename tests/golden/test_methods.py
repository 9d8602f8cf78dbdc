"""Reference cases computed apart from this code: losses, gradients and draws of every method, to the constant."""

import zlib
from typing import Any

import numpy as np
import pytest
import torch

from gmml_cluster.data.random import philox_torch
from gmml_cluster.methods import drawing, mae, reference
from gmml_cluster.methods.build import blank
from gmml_cluster.methods.masks import gmml_rectangles
from gmml_cluster.methods.reference import _setting
from gmml_cluster.spec.methods.gmml import GmmlOptions, longest_side
from tests.fixtures.tolerances import assert_array_close_to_scale

GROUP, COUNT, SIZE, PATCH = 4, 8, 16, 4
MODEL = {"width": 32, "depth": 2, "heads": 2, "patch_size": PATCH, "image_size": SIZE, "mlp_ratio": 4, "drop_path": 0.1}
GMML = {"model": MODEL, "method": {"name": "gmml", "taps": [1, 2]}, "data": {"group": GROUP}, "seed": 0}
MAE = {
    "model": {**MODEL, "drop_path": 0},
    "method": {"name": "mae", "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2},
    "data": {"group": GROUP},
    "seed": 0,
}
RAW = {**MAE, "method": {**MAE["method"], "standardise": False}}
QKV = "encoder.blocks.1.attn.qkv.weight"


def stand_in(name: str, shape: tuple[int, ...]) -> np.ndarray:
    c = sum(k * byte for k, byte in enumerate(name.encode(), 1)) % 65521
    i = np.arange(np.prod(shape), dtype=np.int64)
    r = ((i + 1) * (i + 1 + c) % 65521) * 7919 % 65521
    return ((2 * r - 65520) / 65521).reshape(shape)


def parameter(name: str, shape: tuple[int, ...]) -> np.ndarray:
    u = stand_in(name, shape)
    if name.endswith("weight") and len(shape) >= 2:
        return np.sqrt(3 / np.prod(shape[1:])) * u
    return 1 + 0.2 * u if name.endswith("weight") else 0.2 * u


def state(spec: dict[str, Any]) -> dict[str, np.ndarray]:
    named = blank(_setting(spec)).module.named_parameters()
    return {name: parameter(name, tuple(p.shape)) for name, p in named}


def images(views: int) -> np.ndarray:
    return 1.5 * stand_in("images", (COUNT, views, 3, SIZE, SIZE))


def gmml_draws(*, drop: bool = True) -> dict[str, np.ndarray]:
    b, v, y, x = np.ogrid[:COUNT, :2, :SIZE, :SIZE]
    noisy = (b + v) % 2 == 0
    hidden = (3 * y + 5 * x + 7 * b + 11 * v) % 16 < np.where(noisy, 8 + b % 5, 5)
    donor = (b % 4 + 1 + (b + v) % 3) % 4
    draws = {
        "source": np.where(hidden, np.where(noisy, -2, donor), -1).astype(np.int16),
        "noise": 1.5 * stand_in("noise", (COUNT, 2, 3, SIZE, SIZE)),
    }
    if drop:
        b, v, layer, k = np.ogrid[:COUNT, :2, :2, :2]
        draws["drop"] = np.where(layer == 0, 1.0, np.where((b + 2 * v + k) % 5 == 0, 0.0, 1 / 0.9))
    return draws


def mae_draws() -> dict[str, np.ndarray]:
    b, i = np.ogrid[:COUNT, :16]
    return {"mask": (7 * i + 3 * b) % 16 < 12}


CASES = {
    "gmml": (GMML, 2, gmml_draws(), (0.760927058, 0.767952093), 0.103921036, 0.007591221),
    "gmml, drop = 1": (GMML, 2, gmml_draws(drop=False), (0.759995811, 0.768583481), 0.105477943, 0.008783618),
    "mae, standardised": (MAE, 1, mae_draws(), (2.580884183, 2.685091807), 2.823978168, 0.133931545),
    "mae, raw": (RAW, 1, mae_draws(), (2.352439902, 2.423341478), 2.814701284, 0.130887318),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 2e-7), ("float32", 2e-5)])
def test_losses_and_gradients_are_the_reference(case: str, dtype: Any, tolerance: float) -> None:
    spec, views, draws, losses, norm, qkv = CASES[case]
    weights = state(spec)
    result = reference.verify(spec, weights, images(views), draws, dtype=dtype, gradients=list(weights))
    squares = {name: float((g.astype(np.float64) ** 2).sum()) for name, g in result.gradients.items() if g is not None}
    assert result.losses == pytest.approx(losses, rel=tolerance)
    assert sum(squares.values()) ** 0.5 == pytest.approx(norm, rel=tolerance)
    assert squares[QKV] ** 0.5 == pytest.approx(qkv, rel=tolerance)
    assert set(squares) == set(weights), "every parameter is trained"


def test_stand_ins_are_the_reference() -> None:
    assert stand_in("images", (3,)) == pytest.approx([0.11080417, -0.29495887, -0.21727385], rel=5e-8)
    for spec, tensors, numbers, total in ((GMML, 38, 32_323, 104.223247), (MAE, 48, 31_744, 164.014922)):
        values = state(spec).values()
        assert (len(values), sum(value.size for value in values)) == (tensors, numbers)
        assert sum(value.sum() for value in values) == pytest.approx(total, rel=1e-8)


def corrupted_model(spec: dict[str, Any], views: int) -> tuple[Any, torch.Tensor]:
    """A method at the reference weights and the reference images, in float64."""
    method = blank(_setting(spec))
    method.module.load_state_dict({name: torch.tensor(value) for name, value in state(spec).items()}, assign=True)
    return method, torch.tensor(images(views))


def gmml_wrong() -> dict[str, float]:
    """Loss of group 0 by readings of the specification that are wrong."""
    method, clean = corrupted_model(GMML, 2)
    draws = {name: torch.tensor(value) for name, value in gmml_draws().items()}
    hidden, alien, drop = draws["source"] != -1, draws["source"] >= 0, draws["drop"].flatten(0, 1)
    seen, elsewhere = method.corrupt(clean, draws), method.corrupt(clean.roll(GROUP, 0), draws)

    def forward(taps: list[tuple[int, ...]], corrupted: torch.Tensor = seen) -> torch.Tensor:
        tokens = [method.module.encoder(corrupted.flatten(0, 1), drop_BL2=drop, taps=some) for some in taps]
        return method.module.head(torch.stack(tokens).mean(0)[:, 1:]).view_as(clean)

    def errors(prediction: torch.Tensor) -> torch.Tensor:
        return torch.where(hidden, (prediction - clean).abs().mean(2), 0.0).flatten(1).sum(1)

    def pooled(prediction: torch.Tensor, some: slice = slice(GROUP)) -> float:
        return float(errors(prediction)[some].sum() / hidden[some].sum())

    right = forward([(1, 2)])
    return {
        "image means": float((errors(right) / hidden.flatten(1).sum(1))[:GROUP].mean()),
        "last block": pooled(forward([(2,)])),
        "norm first": pooled(forward([(1,), (2,)])),
        "other aliens": pooled(forward([(1, 2)], torch.where(alien[:, :, None], elsewhere, seen))),
        "pooled": pooled(right, slice(None)),
    }


def test_gmml_differs_from_its_wrong_readings() -> None:
    expected = {
        "image means": 0.760740,
        "last block": 0.762189,
        "norm first": 0.758416,
        "other aliens": 0.762234,
        "pooled": 0.764470,
    }
    with torch.no_grad():
        wrong = gmml_wrong()
    assert wrong == pytest.approx(expected, rel=1e-6), "the readings are those the specification names"
    loss = reference.verify(GMML, state(GMML), images(2), gmml_draws(), dtype="float64").losses[0]
    assert min(abs(loss - value) for value in wrong.values()) > 1e-4


def mae_wrong() -> dict[str, float]:
    method, clean = corrupted_model(MAE, 1)
    draws = method.accept({"mask": torch.tensor(mae_draws()["mask"])}, COUNT)
    result = reference.verify(MAE, state(MAE), images(1), mae_draws(), dtype="float64")
    prediction, mask = torch.tensor(result.outputs["prediction"]), draws["mask"]
    patches = mae.patchify(clean[:, 0], PATCH)
    variance, mean = torch.var_mean(patches, 2, correction=0, keepdim=True)
    slowest = patches.view(COUNT, 16, -1, 3).transpose(2, 3).flatten(2)
    for part in (method.module.encoder, method.module.decoder):
        part.pos_embed = part.pos_embed.roll(part.pos_embed.shape[2] // 2, 2)

    def loss(prediction: torch.Tensor, target: torch.Tensor) -> float:
        return float((prediction - target).square().mean(2)[:GROUP][mask[:GROUP]].mean())

    return {
        "biased variance": loss(prediction, (patches - mean) / (variance + 1e-6).sqrt()),
        "row first": float(method.loss(method.module, clean, draws).groups[0]),
        "channel slowest": loss(prediction, mae.norm_pix(slowest)),
    }


def test_mae_differs_from_its_wrong_readings() -> None:
    expected = {"biased variance": 2.601281, "row first": 2.625151, "channel slowest": 2.590154}
    with torch.no_grad():
        wrong = mae_wrong()
    assert wrong == pytest.approx(expected, rel=1e-6), "the readings are those the specification names"
    loss = reference.verify(MAE, state(MAE), images(1), mae_draws(), dtype="float64").losses[0]
    assert min(abs(loss - value) for value in wrong.values()) > 1e-4


FAR = 2**33 + 7


def test_mae_keeps_the_reference_tokens() -> None:
    drawn = reference.draw({**MAE, "seed": 7}, [0, 1, FAR])
    kept = [np.flatnonzero(~row).tolist() for row in drawn["mask"]]
    assert kept == [[7, 9, 11, 14], [2, 3, 5, 6], [2, 4, 10, 11]]
    assert drawn["keep"].tolist() == kept


def test_orders_of_tokens_are_the_reference() -> None:
    first = drawing.token_order(7, torch.tensor([0, 1, FAR]), 49)[:, :6]
    assert first.tolist() == [[11, 42, 17, 31, 43, 25], [30, 3, 41, 5, 27, 46], [21, 24, 10, 34, 28, 27]]


ALIEN, NOISE = 0, 1
MASKS = {
    (32, 1): [
        (0, 0, ALIEN, 308, 23, 309, 2981253064),
        (0, 1, NOISE, 577, 52, 584, 2368740398),
        (2, 0, NOISE, 606, 48, 612, 3650824959),
    ],
    (224, 16): [
        (0, 0, ALIEN, 15053, 11, 15360, 746170092),
        (0, 1, NOISE, 28272, 28, 29952, 3031912475),
        (2, 0, NOISE, 29656, 35, 29952, 3529543632),
    ],
}


def gmml_spec(size: int, align: int, patch: int = 16) -> dict[str, Any]:
    model = {**MODEL, "image_size": size, "patch_size": patch if size > 32 else 4}
    return {"model": model, "method": {"name": "gmml", "align": align}, "data": {"group": 8}, "seed": 7}


@pytest.mark.parametrize(("size", "align"), MASKS)
def test_gmml_masks_are_the_reference(size: int, align: int) -> None:
    source = reference.draw(gmml_spec(size, align), [0, 2], names=["source"])["source"]
    for n, view, branch, _, _, masked, crc in MASKS[size, align]:
        shown = source[[0, 2].index(n), view]
        hidden = shown != -1
        assert hidden.sum() == masked
        assert zlib.crc32(np.packbits(hidden).tobytes()) == crc
        assert (shown[hidden] == -2).all() if branch == NOISE else (shown[hidden] >= 0).all()


@pytest.mark.parametrize(("size", "align"), MASKS)
def test_gmml_targets_and_rectangles_are_the_reference(size: int, align: int) -> None:
    numbers = torch.tensor([0, 2])
    drawn = philox_torch.words(7, 40, numbers, 4, 0), philox_torch.words(7, 40, numbers, 4, 1)
    candidates = philox_torch.view_words(7, numbers, 2, {34: gmml_rectangles.WORDS})[34].flatten(0, 1)
    longest = longest_side(GmmlOptions(name="gmml"), size)
    rectangles = gmml_rectangles.rectangles(candidates, size=size, align=align, longest=longest)
    for n, view, branch, pixels, used, _, _ in MASKS[size, align]:
        index = [0, 2].index(n)
        target = gmml_rectangles.target_pixels(drawn[view][index : index + 1, 2], (0.30, 0.75)[branch], size)
        cover = gmml_rectangles.cover(rectangles[2 * index + view : 2 * index + view + 1], target, size=size)
        assert (int(target), int(cover.last) + 1, bool(cover.short)) == (pixels, used, False)


def test_gmml_donors_are_the_reference() -> None:
    words = [philox_torch.words(7, 40, torch.tensor([n]), 2, view)[:, 1] for n, view in ((0, 0), (0, 1), (2, 0))]
    method = blank(_setting(gmml_spec(32, 1)))
    alien = torch.zeros(1, dtype=torch.int64)
    assert [int(method._content(alien, word, torch.tensor([n]))) for word, n in zip(words, (0, 0, 2), strict=True)] == [
        7,
        3,
        6,
    ]


def test_normals_are_the_reference() -> None:
    spec = gmml_spec(32, 1)
    noise = blank(_setting(spec)).draw(torch.tensor([0]), torch.device("cpu"), names=["noise"], dtype=torch.float64)
    assert noise["noise"][0, 0, 0, 0, :2].tolist() == pytest.approx([-0.438760759, 2.059638256], rel=2e-9)
    single = reference.draw(spec, [0], names=["noise"])["noise"]
    assert_array_close_to_scale(single, noise["noise"].numpy(), ulps=32)


def test_drop_path_is_the_reference() -> None:
    drawn = philox_torch.words(7, 48, torch.tensor([0]), 24)[:, None]
    multipliers = drawing.drop_path(drawn, drawing.drop_rates(0.1, 12), torch.float64).flatten()
    assert (multipliers == 0).nonzero().flatten().tolist() == [6, 22]
    assert multipliers[23] == pytest.approx(1 / 0.9)
