"""A run that scores itself between two steps, on two ranks: the same training, scores in the log, time of their own."""

import functools
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from gmml_cluster.train.engines.gather import Copies
from tests.fixtures.engines import ENGINES, gathered, make, on_ranks, train
from tests.fixtures.runs import ended
from tests.fixtures.supervised import ranks_of

KEYS = ("step", "samples", "loss", "grad_norm", "lr", "wd", "masked")


@functools.cache
def found() -> list[Any]:
    return on_ranks(2, (copies_of_what_is_held_in_parts,))["copies_of_what_is_held_in_parts"]


def copies_of_what_is_held_in_parts(rank: int, ranks: int) -> dict[Any, list[str]]:
    """Names below `blocks` that each engine's copy has, after a step, and whether they are what a checkpoint holds."""
    names: dict[Any, list[str]] = {}
    for zero in ENGINES:
        engine = make(zero)
        train(engine, 0, rank, ranks)
        copies, state = Copies(engine, "blocks.").gather(), gathered(engine)
        assert all(torch.equal(value.flatten(), state[f"blocks.{name}", "value"]) for name, value in copies.items())
        assert all(value.shape == engine.shapes[f"blocks.{name}"] for name, value in copies.items())
        names[zero] = sorted(copies)
    return names


def test_every_rank_gets_the_weights_that_a_checkpoint_would_hold_at_every_stage() -> None:
    for of_rank in found():
        assert set(of_rank) == set(ENGINES)
        assert all(len(names) == 12 for names in of_rank.values()), "six tensors of each of two blocks"


def test_a_run_that_is_scored_trains_to_the_bit_as_one_that_is_not_and_a_kill_costs_no_score(workshop):
    profile = workshop.profile(2)
    # stage 3, as there the weights have to be gathered; those below are of stage 1 and of none
    short = {"engine": {"zero": 3}, "run": {"steps": 24}, "checkpoint": {"every": "20 steps"}}
    workshop.call("gmml-submit", workshop.job("plain", **short), "--cluster", profile, "--follow")
    asked = {"every": "8 steps", "corpus": workshop.corpus.replace("train", "test")}
    job = workshop.job("scored", **short, evaluate=asked)
    workshop.pace(3, after=10)
    workshop.call("gmml-submit", job, "--cluster", workshop.profile(2, environment=workshop.gates))
    workshop.until("scored", lambda entries: any(entry["kind"] == "commit" for entry in entries))
    os.kill(ranks_of(workshop, "scored")[1], signal.SIGKILL)  # between the first commit and its score, or soon after
    workshop.pace(0)
    entries = workshop.until("scored", lambda entries: "finished" in ended(entries))
    scores = [entry for entry in entries if entry["kind"] == "score"]
    assert [entry["step"] for entry in scores] == [7, 15, 23]
    assert all(entry["seconds"] > 0 and len(entry["scores"]) == 1 for entry in scores)
    lines, plain = workshop.lines("scored"), workshop.lines("plain")
    assert [[line[key] for key in KEYS] for line in lines] == [[line[key] for key in KEYS] for line in plain]
    assert [line["step"] for line in lines if "knn_mean" in line] == [7, 15, 23]
    again = ("--step", "23", "--corpus", asked["corpus"], "--feature", "mean", "--json")
    document = json.loads(workshop.call("gmml", "eval", "scored", *again))
    kept = json.loads(Path(workshop.root, "scored", scores[-1]["file"]).read_text())
    assert document["scores"] == kept["scores"], "two ranks find what one process finds"
    assert (document["bank"], document["corpus"]) == (kept["bank"], kept["corpus"])
    status = json.loads(workshop.call("gmml", "status", "scored", "--json"))
    assert status["goodput"]["evaluation_s"] == pytest.approx(sum(entry["seconds"] for entry in scores))
    page = workshop.call("gmml", "status", "scored")
    assert "by mean, step 23" in page
    assert "  evaluation   " in page


def test_weights_that_were_resumed_from_without_their_score_are_scored_before_the_next_step(workshop):
    workshop.pace(3, after=15)
    profile = workshop.profile(2, environment=workshop.gates)
    workshop.call("gmml-submit", workshop.job("late"), "--cluster", profile)
    workshop.until("late", lambda entries: any(entry["kind"] == "commit" for entry in entries))
    workshop.call("gmml", "cancel", "late")
    stopped = [entry for entry in workshop.until("late", ended) if entry["kind"] == "commit"][-1]["step"]
    assert stopped < 59
    workshop.pace(0)
    test = workshop.corpus.replace("train", "test")
    asked = f"evaluate={{every: {stopped + 1} steps, corpus: '{test}', bank_images: 300}}"
    workshop.call("gmml-submit", workshop.job("late"), "--cluster", profile, asked, "--follow")
    entries = [entry for entry in workshop.entries("late") if entry["attempt"] == 2]
    kinds = [entry["kind"] for entry in entries]
    first = kinds.index("score")
    assert (entries[first]["step"], entries[first]["scores"][0]["samples"]) == (stopped, 500)
    assert "begin" in kinds[:first]
    assert "commit" not in kinds[:first]


def test_a_kill_after_the_last_commit_costs_no_score_either(workshop):
    asked = {"every": "99 steps", "scores": ["knn", "linear"], "corpus": workshop.corpus.replace("train", "test")}
    job = workshop.job("scored", run={"steps": 6}, engine={"zero": "ddp"}, evaluate=asked)
    workshop.call("gmml-submit", job, "--cluster", workshop.profile(2))
    workshop.until("scored", lambda entries: any(entry["kind"] == "commit" for entry in entries))
    os.kill(ranks_of(workshop, "scored")[1], signal.SIGKILL)  # the probe takes seconds
    entries = workshop.until("scored", lambda entries: "finished" in ended(entries))
    (score,) = [entry for entry in entries if entry["kind"] == "score"]
    assert (score["step"], [each["score"] for each in score["scores"]]) == (5, ["knn", "linear"])
    assert score["slot"] < entries[-1]["slot"]
