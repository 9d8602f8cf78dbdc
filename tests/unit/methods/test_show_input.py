"""What a method shows is what its encoder is given: a hook on the encoder is the oracle."""

from typing import Any

import pytest
import torch

from gmml_cluster.methods.build import build
from gmml_cluster.methods.protocol import LABEL, MAP, MASK, Method, ShowsInput
from gmml_cluster.spec.methods.plugins import BUILT_IN
from tests.unit.methods.jobs import job

N, GROUP, SIZE, PATCH = 8, 4, 16, 4
GRID = SIZE // PATCH
NUMBERS = torch.arange(40, 40 + N)
GREY = torch.tensor([7.0, 8.0, 9.0])
"""No pixel of the images."""
AMT = {"start": "3 steps", "interval": "3 steps"}
MAE = {"name": "mae", "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}
CONMIM = {"name": "conmim", "projector": [16, 16, 8]}
IJEPA = {"name": "ijepa", "predictor_width": 16, "predictor_depth": 1}
CAPI = {"name": "capi", "clusters": 4, "registers": 4, "predictor_depth": 1}
CASES: dict[str, dict[str, Any]] = {
    "gmml": {"name": "gmml", "views": 2},
    "gmml, a kind a rectangle": {"name": "gmml", "mixing": "rectangle", "fill": ["noise", "zeros"]},
    "mae": MAE,
    "simmim": {"name": "simmim"},
    "conmim": CONMIM,
    "ijepa": IJEPA,
    "ijepa, cut": {**IJEPA, "masks": "padded", "cut": "group"},
    "capi": CAPI,
    "relvit": {"name": "relvit", "permute": True},
    "supervised": {"name": "supervised", "classes": 5},
}
GUIDED = {
    "gmml": {"name": "gmml", "views": 2, "amt": AMT},
    "mae": {**MAE, "amt": AMT},
    "simmim": {"name": "simmim", "plain": True, "amt": AMT},
    "conmim": {**CONMIM, "amt": AMT},
}


def method_of(options: dict[str, Any]) -> Method:
    return build(job(options))


def images_of(method: Method) -> torch.Tensor:
    return torch.randn(N, method.views, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def given(method: Method, images: torch.Tensor, draws: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    """The pixels that a network of the method is given, with grey for what it is not."""
    calls: list[Any] = []
    network = method.module.get_submodule(name)
    handle = network.register_forward_pre_hook(lambda _, *found: calls.append(found), with_kwargs=True)
    method.loss(method.module, images, draws)
    handle.remove()
    ((pixels,), options) = calls[0]
    keep, mask = options.get("keep_BK"), options.get("mask_BN")
    seen = torch.full((len(pixels), GRID**2), keep is None)
    if keep is not None:
        real = options.get("real_BK")
        for row, index in enumerate(keep):
            seen[row, index if real is None else index[real[row]]] = True
    if mask is not None:
        seen &= ~mask
    seen = seen.view(-1, 1, GRID, GRID).repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3)
    return torch.where(seen, pixels, GREY[:, None, None])


def demand_shown(method: Method, draws: dict[str, torch.Tensor]) -> list[Any]:
    images = images_of(method)
    assert isinstance(method, ShowsInput)
    panels = list(method.show_input(images, draws, NUMBERS, grey=GREY))
    views = torch.stack([panel.images for panel in panels[: method.views]], 1)
    if hasattr(method.module, "teacher") and method.views == 2:
        assert torch.equal(views[:, 1], given(method, images, draws, "teacher.encoder"))
        views = views[:, :1]
    assert torch.equal(views.flatten(0, 1), given(method, images, draws, "encoder"))
    assert not torch.equal(views, images[:, : views.shape[1]])
    return panels


@pytest.mark.parametrize("case", CASES)
def test_the_pictures_are_what_the_encoder_is_given(case: str) -> None:
    method = method_of(CASES[case])
    draws = method.draw(NUMBERS, torch.device("cpu"))
    if case == "supervised":
        draws[LABEL] = torch.arange(N) % 5
    demand_shown(method, draws)


@pytest.mark.parametrize("case", GUIDED)
def test_with_maps_of_attention_too(case: str) -> None:
    method: Any = method_of(GUIDED[case])
    maps = torch.randint(1, 256, (N, 1, GRID**2), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    demand_shown(method, method.draw(NUMBERS, torch.device("cpu"), given={MAP: maps.expand(-1, method.views, -1)}))


@pytest.mark.parametrize("masks", ["fixed", "padded"])
def test_ijepa_outlines_the_targets_and_shows_their_patches_alone(masks: str) -> None:
    method = method_of({**IJEPA, "masks": masks})
    draws = method.draw(NUMBERS, torch.device("cpu"))
    panel = demand_shown(method, draws)[1]
    images = images_of(method)[:, 0]
    expected = GREY[:, None, None].expand_as(images).clone()
    for n, targets in enumerate((draws["target"] * PATCH).tolist()):
        for top, left, height, width in targets:
            part = (n, slice(None), slice(top, top + height), slice(left, left + width))
            expected[part] = images[part]
    assert torch.equal(panel.images, expected)
    assert torch.equal(panel.boxes, draws["target"] * PATCH)


def test_capi_shows_which_cells_are_predicted() -> None:
    method = method_of(CAPI)
    draws = method.draw(NUMBERS, torch.device("cpu"))
    panel = demand_shown(method, draws)[1]
    hidden = (panel.images == GREY[:, None, None]).all(1).view(N, GRID, PATCH, GRID, PATCH)
    assert torch.equal(~hidden.any(4).any(2).flatten(1), draws["predict"])
    assert panel.facts == [f"{int(each.sum())} of 16 patches" for each in draws["predict"]]


def test_gmml_names_the_images_that_it_takes_pixels_from() -> None:
    method = method_of({"name": "gmml", "views": 1})
    images, draws = images_of(method), method.draw(NUMBERS, torch.device("cpu"))
    assert isinstance(method, ShowsInput)
    (panel,) = method.show_input(images, draws, NUMBERS, grey=GREY)
    kinds = set()
    for n, fact in enumerate(panel.facts):
        changed = (panel.images[n] != images[n, 0]).any(0)
        share, _, by = fact.partition(" hidden by ")
        assert abs(int(share.removesuffix("%")) / 100 - float(changed.float().mean())) <= 0.01
        kinds.add(by.split()[0])
        if by != "noise":
            donor = int(by.removeprefix("n ")) - int(NUMBERS[0])
            assert donor // GROUP == n // GROUP
            assert torch.equal(panel.images[n][:, changed], images[donor, 0][:, changed])
    assert kinds == {"noise", "n"}


def test_supervised_training_says_with_whom_an_image_is_mixed() -> None:
    method = method_of({"name": "supervised", "classes": 5, "mixup": 0, "cutmix": 1})
    images, draws = images_of(method), method.draw(NUMBERS, torch.device("cpu"))
    assert isinstance(method, ShowsInput)
    (panel,) = method.show_input(images, draws, NUMBERS, grey=GREY)
    assert panel.boxes is not None
    for n, (fact, ((top, left, height, width),)) in enumerate(zip(panel.facts, panel.boxes.tolist(), strict=True)):
        other = int(fact.rpartition(" ")[2]) - int(NUMBERS[0])
        assert other == n // GROUP * GROUP + GROUP - 1 - n % GROUP
        own = images[n, 0].clone()
        part = (slice(None), slice(top, top + height), slice(left, left + width))
        own[part] = images[other, 0][part]
        assert torch.equal(panel.images[n], own)


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_method_of_this_package_shows_what_it_makes_of_views(name: str) -> None:
    whole = {"supervised", "finetune", "linear", "attentive"}
    options = {**CASES.get(name, {"name": name}), **({"classes": 5} if name in {*whole, "segmentation"} else {})}
    method = method_of(options)
    assert isinstance(method, ShowsInput)
    if name in ("linear", "attentive", "segmentation"):
        draws = {LABEL: torch.zeros(N), MASK: torch.zeros(N, SIZE, SIZE)}
        assert method.show_input(images_of(method), draws, NUMBERS, grey=GREY) == []
