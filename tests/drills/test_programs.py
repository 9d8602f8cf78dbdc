"""A program drives twenty runs by `--json` alone: a sweep, one of them killed, scores compared, the best exported."""

from pathlib import Path

import pytest

from tests.fixtures.programs import Program
from tests.fixtures.supervised import wait_for

pytestmark = pytest.mark.timeout(3600)
STEPS = 12
HELD_S = 600
"""Seconds that a step takes until it is let go: what is to be killed must not finish before."""
RATES = "5e-4,1e-3,2e-3,3e-3,4e-3"
DROPS = "0,0.05,0.1,0.2"


def test_twenty_runs_of_which_one_is_killed_are_compared_and_the_best_is_exported(workshop):
    program = Program(workshop)
    small = {"run": {"steps": STEPS}, "engine": {"zero": "ddp"}, "checkpoint": {"every": "4 steps", "keep": 2}}
    job = workshop.job("tiny", **small, evaluate={"every": f"{STEPS} steps"})
    profile = workshop.profile(1, environment=workshop.gates)
    asked = (
        f"gmml-submit {job} --cluster {profile} --sweep optim.lr={RATES} --sweep model.drop_path={DROPS} --parallel 2"
    )
    planned = program.one(f"{asked} --dry-run --json")
    assert (len(planned["runs"]), planned["gpu_hours"], planned["cost"]) == (20, None, None)
    assert program.call("gmml status --json") == [], "a dry run leaves nothing behind"

    workshop.pace(HELD_S, after=6)
    made = program.one(f"{asked} --json")
    names = [run["run"] for run in made["runs"]]
    assert (len(set(names)), made["failed"]) == (20, [])
    killed = names[0]
    wait_for(lambda: (program.one(f"gmml status {killed} --json")["committed_step"] or -1) >= 3)
    program.kill(killed)
    workshop.pace(0)
    ended = program.one(f"gmml wait {made['sweep']} --timeout 3000 --json", code=5)
    outcomes = {run["run"]: run["outcome"] for run in ended["runs"]}
    assert outcomes == {**dict.fromkeys(names, "finished"), killed: "ended"}
    again = program.one(f"{asked} --json")
    assert {run["run"]: run["action"] for run in again["runs"]} == {
        **dict.fromkeys(names, "finished"),
        killed: "resumed",
    }
    program.call(f"gmml wait {made['sweep']} --timeout 3000 --json")

    for name in names:
        assert [line["step"] for line in program.call(f"gmml metrics {name} --json")] == list(range(STEPS)), name
    attempts = program.one(f"gmml status {killed} --json")["attempts"]
    assert [attempt["last_step"] for attempt in attempts][-1] == STEPS - 1
    assert len(attempts) == 2
    compared = program.one(f"gmml compare {made['sweep']} --json")
    assert ({row["run"] for row in compared["scores"]}, compared["not_compared"]) == (set(names), [])
    best = max(compared["scores"], key=lambda row: row["accuracy"])
    exported = program.one(f"gmml export {best['run']} --to safetensors --json")
    assert (exported["run"], exported["step"]) == (best["run"], STEPS - 1)
    assert all((Path(exported["folder"]) / name).exists() for name in exported["files"])
    reported = program.one(f"gmml report {made['sweep']} --json")
    assert (len(reported["runs"]), Path(reported["page"]).stat().st_size) == (20, reported["bytes"])
    assert program.one(f"gmml cancel {made['sweep']} --json")["runs"] == [], "nothing is at work"
