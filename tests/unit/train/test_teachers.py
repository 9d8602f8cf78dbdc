"""Methods with a teacher learn, move it, and resume to the bit with it."""

import subprocess
import sys
from typing import Any

import pytest
import torch

from gmml_cluster.methods.build import build
from tests.fixtures.ranks import ROOT, run_ranks
from tests.fixtures.training import Training, digits_job, train

pytest.importorskip("sklearn")
CAPI = {"name": "capi", "clusters": 16, "registers": 4, "predictor_depth": 1, "predict_ratio": 0.2, "momentum": 0.9}
CAPI_OPTIM = {
    "lr": 1e-3,
    "lr_per": None,
    "exempt": "none",
    "clip": None,
    "schedule": {"law": "truncated", "warmup": "4 steps"},
}
SIMMIM_OPTIM = {"lr": 1e-3, "lr_per": None, "clip": {"norm": 5.0, "by": "global"}, "schedule": {"warmup": "4 steps"}}
CONMIM = {"name": "conmim", "projector": [32, 32, 16], "momentum": 0.5}
AVERAGED = {"name": "supervised", "classes": 10, "pool": "mean", "ema": 0.75}
IJEPA = {"name": "ijepa", "predictor_width": 16, "predictor_depth": 1, "border": "full", "momentum": [0.5, 1.0]}
IJEPA_OPTIM = {
    "lr": 1e-3,
    "lr_per": None,
    "clip": None,
    "schedule": {"law": "next", "start_lr": 2e-4, "warmup": "4 steps"},
}


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("digits")
    command = [sys.executable, "-m", "gmml_cluster.evaluate.demo.digits", str(folder)]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    return str(folder / "train")


def at_once_and_in_two(
    rank: int, ranks: int, folder: str, method: dict[str, Any], optim: dict[str, Any]
) -> list[Training]:
    job = digits_job(folder, method, steps=6, optim=optim)
    half = train(job, range(3))
    return [train(job, range(6)), half, train(job, range(3, 6), begin=half)]


def resumed(corpus: str, method: dict[str, Any], optim: dict[str, Any], teacher: str = "teacher") -> Training:
    """Six steps at once, which two halves repeat to the bit."""
    whole, half, rest = run_ranks(1, at_once_and_in_two, corpus, method, optim)[0]
    assert whole.state.keys() == rest.state.keys()
    assert all(torch.equal(value, rest.state[at]) for at, value in whole.state.items())
    losses = [[line["loss"] for line in run.lines] for run in (whole, half, rest)]
    assert losses[0] == [*losses[1], *losses[2]]
    name = "encoder.blocks.0.attn.qkv.weight"
    moved = whole.state[f"{teacher}.{name}", "value"]
    assert not torch.equal(moved, half.state[f"{teacher}.{name}", "value"])
    assert not torch.equal(moved, whole.state[name, "value"])
    return whole


def test_capi_resumes_to_the_bit_with_its_teacher(corpus: str) -> None:
    whole = resumed(corpus, CAPI, CAPI_OPTIM)
    assert [line["momentum"] for line in whole.lines[:2]] == [1, 1 - 0.1]
    assert {"clustering_loss", "prediction_loss", "target_entropy", "target_perplexity"} <= set(whole.lines[0])


def test_ijepa_resumes_to_the_bit_with_its_teacher(corpus: str) -> None:
    whole = resumed(corpus, IJEPA, IJEPA_OPTIM)
    assert {"context", "target", "short", "teacher_std"} <= set(whole.lines[0])
    assert [line["context"] for line in whole.lines] == [4] * 6
    assert whole.lines[0]["lr"] == pytest.approx(4e-4), "a quarter of the way from 2e-4 to 1e-3"
    assert whole.state["teacher.encoder.norm.bias", "value"].any(), "the teacher follows what began at 0"


def test_conmim_resumes_to_the_bit_with_its_teacher(corpus: str) -> None:
    whole = resumed(corpus, CONMIM, SIMMIM_OPTIM)
    assert {"positive", "negative", "top1", "key_std"} <= set(whole.lines[0])
    assert whole.lines[0]["momentum"] == 0.5


def one_step(rank: int, ranks: int, folder: str) -> list[Any]:
    job = digits_job(folder, AVERAGED, steps=6, optim=SIMMIM_OPTIM)
    return [dict(build(job).module.named_parameters()), train(job, range(1))]


def test_averaged_weights_resume_to_the_bit_and_move_by_their_share(corpus: str) -> None:
    whole = resumed(corpus, AVERAGED, SIMMIM_OPTIM, "average")
    assert whole.lines[0]["momentum"] == 0.75
    first, after = run_ranks(1, one_step, corpus)[0]
    for name in ("encoder.blocks.0.attn.qkv.weight", "classifier.weight"):
        moved = 0.75 * first[f"average.{name}"] + 0.25 * after.state[name, "value"].view_as(first[name])
        torch.testing.assert_close(after.state[f"average.{name}", "value"].view_as(moved), moved)


def test_simmim_resumes_to_the_bit(corpus: str) -> None:
    whole, half, rest = run_ranks(1, at_once_and_in_two, corpus, {"name": "simmim"}, SIMMIM_OPTIM)[0]
    assert all(torch.equal(value, rest.state[at]) for at, value in whole.state.items())
    table = "encoder.rel_pos_bias.relative_position_bias_table", "value"
    assert not torch.equal(whole.state[table], half.state[table])
