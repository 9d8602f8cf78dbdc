"""RelViT, and relations beside MAE, resume to the bit on a real corpus with all that is drawn for patches."""

from typing import Any

import pytest
import torch

from tests.fixtures.ranks import run_ranks
from tests.fixtures.training import Training, digits_job, train

pytest.importorskip("sklearn")
JOBS: dict[str, dict[str, Any]] = {
    "relvit": {
        "method": {"name": "relvit", "distances": True, "angles": True, "permute": True},
        "augment": {"flip": True, "mega": {"blocks": 3}, "patches": {}},
    },
    "beside mae": {
        "method": {"name": "mae", "mask_ratio": 0.5, "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2},
        "auxiliary": {"weight": 0.5},
        "augment": {"patches": {"after_normalise": True}},
    },
}


def at_once_and_in_two(rank: int, ranks: int, folder: str) -> dict[str, list[Training]]:
    found = {}
    for name, given in JOBS.items():
        changes = dict(given)
        augment, data = changes.pop("augment"), digits_job(folder, {"name": "gmml"}, steps=3).data.model_dump()
        job = digits_job(folder, steps=3, data={**data, "augment": augment}, **changes)
        half = train(job, range(1))
        found[name] = [train(job, range(3)), half, train(job, range(1, 3), begin=half)]
    return found


def test_training_resumes_to_the_bit(digits_corpus: str) -> None:
    for name, (whole, half, rest) in run_ranks(1, at_once_and_in_two, digits_corpus)[0].items():
        assert whole.state.keys() == rest.state.keys()
        assert all(torch.equal(value, rest.state[at]) for at, value in whole.state.items())
        losses = [[line["loss"] for line in run.lines] for run in (whole, half, rest)]
        assert losses[0] == [*losses[1], *losses[2]]
        assert whole.lines[0]["floor_positions"] == pytest.approx(1 / (9 if name == "relvit" else 16))
        assert {"loss_relations", "accuracy_relations", "floor_relations"} <= set(whole.lines[0])
