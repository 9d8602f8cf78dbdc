"""What CI has no time for on Ray: a lost head, a lost node, an added one, and one run on three clusters in turn."""

import json

import pytest

from tests.fixtures.ray import running_ray
from tests.fixtures.runs import Workshop, ended
from tests.fixtures.supervised import ranks_of, wait_for

pytestmark = pytest.mark.timeout(1800)

STEPS = 400
KEYS = ("step", "loss", "grad_norm", "lr", "wd", "masked")


def figures(lines):
    return [tuple(line[key] for key in KEYS) for line in lines]


def steps_of(entries, kind):
    return [entry["step"] for entry in entries if entry["kind"] == kind]


def ray_profile(site, cluster):
    site.extra["RAY_AUTH_MODE"] = "disabled"
    return site.profile(1, launcher="ray", ray={"address": cluster.dashboard, "start": "5 min"})


def committed_in(attempt):
    """Whether this attempt has made a checkpoint."""

    def holds(entries):
        return any(entry["kind"] == "commit" and entry["attempt"] == attempt for entry in entries)

    return holds


@pytest.fixture(scope="module")
def on_one_machine(tmp_path_factory, digits):
    """Metric lines of the same run, its two ranks started by the local launcher."""
    folder = tmp_path_factory.mktemp("local")
    shop = Workshop(folder, f"{digits}/train/*.tar", str(folder / "runs"), {})
    shop.call("gmml-submit", shop.job("calm", run={"steps": STEPS}), "--cluster", shop.profile(2), "--follow")
    return shop.lines("calm")


def test_a_lost_node_is_named_and_the_run_goes_on_without_it(workshop):
    with running_ray(nodes=1) as cluster:
        lost = cluster.add_node()
        profile = ray_profile(workshop, cluster)
        bounds = {"run": {"steps": STEPS}, "resources": {"nodes": "1..2"}}
        workshop.call("gmml-submit", workshop.job("shrunk", **bounds), "--cluster", profile)
        workshop.until("shrunk", committed_in(1))
        cluster.kill(lost)
        entries = workshop.until("shrunk", committed_in(2))
        claims = [entry["topology"]["ranks"] for entry in entries if entry["kind"] == "claim"]
        assert claims == [2, 1]
        workshop.until("shrunk", lambda entries: "finished" in ended(entries))
        assert [line["step"] for line in workshop.lines("shrunk")] == list(range(STEPS))


def test_a_run_takes_an_added_node_at_a_checkpoint_and_loses_no_step(workshop):
    with running_ray(nodes=1) as cluster:
        profile = ray_profile(workshop, cluster)
        bounds = {"run": {"steps": 100_000}, "resources": {"nodes": "1..2"}, "checkpoint": {"every": "100 steps"}}
        workshop.call("gmml-submit", workshop.job("grown", **bounds), "--cluster", profile)
        workshop.until("grown", committed_in(1))
        cluster.add_node()
        workshop.until("grown", committed_in(2))
        workshop.call("gmml", "cancel", "grown")
        entries = workshop.until("grown", lambda entries: "cancelled" in ended(entries))
    assert ended(entries) == ["notice", "cancelled"]
    assert [entry["topology"]["ranks"] for entry in entries if entry["kind"] == "claim"] == [1, 2]
    (cause,) = [entry for entry in entries if entry["kind"] == "cause"]
    assert (cause["cause"], cause["proof"]) == ("notice", "there is room for 2 nodes instead of 1")
    begins, ends = steps_of(entries, "begin"), steps_of(entries, "end")
    assert begins[1] == ends[0] + 1
    seen = [(line["step"], line["samples"]) for line in workshop.lines("grown")]
    assert seen == [(step, (step + 1) * 32) for step in range(len(seen))]


def test_a_run_whose_head_is_lost_saves_says_so_and_goes_on_elsewhere(workshop, on_one_machine):
    with running_ray(nodes=0) as cluster:
        head = cluster.add_node(cpus=0)
        cluster.add_node(cpus=2)
        profile = ray_profile(workshop, cluster)
        bounds = {"run": {"steps": STEPS}, "resources": {"nodes": "1..2"}}
        workshop.call("gmml-submit", workshop.job("headless", **bounds), "--cluster", profile)
        workshop.until("headless", committed_in(1))
        cluster.kill(head)
        entries = workshop.until("headless", lambda entries: any(entry["kind"] == "cause" for entry in entries))
        assert ended(entries) == ["notice"]
        assert [entry["cause"] for entry in entries if entry["kind"] == "cause"] == ["lost"]
        # the node is still there, and may be for a minute: nothing on it writes to the run any more
        wait_for(lambda: not ranks_of(workshop, "headless"))
        assert workshop.entries("headless") == entries
    last = [entry["step"] for entry in entries if entry["kind"] == "commit"][-1]
    workshop.call("gmml", "resume", "headless", "--cluster", workshop.profile(2), "--take-over", "--follow")
    begins = [entry["step"] for entry in workshop.entries("headless") if entry["kind"] == "begin"]
    assert begins == [0, last + 1]
    assert figures(workshop.lines("headless")) == figures(on_one_machine)


def test_one_run_is_started_on_slurm_resumed_on_ray_and_finished_on_this_machine(workshop, slurm, on_one_machine):
    workshop.extra.update(slurm.environment | workshop.environment)
    section = {"partition": "low", "time": "10 min", "notice": "60 s", "folder": str(workshop.folder / "slurm")}
    on_slurm = workshop.profile(1, launcher="slurm", slurm=section)
    bounds = {"run": {"steps": STEPS}, "resources": {"nodes": "1..2"}}
    workshop.call("gmml-submit", workshop.job("chain", **bounds), "--cluster", on_slurm)
    workshop.until("chain", committed_in(1))
    workshop.call("gmml", "cancel", "chain")
    workshop.until("chain", lambda entries: len(ended(entries)) == 1)
    with running_ray(nodes=2) as cluster:
        workshop.call("gmml", "resume", "chain", "--cluster", ray_profile(workshop, cluster))
        workshop.until("chain", committed_in(2))
        workshop.call("gmml", "cancel", "chain")
        workshop.until("chain", lambda entries: len(ended(entries)) == 2)
    workshop.call("gmml", "resume", "chain", "--cluster", workshop.profile(2), "--take-over", "--follow")
    entries = workshop.entries("chain")
    assert ended(entries) == ["cancelled", "cancelled", "finished"]
    assert [entry["launcher"] for entry in entries if entry["kind"] == "submit"] == ["slurm", "ray", "local"]
    assert figures(workshop.lines("chain")) == figures(on_one_machine)
    assert json.loads(workshop.call("gmml", "status", "chain", "--json"))["goodput"]["share"] == 1.0
