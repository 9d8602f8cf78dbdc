"""Killed processes of a run on Ray: each ends as a cause in the log, behind which nothing more is written."""

import json
import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from gmml_cluster.launch.ray.launcher import RayLauncher
from tests.drills.on_ray import STEPS, committed_in, figures, on_one_machine, ray_profile, steps_of
from tests.fixtures.ray import running_ray
from tests.fixtures.runs import ended
from tests.fixtures.supervised import is_alive, parent_of, ranks_of, wait_for

__all__ = ["on_one_machine"]
pytestmark = pytest.mark.timeout(1800)

TWO = {"run": {"steps": STEPS}, "resources": {"nodes": 2}}


def causes(entries):
    return [entry["cause"] for entry in entries if entry["kind"] == "cause"]


def state_of(workshop, run):
    return json.loads(workshop.call("gmml", "status", run, "--json"))["state"]


def job_of(entries):
    return next(entry["job"] for entry in entries if entry["kind"] == "queued")


def driver_of(run):
    """Pid of the driver of a run."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if {b"gmml_cluster.launch.ray.driver", run.encode()} <= set(words):
                return int(pid)
    raise AssertionError(f"{run} has no driver")


def kill_driver(entries):
    os.kill(driver_of("driverless"), signal.SIGKILL)


def stop_job(entries):
    """What `ray job stop` does, without the seconds that its start takes."""
    RayLauncher().cancel(job_of(entries))


@pytest.mark.parametrize("end", [kill_driver, stop_job])
def test_a_run_without_its_driver_saves_says_so_writes_nothing_more_and_is_resumed_there(workshop, on_one_machine, end):
    with running_ray(nodes=2) as cluster:
        workshop.pace(2, after=25)
        workshop.call("gmml-submit", workshop.job("driverless", **TWO), "--cluster", ray_profile(workshop, cluster))
        end(workshop.until("driverless", committed_in(1)))
        entries = workshop.until("driverless", causes)
        assert (ended(entries), causes(entries)) == (["notice"], ["lost"])
        wait_for(lambda: not ranks_of(workshop, "driverless"))
        wait_for(lambda: state_of(workshop, "driverless") == "interrupted")  # whatever Ray says of its job
        assert workshop.entries("driverless") == entries
        workshop.pace(0)
        workshop.call("gmml", "resume", "driverless", "--follow")
    begins, ends = (steps_of(workshop.entries("driverless"), kind) for kind in ("begin", "end"))
    assert begins == [0, ends[0] + 1]
    assert figures(workshop.lines("driverless")) == figures(on_one_machine)


def test_a_run_whose_ray_worker_is_killed_saves_and_goes_on_by_itself_from_the_very_step(workshop, on_one_machine):
    with running_ray(nodes=2) as cluster:
        workshop.pace(2, after=25)
        workshop.call("gmml-submit", workshop.job("workerless", **TWO), "--cluster", ray_profile(workshop, cluster))
        workshop.until("workerless", committed_in(1))
        os.kill(parent_of(ranks_of(workshop, "workerless")[1]), signal.SIGKILL)
        workshop.pace(0)
        entries = workshop.until("workerless", lambda entries: "finished" in ended(entries))
        wait_for(lambda: cluster.status_of_job(job_of(entries)) == "SUCCEEDED")
    assert (ended(entries), causes(entries)) == (["notice", "finished"], ["lost"])
    begins, ends = steps_of(entries, "begin"), steps_of(entries, "end")
    assert begins == [0, ends[0] + 1]
    assert figures(workshop.lines("workerless")) == figures(on_one_machine)


def test_a_rank_that_wakes_up_behind_its_successor_and_a_driver_that_outlives_its_head_publish_nothing(workshop):
    with running_ray(nodes=0) as cluster:
        head = cluster.add_node(cpus=0)
        cluster.add_node(cpus=1)
        job = workshop.job("orphan", run={"steps": 100_000}, checkpoint={"every": "20 steps"})
        workshop.call("gmml-submit", job, "--cluster", ray_profile(workshop, cluster))
        workshop.until("orphan", committed_in(1))
        (orphan,), driver = ranks_of(workshop, "orphan").values(), driver_of("orphan")
        os.kill(orphan, signal.SIGSTOP)
        cluster.kill(head, driver)
        workshop.call("gmml", "resume", "orphan", "--cluster", workshop.profile(1), "--take-over")
        workshop.until("orphan", committed_in(2))
        os.kill(orphan, signal.SIGCONT)
        wait_for(lambda: not is_alive(orphan) and not is_alive(driver))
        workshop.call("gmml", "cancel", "orphan")
        entries = workshop.until("orphan", lambda entries: "cancelled" in ended(entries))
    claim = next(at for at, entry in enumerate(entries) if entry["kind"] == "claim" and entry["attempt"] == 2)
    # the end of the first attempt is the second's to write
    assert [entry["kind"] for entry in entries[claim:] if entry["attempt"] == 1] == ["end"]
    assert ended(entries) == ["lost", "cancelled"]
    seen = [line["step"] for line in workshop.lines("orphan")]
    assert seen == list(range(len(seen)))
