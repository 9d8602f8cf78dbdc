"""RelViT: targets by brute force over all pairs, what is trained, what is counted."""

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from gmml_cluster.methods.build import blank, build
from gmml_cluster.methods.protocol import Setting
from gmml_cluster.methods.relation_targets import angles, distances, floor, relation_classes, targets
from gmml_cluster.methods.relations import RelationHeads
from gmml_cluster.methods.relvit import permuted
from gmml_cluster.spec.job import SIZES
from gmml_cluster.spec.methods.relations import RelationTasks, relation_counts
from tests.golden.relvit_oracle import angle_table, distance, raw_angle, relation
from tests.unit.methods.jobs import job, setting

CPU = torch.device("cpu")
ALL = {"relations": True, "positions": True, "distances": True, "angles": True}


def images(count: int, size: int = 16) -> torch.Tensor:
    return torch.randn(count, 1, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("grid", [2, 3, 5, 7, 8])
def test_targets_are_those_of_a_search_over_all_pairs(grid: int) -> None:
    pairs = [[(a, b) for b in range(grid**2)] for a in range(grid**2)]
    assert relation_classes(grid).tolist() == [[relation(a, b, grid) for a, b in row] for row in pairs]
    expected = np.array([[distance(a, b, grid) for a, b in row] for row in pairs])
    np.testing.assert_allclose(distances(grid), expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(angles(grid), angle_table(grid), rtol=0, atol=1e-12)


def test_relations_are_those_of_the_examples_and_opposite_when_swapped() -> None:
    table = relation_classes(3)
    assert [int(table[pair]) for pair in ((0, 1), (1, 0), (0, 3), (4, 0))] == [3, 5, 1, 8]
    for grid in (3, 8):
        table = relation_classes(grid)
        assert torch.equal(table.T, 8 - table)
        assert (table.diagonal() == 4).all()


@pytest.mark.parametrize("grid", [5, 6, 7, 8, 14])
def test_counts_of_classes_are_the_closed_forms(grid: int) -> None:
    corner, straight = (grid * (grid - 1) // 2) ** 2, grid * grid * (grid - 1) // 2
    counts = relation_classes(grid).flatten().bincount().tolist()
    assert counts == [corner, straight, corner, straight, grid**2, straight, corner, straight, corner]


@pytest.mark.parametrize(
    ("grid", "accuracy", "entropy", "far", "angle"),
    [
        (5, 0.1600, 2.1098, 0.1887, 0.1921),
        (6, 0.1736, 2.0564, 0.1743, 0.1797),
        (7, 0.1837, 2.0085, 0.1651, 0.1714),
        (8, 0.1914, 1.9665, 0.1588, 0.1657),
        (14, 0.2156, 1.8019, 0.1419, None),
    ],
)
def test_what_a_constant_reaches_is_the_table(
    grid: int, accuracy: float, entropy: float, far: float, angle: float | None
) -> None:
    assert floor("relations", grid) == pytest.approx(accuracy, abs=6e-5)
    assert floor("distances", grid) == pytest.approx(far, abs=6e-5)
    assert angle is None or floor("angles", grid) == pytest.approx(angle, abs=6e-5)
    assert floor("positions", grid) == 1 / grid**2
    shares = np.array(list(Counter(relation_classes(grid).flatten().tolist()).values())) / grid**4
    assert -(shares * np.log(shares)).sum() == pytest.approx(entropy, abs=6e-5)


def test_the_greatest_angles_are_those_of_the_released_code() -> None:
    greatest = [180 * max(raw_angle(a, b, grid) for a in range(grid**2) for b in range(a)) for grid in (8, 7)]
    assert greatest == pytest.approx([50.03, 49.55], abs=6e-3)


def test_targets_follow_the_places_that_tokens_have() -> None:
    places = torch.tensor([[5, 0, 3], [1, 7, 8]])
    for task, table in (("relations", relation_classes(3)), ("distances", distances(3)), ("angles", angles(3))):
        found = targets(task, 3, places)
        for image, i, j in np.ndindex(2, 3, 3):
            assert found[image, i, j] == table[places[image, i], places[image, j]]
    assert torch.equal(targets("positions", 3, places), places)


def test_place_t_shows_patch_order_t() -> None:
    numbered = torch.arange(9).view(1, 1, 3, 3).repeat_interleave(4, 2).repeat_interleave(4, 3).expand(1, 3, -1, -1)
    order = torch.tensor([[4, 0, 8, 1, 2, 3, 5, 6, 7]])
    assert permuted(numbered.float(), order, 4)[0, 0, ::4, ::4].flatten().tolist() == order[0].tolist()


@pytest.mark.parametrize(
    ("size", "relations", "pairs"),
    [
        ("tiny", 72_576, 73_728),
        ("small", 290_304, 294_912),
        ("base", 1_175_040, 1_179_648),
        ("large", 2_082_816, 2_097_152),
    ],
)
def test_parameters_of_heads_are_as_many_as_the_table_says(size: str, relations: int, pairs: int) -> None:
    width = SIZES[size]["width"]
    positions = {64: 65_600, 49: 50_225, 36: 36_900, 25: 25_625}
    for patches, of_large in positions.items():
        with torch.device("meta"):
            heads = RelationHeads(RelationTasks(**ALL), width=width, patches=patches)
        counts = {task: sum(p.numel() for p in heads.get_submodule(task).parameters()) for task in ALL}
        assert counts == {
            "relations": relations,
            "distances": pairs,
            "angles": pairs,
            "positions": of_large * (width + 1) // 1025,
        }
        assert relation_counts(RelationTasks(**ALL), width, patches, patches).parameters == sum(counts.values())


@pytest.mark.parametrize("size", ["small", "base", "large"])
@pytest.mark.parametrize("options", [{}, {**ALL, "position_embeddings": True}], ids=str)
def test_the_plan_counts_the_parameters_of_the_module(size: str, options: dict[str, Any]) -> None:
    spec = job({"name": "relvit", **options}, image_size=224, model=SIZES[size])
    counts = spec.method.counts(spec.model, 224)
    assert sum(parameter.numel() for parameter in blank(Setting.of(spec)).module.parameters()) == counts.trained
    assert counts.frozen == 0


def test_the_plan_counts_the_products_over_all_pairs() -> None:
    N, D, e = 196, 384, 42
    spec = job({"name": "relvit"}, image_size=224, model=SIZES["small"])
    heads = 36 * N * D * e + 18 * N**2 * e + 2 * N * D * N
    assert spec.method.counts(spec.model, 224).forward_flops / 1e9 == pytest.approx(9.196996608 + heads / 1e9)


@pytest.mark.parametrize(
    "options", [{}, {**ALL, "add_class_token": True}, {"permute": True, "position_embeddings": True}]
)
def test_every_parameter_is_trained_and_there_are_no_positions_by_default(options: dict[str, Any]) -> None:
    method = build(job({"name": "relvit", **options}))
    method.loss(method.module, images(4), method.draw(torch.arange(4), CPU)).groups.sum().backward()
    names = {name for name, parameter in method.module.named_parameters() if parameter.grad is not None}
    assert names == {name for name, _ in method.module.named_parameters()}
    assert ("encoder.pos_embed" in names) == bool(options.get("position_embeddings"))
    assert not [name for name in names if "value" in name]


def test_the_output_of_the_class_token_gets_no_gradient_but_the_token_does() -> None:
    method = build(job({"name": "relvit"}))
    tokens = method.module.encoder(images(4)[:, 0]).detach().requires_grad_()
    sum(prediction.sum() for prediction in method.module.predict(tokens)).backward()
    assert tokens.grad is not None
    assert not tokens.grad[:, 0].any()
    assert tokens.grad[:, 1:].any(2).all()


def test_a_fresh_model_guesses_and_one_image_can_be_learned() -> None:
    method = build(job({"name": "relvit"}, image_size=32))
    numbers, pixels = torch.arange(4), images(4, 32)
    found = method.loss(method.module, pixels, method.draw(numbers, CPU)).scalars
    loss = {name: float((pair[:, 0].sum() / pair[:, 1].sum()).detach()) for name, pair in found.items()}
    assert loss["loss_relations"] == pytest.approx(math.log(9), abs=0.2)
    assert loss["loss_positions"] == pytest.approx(math.log(64), abs=0.5)
    assert loss["floor_relations"] == pytest.approx(0.1914, abs=6e-5)
    optimizer = torch.optim.Adam(method.module.parameters(), 3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        method.loss(method.module, pixels, {}).groups.mean().backward()
        optimizer.step()
    after = method.loss(method.module, pixels, {}).scalars
    for task, trivial in (("relations", 1.9665), ("positions", math.log(64))):
        pair = after[f"loss_{task}"].sum(0)
        assert float((pair[0] / pair[1]).detach()) < 0.9 * trivial


def test_images_do_not_touch_each_other() -> None:
    method, clean = build(job({"name": "relvit"})), images(8)
    before = method.loss(method.module, clean, {}).outputs["relations"]
    clean[3] += 1
    after = method.loss(method.module, clean, {}).outputs["relations"]
    assert (before != after).flatten(1).any(1).nonzero().flatten().tolist() == [3]


def test_pairs_are_scored_in_full_precision_under_autocast() -> None:
    method = build(job({"name": "relvit", **ALL}))
    with torch.autocast("cpu", torch.bfloat16):
        assert {prediction.dtype for prediction in method.module(images(4)[:, 0])} == {torch.float32}


def test_a_width_below_nine_still_has_a_query_of_each_class() -> None:
    method = blank(setting({"name": "relvit"}, model={"width": 8}))
    assert method.module.relations.query.weight.shape == (9, 8)
