"""Methods that learn from classes learn them, and resume to the bit."""

import subprocess
import sys
from typing import Any

import pytest
import torch

from gmml_cluster.spec.augment import AUGMENTS
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


def augmented(rank: int, ranks: int, folder: str) -> list[Training]:
    job = digits_job(folder, {"name": "supervised", "classes": 10}, steps=4)
    job = job.model_copy(update={"data": job.data.model_copy(update={"augment": AUGMENTS["finetune"]})})
    half = train(job, range(2))
    return [train(job, range(4)), train(job, range(2, 4), begin=half)]


def test_augmented_and_mixed_images_are_the_same_after_a_resume(corpus: str) -> None:
    whole, rest = run_ranks(1, augmented, corpus)[0]
    assert all(torch.equal(value, rest.state[at]) for at, value in whole.state.items())


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


RATES = [1, 10, 100]
LARS = {
    "name": "lars",
    "lr": 0.1,
    "weight_decay": {"start": 0, "end": 0},
    "clip": None,
    "schedule": {"warmup": "2 steps"},
}


def heads(rank: int, ranks: int, folder: str) -> dict[str, Training]:
    def run(rates: list[float], steps: range, begin: Training | None = None) -> Training:
        method = {"name": "linear", "classes": 10, "feature": "mean", "rates": rates}
        job = digits_job(folder, method, steps=20, optim=LARS, init={"run": "other"})
        job = job.model_copy(update={"data": job.data.model_copy(update={"group": 64})})
        return train(job, steps, begin=begin)

    half = run(RATES, range(10))
    found = {"whole": run(RATES, range(20)), "rest": run(RATES, range(10, 20), half)}
    return found | {str(rate): run([rate], range(20)) for rate in RATES}


def test_heads_of_several_rates_train_as_each_would_alone_and_resume_to_the_bit(corpus: str) -> None:
    found = run_ranks(1, heads, corpus)[0]
    whole = found["whole"]
    assert all(torch.equal(value, found["rest"].state[at]) for at, value in whole.state.items())
    for head, rate in enumerate(RATES):
        alone = found[str(rate)]
        for tensor in ("weight", "bias"):
            for key in ("value", "momentum_buffer"):
                at = f"classifier.{head}.{tensor}", key
                torch.testing.assert_close(whole.state[at], alone.state[f"classifier.{tensor}", key])
        assert whole.lines[-1][f"top1_{rate}"] == pytest.approx(alone.lines[-1]["top1"], abs=0.02)
    before, after = ([line[f"loss_{rate}"] for rate in RATES] for line in (whole.lines[0], whole.lines[-1]))
    assert before == pytest.approx([before[0]] * 3, rel=1e-6), "all begin alike"
    assert len(set(after)) == 3
