"""SimMIM: counts at the published sizes, what the plan counts, what is refused, and what is shown."""

from typing import Any

import pytest
import torch

from gmml_cluster.errors import SpecError
from gmml_cluster.methods.build import blank, build
from gmml_cluster.methods.simmim import MASKED, to_images, to_patches
from gmml_cluster.spec.job import SIZES
from gmml_cluster.spec.loading.validate import parse_job
from tests.unit.methods.jobs import job, setting

CPU = torch.device("cpu")


@pytest.mark.parametrize(("size", "total"), [("small", 21_895_080), ("base", 86_256_720), ("large", 303_924_416)])
def test_parameters_are_the_published_ones_and_the_plans(size: str, total: int) -> None:
    spec = job({"name": "simmim"}, image_size=224, model=SIZES[size])
    module = blank(setting({"name": "simmim"}, image_size=224, model=SIZES[size])).module
    assert sum(p.numel() for p in module.parameters()) == total
    assert spec.method.counts(spec.model, 224).trained == total


@pytest.mark.parametrize("flags", [{}, {"plain": True}, {"final_norm": False}, {"plain": True, "final_norm": False}])
def test_what_is_trained_and_frozen_is_what_the_plan_counts(flags: dict[str, Any]) -> None:
    spec = job({"name": "simmim", **flags})
    counts, module = spec.method.counts(spec.model, 16), build(spec).module
    assert sum(p.numel() for p in module.parameters() if p.requires_grad) == counts.trained
    assert sum(p.numel() for p in module.parameters() if not p.requires_grad) == counts.frozen


def test_visible_patches_have_no_gradient() -> None:
    method = build(job({"name": "simmim"}))
    draws = method.draw(torch.arange(4), CPU)
    made: list[torch.Tensor] = []

    def forward(*inputs: Any) -> torch.Tensor:
        made.append(method.module(*inputs))
        made[0].retain_grad()
        return made[0]

    images = torch.randn(4, 1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    method.loss(forward, images, draws).groups.sum().backward()
    touched = made[0].grad.abs().sum(2) > 0
    assert torch.equal(touched, draws["mask"])
    assert {name for name, p in method.module.named_parameters() if p.grad is None} == set()


def test_what_is_masked_is_shown_grey_and_then_as_predicted() -> None:
    method = build(job({"name": "simmim"}))
    draws, images = method.draw(torch.arange(4), CPU), torch.rand(4, 1, 3, 16, 16)
    outputs = method.loss(method.module, images, draws).outputs
    picture = method.show(images, draws, outputs, grey=torch.tensor([0.1, 0.2, 0.3]))
    pixels = draws["mask"].view(4, 1, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3).expand(4, 3, 16, 16)
    assert picture.kinds == (MASKED,) * 4
    assert torch.equal(picture.corrupted[~pixels], images[:, 0][~pixels])
    assert sorted(set(picture.corrupted[pixels].tolist())) == pytest.approx([0.1, 0.2, 0.3])
    assert torch.equal(to_patches(picture.reconstructed, 4)[draws["mask"]], outputs["prediction"][draws["mask"]])
    assert torch.equal(to_images(to_patches(images[:, 0], 4), 4), images[:, 0])


@pytest.mark.parametrize(
    ("options", "match"),
    [({"cell": 3}, "method.cell: cells of 3 patches"), ({"mask_ratio": 0.9}, "method.mask_ratio: a mask_ratio of 0.9")],
)
def test_cells_that_leave_nothing_or_do_not_fit_are_refused(options: dict[str, Any], match: str) -> None:
    fields = job({"name": "simmim", **options}).model_dump(mode="json", exclude_unset=True)
    with pytest.raises(SpecError, match=match):
        parse_job(fields)
