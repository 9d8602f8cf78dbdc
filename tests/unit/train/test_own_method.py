"""A method of another package resumes to the bit with its teacher, and the plan counts it as it is."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from gmml_cluster.methods.build import build
from tests.fixtures.plugins import install
from tests.fixtures.ranks import run_ranks
from tests.fixtures.training import Training, digits_job, train

pytest.importorskip("sklearn")
NAME = "encoder.blocks.0.attn.qkv.weight"


@dataclass
class Found:
    """What a process that has the package installed found."""

    whole: Training
    half: Training
    rest: Training
    planned: tuple[int, int]
    real: tuple[int, int]


def at_once_and_in_two(rank: int, ranks: int, folder: str) -> Found:
    job = digits_job(folder, {"name": "theirs", "momentum": 0.5}, steps=4)
    half = train(job, range(2))
    counts = job.method.counts(job.model, 16)
    parameters: list[Any] = list(build(job).module.parameters())
    real = [sum(p.numel() for p in parameters if p.requires_grad is wanted) for wanted in (True, False)]
    rest = train(job, range(2, 4), begin=half)
    return Found(train(job, range(4)), half, rest, (counts.trained, counts.frozen), (real[0], real[1]))


def test_a_method_of_another_package_resumes_to_the_bit(digits_corpus: str, tmp_path: Path) -> None:
    (found,) = run_ranks(1, at_once_and_in_two, digits_corpus, path=[str(install(tmp_path))])
    whole, half, rest = found.whole, found.half, found.rest
    assert whole.state.keys() == rest.state.keys()
    assert all(torch.equal(value, rest.state[at]) for at, value in whole.state.items())
    losses = [[line["loss"] for line in run.lines] for run in (whole, half, rest)]
    assert losses[0] == [*losses[1], *losses[2]]
    teacher = whole.state[NAME.replace("encoder.", "teacher."), "value"]
    assert not torch.equal(teacher, half.state[NAME.replace("encoder.", "teacher."), "value"])
    assert not torch.equal(teacher, whole.state[NAME, "value"])
    assert found.planned == found.real
