"""The layouts of published checkpoints, each with every tensor taken, dropped or refused."""

import pytest
import torch
from torch.nn import functional as F

from gmml_cluster.errors import CheckpointError
from gmml_cluster.methods.build import blank, build
from gmml_cluster.methods.protocol import Setting
from gmml_cluster.models.regrid import on_grid
from gmml_cluster.models.relative import table_rows
from gmml_cluster.models.vit import sincos_positions
from gmml_cluster.spec.loading.validate import parse_job
from gmml_cluster.train.checkpoints.public_names import listed, translated
from gmml_cluster.train.engines.slices import saved_shapes

JOB = {
    "name": "imported",
    "model": {"width": 16, "depth": 2, "heads": 2, "patch_size": 4},
    "method": {"name": "gmml"},
    "data": {"corpora": [{"url": "x"}], "image_size": 16, "group": 8},
    "batch": {"size": 64},
    "run": {"steps": 10},
}
MAE = {"name": "mae", "decoder_width": 8, "decoder_depth": 1, "decoder_heads": 1}
RELATIVE = {"positions": "relative", "key_bias": False, "layer_scale": True}


def job(method=None, **changes):
    return parse_job({**JOB, "method": method or JOB["method"], **changes})


def of(given, spec, decoder=False):
    """What is taken of these tensors for a job."""
    module = blank(Setting.of(spec)).module
    needed = saved_shapes(module)
    computed = {name: buffer for name, buffer in module.named_buffers() if name not in needed}
    return translated(given, needed, computed, decoder=decoder)


def encoder(spec=None):
    """An encoder by timm's names, as another training left it."""
    state = build(spec or job()).module.encoder.state_dict()
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(value.shape, generator=generator) for name, value in state.items()}


def assert_taken(found, expected, under="encoder."):
    assert found.weights.keys() == {under + name for name in expected}
    assert all(torch.equal(found.weights[under + name], value) for name, value in expected.items())


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "module.backbone.", "encoder.", "teacher.backbone."])
def test_timms_names_are_ours_behind_any_wrapper(prefix):
    theirs = encoder()
    heads = {f"{prefix}head.weight": torch.ones(3, 16), f"{prefix}head.bias": torch.ones(3)}
    found = of({**{prefix + name: value for name, value in theirs.items()}, **heads}, job())
    assert_taken(found, theirs)
    assert found.dropped == ["head.weight", "head.bias"]


def test_of_a_student_and_a_teacher_the_teacher_is_taken():
    student, teacher = encoder(), {name: -value for name, value in encoder().items()}
    given = {f"student.backbone.{name}": value for name, value in student.items()}
    given |= {f"teacher.backbone.{name}": value for name, value in teacher.items()}
    given |= {"teacher.head.mlp.0.weight": torch.ones(1)}
    found = of(given, job())
    assert_taken(found, teacher)
    assert listed(found.dropped) == f"student ({len(student)}), teacher"


def test_the_norm_behind_a_mean_is_the_norm():
    theirs = encoder()
    renamed = {name.replace("norm.", "fc_norm.") if name.startswith("norm.") else name: theirs[name] for name in theirs}
    assert_taken(of(renamed, job()), theirs)


def test_gmmls_release_leaves_its_head_behind():
    theirs = encoder()
    given = {f"module.backbone.{name}": value for name, value in theirs.items()}
    found = of({**given, "module.head_recons.mlp.0.weight": torch.ones(1)}, job())
    assert_taken(found, theirs)
    assert listed(found.dropped) == "module.head_recons"


def test_half_precision_is_taken_as_float32():
    halved = {name: value.bfloat16() for name, value in encoder().items()}
    assert_taken(of(halved, job()), {name: value.float() for name, value in halved.items()})


def released_mae(spec):
    """Names of the released code, from the tensors of a MAE of ours."""
    module = build(spec).module
    state = {**module.state_dict(), **{name: buffer.float() for name, buffer in module.named_buffers()}}
    of_decoder = {name.removeprefix("decoder."): value for name, value in state.items() if name.startswith("decoder.")}
    named = {name if name == "mask_token" else f"decoder_{name}": value for name, value in of_decoder.items()}
    of_encoder = {name.removeprefix("encoder."): state[name] for name in state if name.startswith("encoder.")}
    return {**of_encoder, **named}, module.state_dict()


def test_a_mae_takes_encoder_and_decoder_of_maes_release():
    spec = job(MAE)
    given, ours = released_mae(spec)
    assert {"pos_embed", "decoder_pos_embed", "mask_token", "decoder_blocks.0.attn.qkv.weight"} <= given.keys()
    found = of(given, spec, decoder=True)
    assert_taken(found, ours, under="")
    assert found.dropped == []


@pytest.mark.parametrize(
    "method", [{**MAE, "decoder_width": 16}, {**MAE, "decoder_depth": 2}, {"name": "gmml"}], ids=str
)
def test_another_decoder_or_none_leaves_it_behind(method):
    given, ours = released_mae(job(MAE))
    spec = job(method)
    found = of(given, spec, decoder=method["name"] == "mae")
    assert {"encoder." + name for name in encoder(spec)} == set(found.weights)
    assert listed(found.dropped).startswith("mask_token, ")
    assert {name for name in given if "decoder" in name} <= set(found.dropped)
    for name in set(found.weights) & set(ours):
        assert torch.equal(found.weights[name], ours[name])


def test_learned_positions_do_not_pass_for_maes_fixed_ones():
    with pytest.raises(CheckpointError, match=r"tensors: learned positions, while those .* are MAE's fixed table"):
        of({**encoder(), "decoder_pred.bias": torch.ones(1)}, job(MAE))


def test_learned_positions_of_another_grid_are_interpolated():
    theirs = {**encoder(), "pos_embed": torch.randn(1, 65, 16, generator=torch.Generator().manual_seed(4))}
    found = of(theirs, job()).weights
    cells = theirs["pos_embed"][:, 1:].unflatten(1, (8, 8)).permute(0, 3, 1, 2)
    expected = F.interpolate(cells, size=(4, 4), mode="bicubic", antialias=True).flatten(2).mT
    torch.testing.assert_close(found["encoder.pos_embed"][:, 1:], expected, rtol=0, atol=1e-5)
    assert torch.equal(found["encoder.pos_embed"][:, :1], theirs["pos_embed"][:, :1])


def test_maes_fixed_positions_of_another_grid_are_those_of_the_grid_here():
    other = sincos_positions(16, 8).float()
    found = of({**encoder(), "pos_embed": other}, job()).weights
    assert torch.equal(found["encoder.pos_embed"], sincos_positions(16, 4).float())
    released, ours = released_mae(job(MAE))
    found = of({**released, "pos_embed": other, "decoder_pos_embed": sincos_positions(8, 8).float()}, job(MAE), True)
    assert found.weights.keys() == ours.keys()
    assert found.dropped == []


def test_relative_positions_of_another_grid_are_taken():
    spec = job({"name": "supervised", "classes": 3, "encoder": RELATIVE})
    name = "rel_pos_bias.relative_position_bias_table"
    given = {**encoder(spec), name: torch.randn(table_rows(8), 2, generator=torch.Generator().manual_seed(4))}
    found = of(given, spec).weights[f"encoder.{name}"]
    assert torch.equal(found, on_grid(name, given[name], (table_rows(4), 2)))


def test_positions_of_another_shape_are_refused_with_both_grids():
    message = r"positions of 8 x 8 patches and no class token \[1, 64, 16\], while there are 4 x 4 patches and a class"
    for method in (None, MAE):
        with pytest.raises(CheckpointError, match=message):
            of({**encoder(), "pos_embed": torch.zeros(1, 64, 16)}, job(method))


def test_an_encoder_without_positions_takes_only_zeros_for_them():
    spec = job({"name": "relvit"})
    theirs = encoder(spec)
    assert_taken(of({**theirs, "pos_embed": torch.zeros(1, 17, 16)}, spec), theirs)
    with pytest.raises(CheckpointError, match="tensors: positions, while the encoder here adds none"):
        of({**theirs, "pos_embed": torch.ones(1, 17, 16)}, spec)


def test_relative_positions_and_layer_scale_are_taken():
    spec = job({"name": "supervised", "classes": 3, "encoder": RELATIVE})
    theirs = encoder(spec)
    given = {name.replace("gamma_1", "ls1.gamma").replace("gamma_2", "ls2.gamma"): theirs[name] for name in theirs}
    found = of({**given, "rel_pos_bias.relative_position_index": torch.ones(2, 2)}, spec)
    assert_taken(found, theirs)
    assert found.dropped == ["rel_pos_bias.relative_position_index"]


def test_all_that_does_not_fit_is_reported_at_once_with_shapes():
    given = {**encoder(), "blocks.0.mlp.fc1.bias": torch.ones(32), "dist_token": torch.ones(1, 1, 16)}
    del given["norm.bias"], given["pos_embed"]
    with pytest.raises(CheckpointError) as refused:
        of(given, job())
    assert str(refused.value) == (
        "tensors: no pos_embed, whose learned values are needed here; 1 missing: encoder.norm.bias [16]; "
        "1 of another shape: encoder.blocks.0.mlp.fc1.bias [32], here [64]; "
        "1 unknown here: encoder.dist_token [1, 1, 16]; give model and data.image_size its shape, and take a method "
        "(or method.encoder) with its kind of encoder"
    )


def test_another_depth_is_refused_and_long_lists_are_cut():
    spec = job(model={**JOB["model"], "depth": 1})
    with pytest.raises(CheckpointError, match=r"12 unknown here: encoder.blocks.1.norm1.weight \[16\], .* and 7 more"):
        of(encoder(), spec)


@pytest.mark.parametrize("given", [{"conv1.weight": torch.ones(1)}, {f"{n}.patch_embed.proj.weight": 0 for n in "ab"}])
def test_what_is_not_one_encoder_is_refused(given):
    with pytest.raises(CheckpointError, match=r"tensors: [02] tensors are called patch_embed.proj.weight; it must be"):
        of(given, job())
