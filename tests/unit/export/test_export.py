"""An exported encoder loads into the other library with no key left over, and computes there what it computes here."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from gmml_cluster.cli.export import FORMATS as OFFERED
from gmml_cluster.data.corpus.pin import pin
from gmml_cluster.errors import CheckpointError, SpecError
from gmml_cluster.export import encoder as exporting
from gmml_cluster.export.__main__ import main
from gmml_cluster.export.formats import FORMATS, to_onnx, to_timm, to_transformers
from gmml_cluster.export.targets import TRANSFORMERS_CLASS, family_of
from gmml_cluster.models.rope_vit import RopeEncoder, RopeShape
from gmml_cluster.models.vit import VisionTransformer
from gmml_cluster.run import protocol
from gmml_cluster.run.results.evaluations import keep
from gmml_cluster.run.root import corpora_name
from gmml_cluster.spec.job import CorpusSpec, JobSpec
from gmml_cluster.spec.loading.validate import parse_job
from gmml_cluster.train.checkpoints.load_trained import load_encoder, load_trained
from tests.fixtures.outputs import checked
from tests.fixtures.tolerances import assert_close_to_scale
from tests.unit.data.conftest import png, write_tar
from tests.unit.train.checkpoints.test_load_encoder import saved_run

SHAPE = {"width": 64, "depth": 3, "heads": 2, "patch_size": 4}
ENCODERS: dict[str, dict[str, Any]] = {
    "learned positions": {},
    "fixed positions": {"positions": "sincos"},
    "no positions": {"positions": "none"},
    "no class token": {"class_token": False},
    "relative positions": {"positions": "relative", "key_bias": False, "layer_scale": True},
}
# of timm 1.0.31: Beit(num_classes=0, embed_dim=64, depth=3, use_abs_pos_emb=False, use_rel_pos_bias=False,
# use_shared_rel_pos_bias=True, init_values=0.1, global_pool="token", ...)
TIMM_BEIT_BLOCK = {
    *("gamma_1", "gamma_2", "attn.q_bias", "attn.v_bias", "attn.qkv.weight"),
    *(
        f"{layer}.{kind}"
        for layer in ("norm1", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
        for kind in ("weight", "bias")
    ),
}


def job(**changes: Any) -> JobSpec:
    return parse_job(
        {
            "name": "exported",
            "model": SHAPE,
            "method": {"name": "gmml"},
            "data": {"corpora": [{"url": "x"}], "image_size": 32, "group": 4},
            "batch": {"size": 8},
            "run": {"steps": 10},
            **changes,
        }
    )


def encoder(**switches: Any) -> VisionTransformer:
    """An encoder in which no parameter is zero or one."""
    return filled(VisionTransformer(image_size=32, **SHAPE, **switches))


def rotary_encoder() -> RopeEncoder:
    return filled(RopeEncoder(RopeShape(64, 2, 8, 4.0, registers=4, halves=False), 3, patch_size=4))


def filled(made: Any) -> Any:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1 + (parameter.dim() == 1) * 0.5)
    return made.eval()


def images(count: int = 3) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("name", ENCODERS)
def test_transformers_loads_the_folder_with_no_key_left_over(tmp_path: Path, name: str) -> None:
    transformers = pytest.importorskip("transformers", minversion="5.0", reason="the oracle of the export")
    ours = encoder(**ENCODERS[name])
    to_transformers(ours, job(), tmp_path)
    model_class = getattr(transformers, TRANSFORMERS_CLASS[family_of(ours)])
    theirs, loading = model_class.from_pretrained(tmp_path, add_pooling_layer=False, output_loading_info=True)
    assert not any(loading[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), loading
    with torch.no_grad():
        assert_close_to_scale(theirs.eval()(images()).last_hidden_state, ours(images()), ulps=64)


def test_transformers_prepares_images_as_the_run_did(tmp_path: Path) -> None:
    to_transformers(encoder(), job(), tmp_path)
    preparation = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert preparation["size"] == {"height": 32, "width": 32}
    assert preparation["image_mean"] == [0.485, 0.456, 0.406]


@pytest.mark.parametrize("name", ["learned positions", "relative positions", "rotary positions"])
def test_an_onnx_graph_computes_the_same_for_any_number_of_images(tmp_path: Path, name: str) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="the oracle of the export")
    ours = encoder(**ENCODERS[name]) if name in ENCODERS else rotary_encoder()
    to_onnx(ours, job(), tmp_path)
    session = runtime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    for count in (1, 5):
        (found,) = session.run(["tokens"], {"images": images(count).numpy()})
        with torch.no_grad():
            assert_close_to_scale(torch.from_numpy(found), ours(images(count)), ulps=256)


@pytest.mark.parametrize("name", ENCODERS)
def test_timm_takes_the_weights_strictly_and_computes_the_same(tmp_path: Path, name: str) -> None:
    try:
        import timm
    except Exception as error:
        # it needs torchvision, which does not import beside a torch of another build, and not with an ImportError
        pytest.skip(f"timm: {type(error).__name__}: {error}")
    ours = encoder(**ENCODERS[name])
    to_timm(ours, job(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    weights = str(tmp_path / "model.safetensors")
    theirs = timm.create_model(config["architecture"], checkpoint_path=weights, **config["model_args"]).eval()
    with torch.no_grad():
        assert_close_to_scale(theirs.forward_features(images()), ours(images()), ulps=64)


def test_timms_names_of_a_relative_encoder(tmp_path: Path) -> None:
    to_timm(encoder(**ENCODERS["relative positions"]), job(), tmp_path)
    found = set(load_file(tmp_path / "model.safetensors"))
    blocks = {f"blocks.{number}.{name}" for number in range(3) for name in TIMM_BEIT_BLOCK}
    rest = {"cls_token", "patch_embed.proj.weight", "patch_embed.proj.bias", "norm.weight", "norm.bias"}
    assert found == blocks | rest | {"rel_pos_bias.relative_position_bias_table"}


@pytest.mark.parametrize("target", FORMATS)
def test_a_run_is_exported_whole_with_a_card(tmp_path: Path, target: str) -> None:
    run = saved_run(tmp_path, "mae", steps=(3, 7))
    out = tmp_path / "out"
    done = CliRunner().invoke(main, ["--root", run.root, "--run", "mae", "--to", target, "--output", str(out)])
    assert done.exit_code == 0, done.output
    assert "at step 7" in done.output
    card = (out / "README.md").read_text()
    assert "| images drawn | 64 (8 steps of 8) |" in card
    assert f"manifest SHA-256 `{run.log.refresh().commits[-1].manifest}`" in card
    assert "name: mae" in card
    assert sorted(os.listdir(tmp_path)) == ["mae", "out"]  # nothing half-written is left


def test_programs_get_what_was_exported_or_why_not(tmp_path: Path) -> None:
    run, out = saved_run(tmp_path, "mae", steps=(3, 7)), tmp_path / "out"
    asked = ["--root", run.root, "--run", "mae", "--to", "safetensors", "--output", str(out), "--json"]
    (document,) = checked("export", CliRunner().invoke(main, asked).stdout)
    assert (document["step"], document["files"]) == (7, sorted(os.listdir(out)))
    again = CliRunner().invoke(main, asked)
    (fault,) = checked("export", again.stdout)
    assert (again.exit_code, fault["error"], fault["faults"][0]["where"]) == (2, "SpecError", str(out))


def test_conmims_teacher_is_exported_and_loads_as_a_beit(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", minversion="5.0", reason="the oracle of the export")
    run, out = saved_run(tmp_path, "conmim"), tmp_path / "out"
    asked = ["--root", run.root, "--run", "conmim", "--to", "transformers", "--output", str(out)]
    done = CliRunner().invoke(main, asked)
    assert done.exit_code == 0, done.output
    theirs = transformers.BeitModel.from_pretrained(out, add_pooling_layer=False).eval()
    module = load_trained(run.root, "conmim").method.module
    pixels = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = theirs(pixels).last_hidden_state
        assert_close_to_scale(found, module.get_submodule("teacher.encoder")(pixels), ulps=64)
        assert (found - module.get_submodule("encoder")(pixels)).abs().max() > 1e-3


def test_another_image_size_is_exported_with_positions_of_its_grid(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", minversion="5.0", reason="the oracle of the export")
    run, out = saved_run(tmp_path, "gmml"), tmp_path / "out"
    asked = ["--root", run.root, "--run", "gmml", "--to", "transformers", "--output", str(out), "--image-size", "32"]
    done = CliRunner().invoke(main, asked)
    assert done.exit_code == 0, done.output
    theirs = transformers.ViTModel.from_pretrained(out, add_pooling_layer=False).eval()
    with torch.no_grad():
        expected = load_encoder(run, image_size=32)(images())
        assert_close_to_scale(theirs(images()).last_hidden_state, expected, ulps=64)
    card = (out / "README.md").read_text()
    assert "| images | RGB in [0, 1], 32 x 32, trained at 16 x 16, less the mean" in card


@pytest.mark.parametrize("target", ["timm", "transformers"])
def test_what_no_model_there_computes_is_refused_by_name(tmp_path: Path, target: str) -> None:
    run = saved_run(tmp_path, "capi")
    message = r"--to: no model there computes this encoder: it has rotary positions .*; write it by --to onnx or"
    with pytest.raises(CheckpointError, match=message):
        exporting.export_encoder(run, target, tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["capi"]


def test_an_encoder_with_registers_is_written_as_tensors(tmp_path: Path) -> None:
    run = saved_run(tmp_path, "capi")
    exporting.export_encoder(run, "safetensors", tmp_path / "out")
    expected, found = load_encoder(run).state_dict(), load_file(tmp_path / "out" / "model.safetensors")
    assert {"reg_token", "blocks.0.attn.qkv.weight"} <= found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_the_step_that_is_asked_for_is_exported(tmp_path: Path) -> None:
    run = saved_run(tmp_path, "gmml", steps=(3, 7))
    assert exporting.export_encoder(run, "safetensors", tmp_path / "out", 3) == 3
    expected = load_encoder(run, 3).state_dict()
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_folder_with_files_is_refused_and_kept(tmp_path: Path) -> None:
    run, out = saved_run(tmp_path, "gmml"), tmp_path / "out"
    out.mkdir()
    (out / "precious").write_text("kept")
    with pytest.raises(SpecError, match="is not an empty folder; name another by --output"):
        exporting.export_encoder(run, "timm", out)
    assert (out / "precious").read_text() == "kept"


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = saved_run(tmp_path, "gmml")

    def full(*_: Any) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(FORMATS, "timm", full)
    with pytest.raises(OSError, match="No space left"):
        exporting.export_encoder(run, "timm", tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["gmml"]


def test_the_card_lists_the_corpora_that_the_run_pinned(tmp_path: Path) -> None:
    run = saved_run(tmp_path, "gmml")
    assert "Not recorded." in exporting.model_card(run, run.job({}), run.log.refresh().commits[-1], "")
    write_tar(tmp_path / "s.tar", [(f"{y}.png", png(np.zeros((8, 8), np.uint8))) for y in range(5)])
    pinned = pin([CorpusSpec(url=str(tmp_path / "s.tar"))])
    run.store.put(corpora_name(pinned.digest), pinned.to_bytes())
    protocol.pin(run.log, 1, {"corpora": pinned.digest, "layout": {}, "steps": 10})
    card = exporting.model_card(run, run.job({}), run.log.refresh().commits[-1], "")
    assert f"| {pinned.corpora[0].url} | 1 | 5 |" in card
    assert pinned.digest in card
    assert "tags: [self-supervised, gmml]" in card
    assert "trained by gmml without labels" in card


def test_the_card_has_the_scores_of_its_checkpoint_and_of_no_other(tmp_path: Path) -> None:
    run = saved_run(tmp_path, "gmml", steps=(3, 7))
    commit = run.log.refresh().commits[-1]
    assert "`gmml eval gmml --step 7` makes some" in exporting.model_card(run, run.job({}), commit, "")
    for step, accuracy in ((3, 11.1), (7, 42.25)):
        score = {"score": "knn", "feature": "mean", "accuracy": accuracy, "error": 1.04, "samples": 2500, "main": True}
        corpora = {name: {"url": f"c/{name}", "samples": 2500, "digest": "d"} for name in ("bank", "corpus")}
        keep(run, {"version": 2, "step": step, "untrained": False, "protocol": "p", "scores": [score], **corpora})
    card = exporting.model_card(run, run.job({}), commit, "")
    assert "| knn | mean | 42.2 ± 1.0 | 2,500 | c/corpus | c/bank |" in card
    assert "11.1" not in card


def test_the_command_offers_all_formats() -> None:
    assert set(OFFERED) == set(FORMATS)
