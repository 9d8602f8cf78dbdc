"""Segmentation learns from masks, frozen and fine-tuned, and resumes to the bit."""

from pathlib import Path
from typing import Any

import torch

from tests.fixtures.ranks import run_ranks
from tests.fixtures.training import Training, digits_job, train
from tests.unit.data.masks import masked_shards

STEPS = 24


def both(rank: int, ranks: int, folder: str) -> dict[bool, list[Training]]:
    found = {}
    for frozen in (True, False):
        method: dict[str, Any] = {"name": "segmentation", "classes": 4, "frozen": frozen}
        model = {"width": 32, "depth": 2, "heads": 2, "patch_size": 4, "drop_path": 0.1}
        optim = {"lr": 1e-2, "lr_per": None, "schedule": {"warmup": "2 steps"}}
        job = digits_job(
            folder, method, steps=STEPS, init={"run": "other"}, model=model, optim=optim, batch={"size": 16}
        )
        augment = {"crop": {"scale": [0.5, 1.0]}, "flip": True}
        data = type(job.data).model_validate({**job.data.model_dump(), "augment": augment})
        job = job.model_copy(update={"data": data})
        half = train(job, range(STEPS // 2))
        found[frozen] = [train(job, range(STEPS)), half, train(job, range(STEPS // 2, STEPS), begin=half)]
    return found


def accuracy(lines: list[dict[str, Any]]) -> float:
    return sum(line["pixel_accuracy"] for line in lines) / len(lines)


def test_it_learns_and_resumes_to_the_bit(tmp_path: Path) -> None:
    for frozen, (whole, half, rest) in run_ranks(1, both, str(masked_shards(tmp_path / "c", 60)))[0].items():
        assert whole.lines[-1]["loss"] < 0.8 * whole.lines[0]["loss"], frozen
        assert accuracy(whole.lines[-5:]) > accuracy(whole.lines[:3]), frozen
        assert whole.state.keys() == rest.state.keys()
        assert all(torch.equal(value, rest.state[at]) for at, value in whole.state.items()), frozen
        changed = {name for (name, _), value in whole.state.items() if not torch.equal(value, half.state[name, _])}
        assert any(name.startswith("encoder.") for name in changed) is not frozen
