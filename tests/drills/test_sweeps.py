"""Sweeps on a real SLURM, as one array of which a run is killed and resumed, and on a real Ray."""

import json

import pytest

from tests.drills.on_ray import ray_profile
from tests.fixtures.ray import running_ray
from tests.fixtures.runs import Workshop, ended
from tests.fixtures.slurm import until

pytestmark = pytest.mark.timeout(1800)
STEPS = 40
RUNS = [f"tiny-lr{lr}-drop_path{drop}" for lr in ("1e-3", "2e-3") for drop in ("0", "0.1")]
KILLED, REQUEUED = RUNS[0], RUNS[1]


@pytest.fixture
def site(tmp_path, slurm, digits):
    return Workshop(tmp_path, f"{digits}/train/*.tar", str(tmp_path / "runs"), slurm.environment)


def begun(entries):
    return [entry for entry in entries if entry["kind"] == "begin"]


def states(site):
    return {
        each["run"]: each["state"] for each in json.loads(site.call("gmml", "status", "tiny-lr-drop_path", "--json"))
    }


def looked_at(site):
    """The lines of `gmml top --once`, which `pytest -rP` shows too."""
    print(shown := site.call("gmml", "top", "--once"))
    return shown.splitlines()


def test_a_run_of_an_array_is_killed_another_requeued_and_all_four_finish(site, slurm):
    section = {"partition": "low", "time": "20 min", "notice": "60 s"}
    cluster = site.profile(1, launcher="slurm", slurm=section, environment=site.gates)
    job = site.job("tiny", run={"steps": STEPS}, engine={"zero": "ddp"}, checkpoint={"every": "5 steps", "keep": 2})
    sweep = ("--sweep", "optim.lr=1e-3,2e-3", "--sweep", "model.drop_path=0,0.1", "--parallel", "2")
    site.pace(2, after=10)
    made = json.loads(site.call("gmml-submit", job, "--cluster", cluster, *sweep, "--json"))
    jobs = {run["run"]: run["job"] for run in made["runs"]}
    array = jobs[RUNS[0]].partition("_")[0]
    assert jobs == {name: f"{array}_{number}" for number, name in enumerate(RUNS)}
    for name in RUNS[:2]:
        site.until(name, begun)
    assert [states(site)[name] for name in RUNS] == ["running", "running", "queued", "queued"]
    assert all(
        f["state"] == "queued" and "waits for its turn" in f["queue_reason"]
        for f in json.loads(site.call("gmml", "status", "tiny-lr-drop_path", "--json"))[2:]
    )

    summary, _, *lines = looked_at(site)
    assert summary.startswith("4 runs: 2 running, 2 queued")
    assert [line.split()[:2] for line in lines] == [[RUNS[n], "running" if n < 2 else "queued"] for n in range(4)]
    assert all(len(line) <= 80 for line in lines)

    slurm.call("scancel", jobs[KILLED])
    site.until(KILLED, ended)
    slurm.call("scontrol", "requeue", jobs[REQUEUED])
    site.until(REQUEUED, ended)
    site.pace(0)
    until(lambda: states(site)[KILLED] in ("interrupted", "stopped"), 240, "the killed run is known to be gone")
    again = site.call("gmml-submit", job, "--cluster", cluster, *sweep, "--json")
    resumed = {run["run"]: run["action"] for run in json.loads(again)["runs"]}
    assert resumed.pop(KILLED) == "resumed"
    assert set(resumed.values()) <= {"already", "finished"}
    for name in RUNS:
        site.until(name, lambda entries: "finished" in ended(entries))
    causes = {name: ended(site.entries(name)) for name in RUNS}
    assert causes[RUNS[2]] == causes[RUNS[3]] == ["finished"], [site.entries(name) for name in RUNS[2:]]
    assert (len(causes[KILLED]), len(causes[REQUEUED])) == (2, 2)
    assert all([line["step"] for line in site.lines(name)] == list(range(STEPS)) for name in RUNS)
    claims = {name: [e["job"] for e in site.entries(name) if e["kind"] == "claim"] for name in RUNS}
    assert claims[REQUEUED] == [jobs[REQUEUED]] * 2, "a requeued task keeps its number"
    assert claims[KILLED][0] == jobs[KILLED] != claims[KILLED][1]
    assert looked_at(site)[0] == "4 runs: 4 finished"

    page = site.folder / "report.html"
    made = json.loads(site.call("gmml", "report", "tiny-lr-drop_path", "-o", page, "--json"))
    assert [url.rpartition("/")[2] for url in made["runs"]] == RUNS
    said = page.read_text()
    assert all(name in said for name in RUNS)
    assert causes[KILLED][0] in said


def test_on_ray_a_run_of_a_sweep_waits_for_the_one_before_it(workshop):
    with running_ray(nodes=1) as cluster:
        profile = ray_profile(workshop, cluster)
        job = workshop.job("tiny", run={"steps": 20}, engine={"zero": "ddp"}, checkpoint={"every": "5 steps"})
        workshop.pace(2, after=10)
        sweep = ("--sweep", "optim.lr=1e-3,2e-3", "--parallel", "1")
        workshop.call("gmml-submit", job, "--cluster", profile, *sweep)
        workshop.until("tiny-lr1e-3", begun)
        waiting = json.loads(workshop.call("gmml", "status", "tiny-lr", "--json"))[1]
        assert (waiting["run"], waiting["state"]) == ("tiny-lr2e-3", "queued")
        assert waiting["queue_reason"] == "waits for its turn: 1 run of tiny-lr at once"
        workshop.pace(0)
        names = ("tiny-lr1e-3", "tiny-lr2e-3")
        first, second = (workshop.until(name, lambda entries: "finished" in ended(entries)) for name in names)
        claimed = next(entry["time"] for entry in second if entry["kind"] == "claim")
        assert claimed > next(entry["time"] for entry in first if entry["kind"] == "end")
