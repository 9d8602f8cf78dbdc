"""Runs on a real Ray cluster of several nodes go on from the very step, with the losses of a run on one machine."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fixtures.chain import assert_whole, attempts_of, run_until_preempted
from tests.fixtures.runs import Workshop, ended
from tests.fixtures.slurm import until
from tests.fixtures.supervised import ranks_of

pytestmark = pytest.mark.timeout(1800)  # on a busy machine the starts of Ray's processes alone take minutes each

STEPS = 200
RUN = {"run": {"steps": STEPS}, "resources": {"nodes": "1..2"}}
KEYS = ("step", "loss", "grad_norm", "lr", "wd", "masked")


def figures(lines):
    return [tuple(line[key] for key in KEYS) for line in lines]


def steps_of(entries, kind):
    return [entry["step"] for entry in entries if entry["kind"] == kind]


@pytest.fixture
def site(workshop, ray_cluster):
    workshop.extra.update(RAY_AUTH_MODE=ray_cluster.environment["RAY_AUTH_MODE"])
    return workshop


@pytest.fixture
def profile(site, ray_cluster):
    return site.profile(1, launcher="ray", ray={"address": ray_cluster.dashboard}, environment=site.gates)


@pytest.fixture(scope="module")
def on_one_machine(tmp_path_factory, digits):
    """Metric lines of the same run, its two ranks started by the local launcher."""
    folder = tmp_path_factory.mktemp("local")
    shop = Workshop(folder, f"{digits}/train/*.tar", str(folder / "runs"), {})
    shop.call("gmml-submit", shop.job("calm", run=RUN["run"]), "--cluster", shop.profile(2), "--follow")
    return shop.lines("calm")


def address_of(rank):
    """Address of the node on which a rank runs, by its pid."""
    environment = Path(f"/proc/{rank}/environ").read_bytes().split(b"\0")
    return next(item for item in environment if item.startswith(b"GMML_ADDRESS=")).decode().partition("=")[2]


def elsewhere(site):
    """The same roots as another machine sees them: with another home, so with nothing that the submission left."""
    home = site.folder / "elsewhere"
    home.mkdir(exist_ok=True)
    return replace(site, extra={**site.extra, "HOME": str(home), "XDG_STATE_HOME": str(home / "state")})


def begun(attempts):
    """Whether so many attempts have begun, and the last has made a checkpoint since."""

    def holds(entries):
        last = [entry["attempt"] for entry in entries if entry["kind"] == "commit"]
        return len(steps_of(entries, "begin")) == attempts and attempts in last

    return holds


def test_a_run_survives_a_killed_rank_a_drained_node_and_a_change_of_cluster_bit_for_bit(
    site, profile, ray_cluster, on_one_machine
):
    ray_cluster.add_node()  # one more than the run takes: it replaces the one that is drained
    ids = ray_cluster.ids()
    site.pace(3, after=25)  # no attempt finishes before it is disturbed
    printed = site.call("gmml-submit", site.job("broken", **RUN), "--cluster", profile)
    assert ray_cluster.dashboard in printed
    site.until("broken", begun(1))
    os.kill(ranks_of(site, "broken")[1], signal.SIGKILL)
    site.until("broken", begun(2))

    used = [address_of(pid) for pid in ranks_of(site, "broken").values()]
    ray_cluster.drain(ids[next(address for address in used if address != ray_cluster.head)], 60)
    entries = site.until("broken", begun(3))
    assert ended(entries)[1:] == ["notice"]
    assert [entry["cause"] for entry in entries if entry["kind"] == "cause"] == ["killed", "preempted"]

    there = elsewhere(site)
    root = f"{site.root}/broken"
    assert json.loads(there.call("gmml", "status", root, "--json"))["state"] == "running"
    until(lambda: "step" in there.call("gmml", "logs", root), 240, "the rank's log is uploaded")
    there.call("gmml", "cancel", root)
    site.until("broken", lambda entries: len(ended(entries)) == 3)
    job = [entry["job"] for entry in entries if entry["kind"] == "queued"][-1]
    until(lambda: ray_cluster.status_of_job(job) not in ("PENDING", "RUNNING"), 240, "the driver leaves")
    assert ray_cluster.status_of_job(job) != "SUCCEEDED"
    assert json.loads(there.call("gmml", "status", root, "--json"))["state"] == "stopped"
    site.pace(0)
    there.call("gmml", "resume", root, "--cluster", site.profile(2), "--follow")

    entries = site.entries("broken")
    assert ended(entries) == ["lost", "notice", "cancelled", "finished"]
    assert [entry["launcher"] for entry in entries if entry["kind"] == "submit"] == ["ray", "local"]
    begins, ends = steps_of(entries, "begin"), [entry.get("step") for entry in entries if entry["kind"] == "end"]
    assert begins[1] - 1 in steps_of(entries, "commit")
    for attempt in (2, 3):  # those that had notice, or were asked to end, lost no step
        assert begins[attempt] == ends[attempt - 1] + 1
    assert figures(site.lines("broken")) == figures(on_one_machine)


def test_a_run_that_slurm_preempted_goes_on_on_ray_and_is_finished_on_one_machine(site, profile, slurm, on_one_machine):
    site.extra.update({name: slurm.environment[name] for name in ("SLURM_CONF", "PATH")})
    section = {"partition": "r40", "time": "30 min", "notice": "60 s"}
    on_slurm = site.profile(1, launcher="slurm", slurm=section, environment=site.gates)
    site.pace(3, after=25)
    run_until_preempted(site, slurm, site.job("chain", **RUN), on_slurm)
    site.call("gmml", "resume", "chain", "--cluster", profile, "--take-over")
    site.until("chain", begun(2))
    site.call("gmml", "cancel", "chain")
    site.until("chain", lambda entries: len(ended(entries)) == 2)
    slurm.clear()  # of the job that it kept waiting as well
    site.pace(0)
    site.call("gmml", "resume", "chain", "--cluster", site.profile(2), "--follow")
    rows = attempts_of(site.entries("chain"))
    assert [(launcher, cause) for launcher, _, _, _, cause in rows] == [
        ("slurm", "preempted"),
        ("ray", "cancelled"),
        ("local", "finished"),
    ]
    assert {ranks for _, ranks, _, _, _ in rows} == {2}
    assert_whole(rows, STEPS)
    assert figures(site.lines("chain")) == figures(on_one_machine)
