"""ConMIM: what the plan counts and notes, what gets gradients, and what is refused."""

from typing import Any

import pytest
import torch

from gmml_cluster.errors import SpecError
from gmml_cluster.methods.build import build
from gmml_cluster.plan.describe import describe
from gmml_cluster.plan.machine import Machine
from gmml_cluster.plan.plan import Plan, make_plan
from gmml_cluster.spec.loading.validate import load_profile, parse_job
from tests.unit.methods.jobs import job

CPU = torch.device("cpu")
OPTIONS = {"name": "conmim", "projector": [48, 40, 24]}


@pytest.mark.parametrize(
    ("options", "model", "size"),
    [
        ({}, {}, 16),
        ({"projector": [8, 24, 3]}, {"heads": 4, "depth": 2}, 32),
        ({"masks": "blocks"}, {"mlp_ratio": 2}, 16),
    ],
)
def test_what_is_trained_and_frozen_is_what_the_plan_counts(
    options: dict[str, Any], model: dict[str, Any], size: int
) -> None:
    spec = job({**OPTIONS, **options}, image_size=size, model=model)
    counts, parameters = spec.method.counts(spec.model, size), list(build(spec).module.parameters())
    assert sum(p.numel() for p in parameters if p.requires_grad) == counts.trained
    assert sum(p.numel() for p in parameters if not p.requires_grad) == counts.frozen


def test_every_trained_parameter_gets_a_gradient_and_the_teacher_none() -> None:
    method = build(job(OPTIONS))
    images = torch.randn(8, 2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    method.loss(method.module, images, method.draw(torch.arange(8), CPU)).groups.sum().backward()
    for name, parameter in method.module.named_parameters():
        assert (parameter.grad is None) is name.startswith("teacher."), name


def plan_of(group: int, *, image_size: int, patch: int, batch: int, **options: Any) -> Plan:
    data = {"corpora": [{"url": "nowhere"}], "image_size": image_size, "group": group}
    spec = job({**OPTIONS, **options}, model={"patch_size": patch}, data=data, batch={"size": batch})
    return make_plan(spec, load_profile("local"), None, Machine(2, 0))


def test_a_plan_notes_a_group_whose_batch_norms_have_few_rows_and_how_many_ranks_groups_leave() -> None:
    few = plan_of(8, image_size=224, patch=16, batch=64).notes
    assert "groups of 8 images give ConMIM's batch norms 1,576 rows, of 197 tokens an image" in few[0]
    assert "take a data.group of 64" in few[0]
    (note,) = plan_of(16, image_size=32, patch=4, batch=64).notes
    assert "1,040 rows, of 65 tokens an image; released are 12,608: take a data.group of 128" in note
    for group, image_size, patch in ((64, 224, 16), (128, 32, 4), (11, 224, 16)):
        assert not plan_of(group, image_size=image_size, patch=patch, batch=2 * group).notes
    (note,) = plan_of(11, image_size=224, patch=16, batch=22, amt={}).notes
    assert "1,595 rows, of 145 tokens an image" in note, "thrown tokens are no rows"
    lines = describe(plan_of(128, image_size=32, patch=4, batch=256))
    assert [line.split("  ")[-1].strip() for line in lines if line.startswith("batch")] == [
        "256 images, 2 groups of 128: 2 ranks at most"
    ]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"cell": 3}, "method.cell: cells of 3 patches do not divide a grid of 4"),
        ({"mask_ratio": 0.9}, "method.mask_ratio: a mask_ratio of 0.9 masks all cells"),
        ({"masks": "blocks", "mask_ratio": 0.05}, "method.mask_ratio: a mask_ratio of 0.05 masks none"),
    ],
)
def test_masks_that_hide_nothing_or_all_are_refused(options: dict[str, Any], match: str) -> None:
    fields = job({**OPTIONS, **options}, model={"drop_path": 0}).model_dump(mode="json", exclude_unset=True)
    fields["data"]["augment"] = "conmim"
    with pytest.raises(SpecError, match=match):
        parse_job(fields)
