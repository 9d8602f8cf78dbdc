"""Every method's run in every format, loaded there and compared: by `make drills`, as torch's ONNX exporter is slow."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from gmml_cluster.errors import CheckpointError
from gmml_cluster.export import encoder as exporting
from gmml_cluster.export import formats
from gmml_cluster.export.formats import FORMATS, WEIGHTS
from gmml_cluster.export.targets import TRANSFORMERS_CLASS, family_of
from gmml_cluster.models.encoders import AnyEncoder
from gmml_cluster.models.rope_vit import RopeEncoder
from gmml_cluster.spec.methods.plugins import BUILT_IN
from gmml_cluster.train.checkpoints.load_trained import load_encoder
from tests.fixtures.resumes import JOBS, STEPS
from tests.fixtures.tolerances import assert_close_to_scale
from tests.fixtures.training import digits_job
from tests.unit.train.checkpoints.test_load_encoder import saved

HEAD = {"classes": 10, "encoder": {"rotary": {"registers": 4}}}
OTHERS: dict[str, dict[str, Any]] = {
    "supervised, averaged": {"method": {"name": "supervised", "classes": 10, "ema": 0.9}},
    "finetune, of CAPI": {"method": {"name": "finetune", **HEAD}, "init": {"run": "other"}},
    "finetune, of I-JEPA": {
        "method": {"name": "finetune", "classes": 10, "encoder": {"class_token": False}},
        "init": {"run": "other"},
    },
    "attentive, of SimMIM": {
        "method": {
            "name": "attentive",
            "classes": 10,
            "queries": 8,
            "encoder": {"positions": "relative", "key_bias": False, "layer_scale": True},
        },
        "init": {"run": "other"},
    },
    "mae, amt": {"method": {**JOBS["mae"]["method"], "amt": True}},
}
CASES = JOBS | OTHERS


def test_no_method_is_left_out() -> None:
    assert {given["method"]["name"] for given in CASES.values()} >= set(BUILT_IN)


def images() -> Tensor:
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(2))


def by_transformers(folder: Path, ours: AnyEncoder) -> Tensor:
    transformers = pytest.importorskip("transformers", minversion="5.0", reason="the oracle of the export")
    model = getattr(transformers, TRANSFORMERS_CLASS[family_of(ours)])
    loaded, found = model.from_pretrained(folder, add_pooling_layer=False, output_loading_info=True)
    assert not any(found[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), found
    return loaded.eval()(images()).last_hidden_state  # type: ignore[no-any-return]


def by_onnx(folder: Path, ours: AnyEncoder) -> Tensor:
    runtime = pytest.importorskip("onnxruntime", reason="the oracle of the export")
    session = runtime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["tokens"], {"images": images().numpy()})[0])


def by_names(folder: Path, ours: AnyEncoder) -> Tensor:
    """Of the weights as they lie there; timm itself compares them where it is installed (tests/unit/export)."""
    taken = {name: value for name, value in load_file(folder / WEIGHTS).items() if name in ours.state_dict()}
    ours.load_state_dict(taken, strict=True)
    return ours(images())  # type: ignore[no-any-return]


LOADED: dict[str, Callable[[Path, AnyEncoder], Tensor]] = {
    "timm": by_names,
    "transformers": by_transformers,
    "onnx": by_onnx,
    "safetensors": by_names,
}


@pytest.mark.parametrize("target", FORMATS)
@pytest.mark.parametrize("name", CASES)
def test_a_run_is_exported_or_refused_by_name(name: str, target: str, tmp_path: Path) -> None:
    run, out = saved(tmp_path, digits_job("none", **CASES[name], steps=STEPS)), tmp_path / "out"
    ours = load_encoder(run)
    if isinstance(ours, RopeEncoder) and target in ("timm", "transformers"):
        with pytest.raises(CheckpointError, match="no model there computes this encoder: it has rotary positions"):
            exporting.export_encoder(run, target, out)
        assert not out.exists()
        return
    exporting.export_encoder(run, target, out)
    with torch.no_grad():
        expected = ours(images())
        assert_close_to_scale(LOADED[target](out, ours), expected, ulps=256)


@pytest.mark.parametrize("name", ["gmml", "capi"])
def test_weights_that_one_file_cannot_hold_lie_beside_the_graph(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "_ONE_FILE_BYTES", 0)
    run, out = saved(tmp_path, digits_job("none", **CASES[name], steps=STEPS)), tmp_path / "out"
    exporting.export_encoder(run, "onnx", out)
    assert {path.name for path in out.iterdir()} == {"README.md", "model.onnx", "model.onnx.data"}
    ours = load_encoder(run)
    with torch.no_grad():
        assert_close_to_scale(by_onnx(out, ours), ours(images()), ulps=256)
