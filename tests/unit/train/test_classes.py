"""Methods that learn from classes learn them, and resume to the bit."""

import subprocess
import sys
from typing import Any

import pytest
import torch

from tests.fixtures.ranks import ROOT, run_ranks
from tests.fixtures.training import Training, digits_job, train

pytest.importorskip("sklearn")
SUPERVISED = {"name": "supervised", "classes": 10, "mixup": 0, "cutmix": 0, "pool": "mean"}


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("digits")
    command = [sys.executable, "-m", "gmml_cluster.evaluate.demo.digits", str(folder)]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    return str(folder / "train")


def at_once_and_in_two(rank: int, ranks: int, folder: str, method: dict[str, Any], steps: int) -> list[Training]:
    job = digits_job(folder, method, steps=steps)
    half = train(job, range(steps // 2))
    return [train(job, range(steps)), half, train(job, range(steps // 2, steps), begin=half)]


def top1(lines: list[dict[str, Any]]) -> float:
    return sum(line["top1"] for line in lines) / len(lines)


def test_supervised_training_learns_digits_and_resumes_to_the_bit(corpus: str) -> None:
    whole, half, rest = run_ranks(1, at_once_and_in_two, corpus, SUPERVISED, 60)[0]
    assert top1(whole.lines[-10:]) > 0.2, "chance is 0.1, and these 640 images give it within 0.02"
    assert whole.state.keys() == rest.state.keys()
    assert all(torch.equal(value, rest.state[at]) for at, value in whole.state.items())
    losses = [[line["loss"] for line in run.lines] for run in (whole, half, rest)]
    assert losses[0] == [*losses[1], *losses[2]]


PROBES = {
    "linear": {"name": "linear", "classes": 10, "feature": "mean"},
    "attentive": {"name": "attentive", "classes": 10, "queries": 8},
}


def probes(rank: int, ranks: int, folder: str) -> dict[str, list[Training]]:
    found = {}
    for name, method in PROBES.items():
        optim = {"lr": 1e-2, "lr_per": None, "schedule": {"warmup": "2 steps"}}
        job = digits_job(folder, method, steps=40, optim=optim, init={"run": "other"})
        job = job.model_copy(update={"data": job.data.model_copy(update={"group": 64})})
        half = train(job, range(20))
        found[name] = [train(job, range(40)), half, train(job, range(20, 40), begin=half)]
    return found


def test_probes_learn_digits_and_leave_the_encoder_as_it_was(corpus: str) -> None:
    for name, (whole, half, rest) in run_ranks(1, probes, corpus)[0].items():
        assert top1(whole.lines[-10:]) > top1(whole.lines[:5]) + 0.1, name
        assert all(torch.equal(value, rest.state[at]) for at, value in whole.state.items()), name
        for (tensor, key), value in whole.state.items():
            frozen = tensor.startswith("encoder.")
            assert torch.equal(value, half.state[tensor, key]) is frozen, (name, tensor, key)
            assert not frozen or key == "value", "a frozen tensor has no moments"
