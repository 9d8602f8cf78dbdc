"""The encoder of a run is a plain module that timm's model of that size takes strictly."""

from pathlib import Path

import pytest
import torch

from gmml_cluster.errors import CheckpointError
from gmml_cluster.methods.build import build
from gmml_cluster.methods.protocol import exported_name
from gmml_cluster.models.regrid import on_grid
from gmml_cluster.run import protocol
from gmml_cluster.run.folders import checkpoint_folder
from gmml_cluster.run.root import SPEC, RunRoot, create_run
from gmml_cluster.spec.job import JobSpec
from gmml_cluster.spec.loading.validate import parse_job, to_yaml
from gmml_cluster.train.checkpoints.load_trained import load_encoder, load_trained
from gmml_cluster.train.engines.slices import Slice
from tests.unit.train.checkpoints.test_save import save

METHODS = {
    "gmml": {"name": "gmml", "views": 1},
    "mae": {"name": "mae", "decoder_width": 8, "decoder_depth": 1, "decoder_heads": 1},
}
WITHOUT_POSITIONS = {"relvit": {"name": "relvit"}}
WITHOUT_CLASS_TOKEN = {"ijepa": {"name": "ijepa", "predictor_width": 8, "predictor_depth": 1}}
ROTARY = {"capi": {"name": "capi", "clusters": 4, "registers": 4, "predictor_depth": 1}}
RELATIVE = {"simmim": {"name": "simmim"}, "conmim": {"name": "conmim", "projector": [8, 8, 4]}}
ALL = METHODS | WITHOUT_POSITIONS | WITHOUT_CLASS_TOKEN | ROTARY | RELATIVE
# of timm 1.0.31: VisionTransformer(num_classes=0, embed_dim=8, depth=1, num_heads=1, patch_size=4, img_size=16)
TIMM = {
    "cls_token": (1, 1, 8),
    "pos_embed": (1, 17, 8),
    "patch_embed.proj.weight": (8, 3, 4, 4),
    "patch_embed.proj.bias": (8,),
    "blocks.0.norm1.weight": (8,),
    "blocks.0.norm1.bias": (8,),
    "blocks.0.attn.qkv.weight": (24, 8),
    "blocks.0.attn.qkv.bias": (24,),
    "blocks.0.attn.proj.weight": (8, 8),
    "blocks.0.attn.proj.bias": (8,),
    "blocks.0.norm2.weight": (8,),
    "blocks.0.norm2.bias": (8,),
    "blocks.0.mlp.fc1.weight": (32, 8),
    "blocks.0.mlp.fc1.bias": (32,),
    "blocks.0.mlp.fc2.weight": (8, 32),
    "blocks.0.mlp.fc2.bias": (8,),
    "norm.weight": (8,),
    "norm.bias": (8,),
}


def saved_run(folder: Path, name: str, *, steps: tuple[int, ...] = (3,)) -> RunRoot:
    """The saved run of a small job, which has the method's name."""
    job = parse_job(
        {
            "name": name,
            "model": {"width": 8, "depth": 1, "heads": 1, "patch_size": 4},
            "method": ALL[name],
            "data": {"corpora": [{"url": "x"}], "image_size": 16, "group": 4, "augment": {"aligned": True}},
            "batch": {"size": 8},
            "run": {"steps": 10},
            "engine": {"activation_checkpointing": True},
        }
    )
    return saved(folder, job, steps=steps)


def saved(folder: Path, job: JobSpec, *, steps: tuple[int, ...] = (3,)) -> RunRoot:
    """A run whose commits hold its initial weights, moved by a hundredth of their step, a teacher's by twice that."""
    run = create_run(str(folder), job.name, {SPEC: to_yaml(job).encode()}, {})
    token = protocol.submit(run.log, launcher="local", code="c", bounds={})
    attempt = protocol.claim(run.log, submit=token, job="1", restart=0, topology={}, machine={}).attempt
    for step in steps:
        weights = {
            name: value + step / (50 if name.startswith("teacher.") else 100)
            for name, value in build(job).module.state_dict().items()
        }
        whole = [Slice(name, tuple(w.shape), 0, {"value": w.flatten()}) for name, w in weights.items()]
        home = folder / job.name
        _, made = save(home, [whole], step=step)
        (home / made.folder).rename(home / checkpoint_folder(step, attempt))
        protocol.commit(run.log, attempt, step=step, manifest=made.manifest_sha256, size=1, seconds=1.0)
    return run


def images() -> torch.Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("method", METHODS)
def test_an_encoder_has_timms_names_and_shapes(tmp_path: Path, method: str) -> None:
    encoder = load_encoder(saved_run(tmp_path, method))
    assert {name: tuple(value.shape) for name, value in encoder.state_dict().items()} == TIMM
    assert {(p.dtype, p.device.type) for p in encoder.parameters()} == {(torch.float32, "cpu")}
    assert not encoder.training
    assert not encoder.checkpointing


@pytest.mark.parametrize("method", ALL)
def test_an_encoder_computes_what_the_run_trained_fixed_positions_included(tmp_path: Path, method: str) -> None:
    run = saved_run(tmp_path, method)
    trained = load_trained(str(tmp_path), method).method
    with torch.no_grad():
        assert torch.equal(load_encoder(run)(images()), trained.module.get_submodule(exported_name(trained))(images()))


def test_an_encoder_is_of_the_latest_commit_or_of_the_step_that_is_asked_for(tmp_path: Path) -> None:
    run = saved_run(tmp_path, "gmml", steps=(3, 7))
    latest, asked = load_encoder(run), load_encoder(run, step=3)
    torch.testing.assert_close(latest.cls_token, asked.cls_token + 0.04)
    with pytest.raises(CheckpointError, match="known are"):
        load_encoder(run, step=4)


@pytest.mark.parametrize("method", [*METHODS, *WITHOUT_CLASS_TOKEN])
def test_timm_takes_it_strictly_and_computes_the_same(tmp_path: Path, method: str) -> None:
    try:
        from timm.models.vision_transformer import VisionTransformer
    except Exception as error:
        # timm needs torchvision, which does not import beside a torch of another build, and not with an ImportError
        pytest.skip(f"timm: {type(error).__name__}: {error}")
    encoder = load_encoder(saved_run(tmp_path, method))
    bare = {"class_token": False, "global_pool": "avg", "fc_norm": False} if method in WITHOUT_CLASS_TOKEN else {}
    shape = {"embed_dim": 8, "depth": 1, "num_heads": 1, "patch_size": 4, "img_size": 16}
    theirs = VisionTransformer(num_classes=0, **shape, **bare).eval()
    theirs.load_state_dict(encoder.state_dict(), strict=True)
    with torch.no_grad():
        torch.testing.assert_close(encoder(images()), theirs.forward_features(images()))


@pytest.mark.parametrize("method", ALL)
def test_at_another_image_size_positions_alone_are_others(tmp_path: Path, method: str) -> None:
    run = saved_run(tmp_path, method)
    own, larger = load_encoder(run), load_encoder(run, image_size=32)
    for name, value in own.state_dict().items():
        found = larger.state_dict()[name]
        assert torch.equal(found, on_grid(name, value, tuple(found.shape)))
    with torch.no_grad():
        assert larger(torch.zeros(1, 3, 32, 32)).shape[1] == larger.prefix_tokens + 64
        assert torch.equal(load_encoder(run, image_size=16)(images()), own(images()))


def test_patches_that_do_not_fill_the_image_are_refused_with_a_size(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="image size: 30 is no multiple of the patch of 4; take 32"):
        load_encoder(saved_run(tmp_path, "gmml"), image_size=30)
