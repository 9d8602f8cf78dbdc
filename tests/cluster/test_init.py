"""Runs that begin from another run's commit or a file, through the commands, at other numbers of ranks and stages."""

import json
from pathlib import Path

import pytest
import torch

from gmml_cluster.train.checkpoints.load_trained import load_trained
from tests.fixtures.runs import ended

STILL = {
    "lr": 1e-30,
    "lr_per": None,
    "weight_decay": {"start": 0.0, "end": 0.0},
    "schedule": {"warmup": "1 step", "final_lr": 0.0},
}
"""Steps so small that weights keep their bits."""


def begin_of(workshop, run):
    (begin,) = [entry for entry in workshop.entries(run) if entry["kind"] == "begin"]
    return begin


def manifest(workshop, run, step):
    return json.loads(Path(f"{workshop.root}/{run}/checkpoints/{step:08d}-0001/manifest.json").read_text())


def test_a_run_begins_from_the_weights_or_all_of_another_runs_commit(workshop):
    workshop.call("gmml-submit", workshop.job("first", run={"steps": 20}), "--cluster", workshop.profile(2), "--follow")

    init = {"run": "first", "step": 9}
    job = workshop.job("weights", init=init, run={"steps": 1}, optim=STILL, engine={"zero": 2})
    fork = ("gmml-submit", job, "--cluster", workshop.profile(1), "--follow")
    workshop.call(*fork)
    assert begin_of(workshop, "weights")["init"] == {"run": f"{workshop.root}/first", "step": 9, "what": "weights"}
    assert begin_of(workshop, "weights")["step"] == 0
    states = [
        load_trained(workshop.root, name, step=step).method.module.state_dict()
        for name, step in (("first", 9), ("weights", 0))
    ]
    for name, tensor in states[0].items():
        assert torch.allclose(tensor, states[1][name], rtol=0, atol=1e-20), name
    assert manifest(workshop, "weights", 0)["adam_step"] == 1

    job = workshop.job("all", init={"run": "first", "what": "all"}, run={"steps": 2})
    fork = ("gmml-submit", job, "--cluster", workshop.profile(2))
    workshop.call(*fork, "--follow")
    assert begin_of(workshop, "all")["init"]["step"] == 19
    assert [line["step"] for line in workshop.lines("all")] == [0, 1]
    assert workshop.lines("all")[0]["loss"] < workshop.lines("first")[0]["loss"]
    assert manifest(workshop, "all", 1)["adam_step"] == 22
    assert json.loads(workshop.call(*fork, "--json"))["action"] == "finished"
    assert ended(workshop.entries("all")) == ["finished"]


@pytest.mark.parametrize("zero", ["ddp", 3])
def test_what_is_exported_to_timm_begins_a_run_of_two_ranks_to_the_bit(workshop, zero):
    workshop.call("gmml-submit", workshop.job("first", run={"steps": 3}), "--cluster", workshop.profile(1), "--follow")
    workshop.call("gmml", "export", "first", "--to", "timm", "-o", "timm")
    still = {"schedule": {"warmup": "1 step"}}  # its one step is at a learning rate of 0
    job = workshop.job("taken", init={"url": "timm"}, run={"steps": 1}, optim=still, engine={"zero": zero})
    workshop.call("gmml-submit", job, "--cluster", workshop.profile(2), "--follow")
    begun = begin_of(workshop, "taken")["init"]
    assert begun["url"] == f"{workshop.folder}/timm/model.safetensors"
    assert len(begun["sha256"]) == 64
    assert begun.keys() == {"url", "sha256", "what"}
    states = [load_trained(workshop.root, name).method.module.state_dict() for name in ("first", "taken")]
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]) == name.startswith("encoder."), name
