"""I-JEPA: what is trained, what stays apart, the teacher, and what is refused."""

from typing import Any

import numpy as np
import pytest
import torch

from gmml_cluster.errors import SpecError
from gmml_cluster.methods import reference
from gmml_cluster.methods.build import build
from gmml_cluster.methods.ijepa import Ijepa
from tests.unit.methods.jobs import job

CPU = torch.device("cpu")
OPTIONS = {"name": "ijepa", "predictor_width": 16, "predictor_depth": 2}
PADDED = {"masks": "padded", "min_keep": 4}


def make(**options: Any) -> Ijepa:
    """A small method on a grid of 8, its weights moved so far that everything shows."""
    method = build(job({**OPTIONS, **options}, image_size=32))
    assert isinstance(method, Ijepa)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in method.module.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return method


def images(count: int) -> torch.Tensor:
    return torch.randn(count, 1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("options", [{}, PADDED, {**PADDED, "cut": "group"}], ids=str)
def test_all_but_the_teacher_is_trained_by_every_micro_batch(options: dict[str, Any]) -> None:
    method = make(**options)
    method.loss(method.module, images(4), method.draw(torch.arange(4), CPU)).groups.sum().backward()
    without = {name for name, parameter in method.module.named_parameters() if parameter.grad is None}
    assert without == {name for name, _ in method.module.named_parameters() if name.startswith("teacher.encoder.")}
    gradients = {name: p.grad for name, p in method.module.named_parameters() if p.grad is not None}
    assert all(bool(gradient.any()) for gradient in gradients.values())


def test_the_bias_of_keys_has_no_gradient() -> None:
    method = make()
    method.module.double()
    drawn = method.draw(torch.arange(4), CPU)
    method.loss(method.module, images(4).double(), drawn).groups.sum().backward()
    for part in ("encoder", "predictor"):
        gradient = method.module.get_parameter(f"{part}.blocks.1.attn.qkv.bias").grad
        assert gradient is not None
        assert float(gradient.view(3, -1)[1].abs().max()) < 1e-12 * float(gradient.abs().max()) + 1e-16


@pytest.mark.parametrize("options", [{}, PADDED], ids=str)
def test_images_do_not_touch_each_other(options: dict[str, Any]) -> None:
    method = make(**options)
    drawn, pixels = method.draw(torch.arange(8), CPU), images(8)
    before = method.loss(method.module, pixels, drawn).outputs
    pixels[3] += 1
    after = method.loss(method.module, pixels, drawn).outputs
    for name in ("prediction", "target"):
        differs = (before[name] != after[name]).flatten(1).any(1)
        assert differs.nonzero().flatten().tolist() == [3]


def test_the_encoder_sees_the_context_alone_and_the_teacher_the_whole_image() -> None:
    method = make()
    drawn, pixels = method.draw(torch.arange(4), CPU), images(4)
    before = method.loss(method.module, pixels, drawn).outputs
    hidden = (~drawn["context"]).view(4, 1, 1, 8, 8).repeat_interleave(4, 3).repeat_interleave(4, 4)
    after = method.loss(method.module, torch.where(hidden, pixels + 1, pixels), drawn).outputs
    assert torch.equal(before["prediction"], after["prediction"])
    assert bool((before["target"] != after["target"]).flatten(1).any(1).all())


def test_targets_do_not_see_each_other() -> None:
    method = make()
    drawn, pixels = method.draw(torch.arange(4), CPU), images(4)
    before = method.loss(method.module, pixels, drawn).outputs["prediction"]
    drawn["target_index"] = drawn["target_index"].clone()
    drawn["target_index"][:, 2] = drawn["target_index"][:, 0]
    after = method.loss(method.module, pixels, drawn).outputs["prediction"]
    assert torch.equal(before[:, [0, 1, 3]], after[:, [0, 1, 3]])
    assert torch.equal(after[:, 2], after[:, 0])


def test_padded_and_fixed_masks_of_the_same_rectangles_have_one_loss() -> None:
    fixed, padded = make(), make(**PADDED)
    drawn, pixels = fixed.draw(torch.arange(8), CPU), images(8)
    given = padded.accept({name: drawn[name] for name in ("target", "context")}, 8)
    assert "context_real" in given
    assert "context_real" not in drawn
    with torch.no_grad():
        losses = [some.loss(some.module, pixels, d).groups for some, d in ((fixed, drawn), (padded, given))]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=0)


def test_scalars_count_tokens_and_watch_for_collapse() -> None:
    method = make(**PADDED, cut="group")
    drawn = method.draw(torch.arange(8), CPU)
    scalars = method.loss(method.module, images(8), drawn).scalars
    least = drawn["context"].sum(1).view(2, 4).amin(1)
    assert scalars["context"].tolist() == [[4 * int(count), 4] for count in least]
    areas = (drawn["target"][..., 2] * drawn["target"][..., 3]).view(2, -1).sum(1)
    assert scalars["target"][:, 0].tolist() == areas.tolist()
    assert scalars["short"].tolist() == [[0, 4]] * 2
    assert float(scalars["teacher_std"][:, 0].min()) > 0.01
    same = method.loss(method.module, images(1).expand(8, -1, -1, -1, -1), drawn).scalars
    assert float(same["teacher_std"][:, 0].max()) < 1e-5


def test_the_teacher_begins_as_the_encoder_and_moves_by_one_less_the_momentum() -> None:
    method = build(job(OPTIONS, image_size=32))
    assert isinstance(method, Ijepa)
    state = method.module.state_dict()
    update = method.after_step(50, 100)
    assert update.weight == pytest.approx(0.002)
    assert method.after_step(150, 100).weight == 0, "a schedule that is over"
    assert set(update.targets) == {name for name in state if name.startswith("teacher.")}
    assert all(torch.equal(state[t], state[s]) for t, s in zip(update.targets, update.sources, strict=True))


def test_an_init_scaled_by_depth_divides_what_ends_a_branch() -> None:
    plain, scaled = (build(job({**OPTIONS, "scaled_init": on})).module.state_dict() for on in (False, True))
    for name, value in plain.items():
        block = int(name.partition("blocks.")[2].partition(".")[0] or -1) + 1
        ends = name.endswith(("attn.proj.weight", "mlp.fc2.weight"))
        torch.testing.assert_close(scaled[name], value / (2 * block) ** 0.5 if ends else value, rtol=1e-6, atol=0)


SPEC: dict[str, Any] = {
    "model": {"width": 16, "depth": 2, "heads": 2, "patch_size": 4, "image_size": 32},
    "method": OPTIONS,
    "data": {"group": 4},
}


def refusal(spec: dict[str, Any]) -> str:
    with pytest.raises(SpecError) as refused:
        reference.draw(spec, [0])
    return str(refused.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"predictor_width": 20, "predictor_heads": 3},
            "method.predictor_heads: 3 heads do not divide the predictor's",
        ),
        ({"cut": "group"}, "method.cut: group does not fit; contexts of fixed masks have one number of patches"),
        ({"context_patches": 38}, "method.context_patches: 38 patches do not fit; masks on a grid of 8 leave 37"),
        (
            {"masks": "padded"},
            "method.min_keep: 10 does not fit; targets on a grid of 8 may have 9 patches; write 8 or",
        ),
        (
            {**PADDED, "context_patches": 4},
            "method.context_patches: 4 does not fit; contexts have more than min_keep (4)",
        ),
        (
            {**PADDED, "target_scale": [1, 1]},
            "method.target_scale: targets of 49 patches leave 0 of 49 to the context, which has more than min_keep (4)",
        ),
        ({"target_scale": [0.9, 1.0]}, "method.target_scale: 12 patches do not fit; masks on a grid of 8 leave 0"),
        ({"target_scale": [0.3, 0.2]}, "method.target_scale: [0.3, 0.2] runs backwards"),
        ({"targets": 5}, "method.targets: 5"),
    ],
    ids=str,
)
def test_options_that_do_not_fit_are_refused_by_field(options: dict[str, Any], message: str) -> None:
    assert message in refusal({**SPEC, "method": {**OPTIONS, **options}})


@pytest.mark.parametrize("masks", ["fixed", "padded"])
@pytest.mark.parametrize(("patch_size", "border"), [(16, "full"), (16, "released"), (8, "released")])
def test_a_grid_without_room_for_a_target_and_a_context_is_refused(patch_size: int, border: str, masks: str) -> None:
    spec = {**SPEC, "model": {**SPEC["model"], "patch_size": patch_size}, "data": {**SPEC["data"], "image_size": 16}}
    spec["method"] = {**OPTIONS, "masks": masks, "border": border}
    assert "rows of patches; a target and its context take two" in refusal(spec)


def test_drop_path_is_refused() -> None:
    assert "I-JEPA drops no blocks" in refusal({**SPEC, "model": {**SPEC["model"], "drop_path": 0.1}})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": None}, "draws.target: absent"),
        ({"target": np.array([[[7, 0, 2, 1]]] * 4)}, "draws.target: holds no rectangle, or one that is not whole"),
        ({"target": np.zeros((4, 4))}, "draws.target: shape (4, 4)"),
        ({"context": np.zeros((4, 64), bool)}, "draws.context: is empty for an image"),
        ({"mask": np.zeros((4, 64), bool)}, "draws.mask: unknown"),
    ],
    ids=str,
)
def test_faulty_draws_are_refused_by_name(changes: dict[str, Any], message: str) -> None:
    given = {"target": np.array([[[0, 0, 2, 2]]] * 4), "context": np.ones((4, 64), bool), **changes}
    shallow = build(job(OPTIONS, image_size=32, model={"depth": 2})).module.state_dict()
    state = {name: value.numpy() for name, value in shallow.items()}
    with pytest.raises(SpecError) as refused:
        reference.verify(SPEC, state, images(4).numpy(), {n: v for n, v in given.items() if v is not None})
    assert message in str(refused.value)
