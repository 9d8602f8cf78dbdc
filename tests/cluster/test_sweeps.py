"""Runs of a sweep on this machine take turns, and a run's end lets the next one start."""

import json

from tests.fixtures.runs import ended

RUNS = ["tiny-lr1e-3", "tiny-lr2e-3"]


def test_two_runs_of_a_sweep_run_one_after_the_other_by_themselves(workshop):
    workshop.pace(3, after=2)
    job = workshop.job("tiny", run={"steps": 8}, engine={"zero": "ddp"}, checkpoint={"every": "4 steps"})
    profile = workshop.profile(1, environment=workshop.gates)
    submitted = workshop.call("gmml-submit", job, "--cluster", profile, "--sweep", "optim.lr=1e-3,2e-3", "--json")
    assert [run["run"] for run in json.loads(submitted)["runs"]] == RUNS
    workshop.until(RUNS[0], lambda entries: any(entry["kind"] == "begin" for entry in entries))
    waiting = json.loads(workshop.call("gmml", "status", "tiny-lr", "--json"))[1]
    assert (waiting["run"], waiting["state"]) == (RUNS[1], "queued")
    assert waiting["queue_reason"] == "waits for its turn: 1 run of tiny-lr at once"
    workshop.pace(0)
    first, second = (workshop.until(name, lambda entries: "finished" in ended(entries)) for name in RUNS)
    begun = next(entry["time"] for entry in second if entry["kind"] == "claim")
    assert begun > next(entry["time"] for entry in first if entry["kind"] == "end")
    assert [json.loads(workshop.call("gmml", "status", name, "--json"))["state"] for name in RUNS] == ["finished"] * 2
