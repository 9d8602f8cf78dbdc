"""What CI has no time for on Ray: nodes and a head lost, a node added, a token, labels, a node that failed twice."""

import json
import os
import secrets
import shlex
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from gmml_cluster.launch.ray.client import connected
from gmml_cluster.store.open import open_store
from tests.drills.on_ray import STEPS, committed_in, figures, on_one_machine, ray_profile, steps_of
from tests.fixtures import packages
from tests.fixtures.ray import Ray, running_ray
from tests.fixtures.runs import REPOSITORY, ended
from tests.fixtures.supervised import ranks_of, wait_for

__all__ = ["on_one_machine"]
pytestmark = pytest.mark.timeout(1800)


@pytest.mark.parametrize("lost_by", [Ray.kill, Ray.kill_raylet], ids=["all of it", "its raylet"])
def test_a_run_goes_on_without_a_lost_node_which_is_named_once_ray_says_so(workshop, lost_by):
    with running_ray(nodes=1) as cluster:
        lost = cluster.add_node()
        profile = ray_profile(workshop, cluster)
        bounds = {"run": {"steps": STEPS}, "resources": {"nodes": "1..2"}}
        workshop.call("gmml-submit", workshop.job("shrunk", **bounds), "--cluster", profile)
        workshop.until("shrunk", committed_in(1))
        lost_by(cluster, lost)
        entries = workshop.until("shrunk", committed_in(2))
        claims = [entry["topology"]["ranks"] for entry in entries if entry["kind"] == "claim"]
        assert claims == [2, 1]
        assert ended(entries)[0] in ("lost", "notice", "node_lost")
        # on a busy machine Ray itself may not know of the node's loss in the time that the driver waits for its word
        said = [entry for entry in entries if entry["kind"] == "cause"]
        cause = said[0] if said else next(entry for entry in entries if entry["kind"] == "end")
        assert (cause["cause"], cause.get("node")) in [("node_lost", lost), ("lost", None)]
        workshop.until("shrunk", lambda entries: "finished" in ended(entries))
        seen = [(line["step"], line["samples"]) for line in workshop.lines("shrunk")]
        assert seen == [(step, (step + 1) * 32) for step in range(STEPS)]


def test_a_node_that_is_asked_to_end_is_drained_first_and_costs_no_step(workshop):
    with running_ray(nodes=1) as cluster:
        leaving = cluster.add_node()
        bounds = {"run": {"steps": STEPS}, "resources": {"nodes": "1..2"}}
        workshop.call("gmml-submit", workshop.job("told", **bounds), "--cluster", ray_profile(workshop, cluster))
        workshop.until("told", committed_in(1))
        cluster.nodes[leaving].terminate()  # as Kubernetes and the notices of spot pools do
        entries = workshop.until("told", lambda entries: "finished" in ended(entries))
    assert ended(entries) == ["notice", "finished"]
    (cause,) = [entry for entry in entries if entry["kind"] == "cause"]
    assert (cause["cause"], cause["proof"].startswith("Ray drains node ")) == ("preempted", True)
    assert [entry["topology"]["ranks"] for entry in entries if entry["kind"] == "claim"] == [2, 1]
    assert steps_of(entries, "begin") == [0, steps_of(entries, "end")[0] + 1]


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
        workshop.pace(2, after=25)
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
    workshop.pace(0)
    workshop.call("gmml", "resume", "headless", "--cluster", workshop.profile(2), "--take-over", "--follow")
    begins = [entry["step"] for entry in workshop.entries("headless") if entry["kind"] == "begin"]
    assert begins == [0, last + 1]
    assert figures(workshop.lines("headless")) == figures(on_one_machine)


def test_a_run_goes_on_on_the_next_cluster_by_the_command_of_the_manifest_of_a_rayjob(workshop, on_one_machine):
    with running_ray(nodes=0) as cluster:
        cluster.add_node(cpus=0)
        cluster.add_node(cpus=2)
        workshop.pace(2, after=25)
        job = workshop.job("pods", run={"steps": STEPS}, resources={"nodes": 2})
        workshop.call("gmml-submit", job, "--cluster", ray_profile(workshop, cluster))
        last = steps_of(workshop.until("pods", committed_in(1)), "commit")[-1]
    with running_ray(nodes=0) as cluster:  # of the first one nothing is left
        cluster.add_node(cpus=0)
        cluster.add_node(cpus=2)
        profile = ray_profile(workshop, cluster)
        workshop.pace(0)
        with connected(cluster.dashboard) as client:
            command = shlex.join(entrypoint_of_rayjob(f"{workshop.root}/pods", profile))
            tried = client.submit_job(entrypoint=command)
            wait_for(lambda: client.get_job_status(tried).is_terminal())
            assert str(client.get_job_status(tried).value) == "SUCCEEDED", client.get_job_logs(tried)
    entries = workshop.entries("pods")
    assert ended(entries) == ["lost", "finished"]
    begins = steps_of(entries, "begin")
    assert begins[0] == 0
    assert begins[1] > last
    assert figures(workshop.lines("pods")) == figures(on_one_machine)


def entrypoint_of_rayjob(run, profile):
    """What the manifest runs on the head, with a run and a profile of this machine."""
    manifest = yaml.safe_load((REPOSITORY / "docker" / "kuberay" / "rayjob.yaml").read_text())
    words = shlex.split(manifest["spec"]["entrypoint"])
    words[words.index("resume") + 1] = run
    words[words.index("--cluster") + 1] = str(profile)
    return words


def test_a_cluster_with_a_token_is_found_by_auto_and_refuses_those_without(workshop):
    token = workshop.folder / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    mode = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    with running_ray(nodes=1, **mode) as cluster:
        cluster.add_node()
        site = replace(workshop, extra={**mode, "RAY_ADDRESS": cluster.gcs})
        ray = {"address": "auto", "namespace": "drill", "start": "5 min"}
        profile = site.profile(1, launcher="ray", ray=ray)
        job = site.job("locked", run={"steps": 40}, resources={"nodes": 2})
        named = site.profile(1, launcher="ray", ray={"address": cluster.dashboard})
        for stranger in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": secrets.token_hex(32)}):
            asking = replace(site, extra=stranger)
            refused = asking.call("gmml-submit", job, "--cluster", named, code=4, errors=True)
            assert "set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, and RAY_AUTH_MODE=token" in refused
        site.call("gmml-submit", job, "--cluster", profile, "--follow")
        entries = site.entries("locked")
        assert ended(entries) == ["finished"]
        assert [e["topology"]["ranks"] for e in entries if e["kind"] == "claim"] == [2]
        assert next(e["job"] for e in entries if e["kind"] == "queued").startswith(f"{cluster.dashboard}#")
        token_alone = replace(site, extra={"RAY_AUTH_TOKEN_PATH": str(token)})  # the mode follows from it
        scored = json.loads(token_alone.call("gmml", "eval", "locked", "--cluster", named, "--json"))
        assert (scored["run"], scored["step"]) == ("locked", 39)


def test_ranks_go_to_nodes_with_their_label_and_resource_which_have_what_is_not_sent(workshop):
    with running_ray(nodes=1) as cluster:
        cluster.add_node(labels="pool=spot", resources='{"fast": 1}', A_SECRET="known here alone")
        ray = {"labels": {"pool": "spot"}, "resources": {"fast": 1}, "placement": "SPREAD"}
        profile = ray_profile(workshop, cluster, secrets=["A_SECRET"], environment={"A_NAME": "sent"}, ray=ray)
        # two nodes are free, and one of them is of no use to it
        job = workshop.job("labelled", run={"steps": 100_000}, resources={"nodes": "1..2"})
        workshop.call("gmml-submit", job, "--cluster", profile)
        workshop.until("labelled", committed_in(1))
        (rank,) = ranks_of(workshop, "labelled").values()
        variables = dict(
            word.split(b"=", 1) for word in Path(f"/proc/{rank}/environ").read_bytes().split(b"\0") if word
        )
        assert variables[b"GMML_ADDRESS"].decode() != cluster.head
        assert (variables[b"A_SECRET"], variables[b"A_NAME"]) == (b"known here alone", b"sent")
        # there is no room for a second one until the first has left
        heard = workshop.folder / "heard"
        tell = {"notify": {"command": ["sh", "-c", f"cat >> {heard}"]}, "resources": {"nodes": 1}}
        workshop.call("gmml-submit", workshop.job("after", run={"steps": 20}, **tell), "--cluster", profile)
        asked = "waits for room for 1 rank of 1 CPU, 1 fast on nodes labelled {'pool': 'spot'}"
        expected = ("queued", f"{asked}; free: 0 CPU, 0 fast on 1 node, room for 0")
        wait_for(lambda: waiting(workshop, "after") == expected)
        workshop.call("gmml", "cancel", "labelled")
        workshop.until("labelled", lambda entries: "cancelled" in ended(entries))
        workshop.until("after", lambda entries: ended(entries) == ["finished"])
        wait_for(lambda: waiting(workshop, "after") == ("finished", None))
        wait_for(heard.exists)  # the driver's last act
        wait_for(lambda: heard.read_text() == "after has finished: attempt 1 made its last step, 19.")
        elsewhere = ray_profile(workshop, cluster, secrets=["NO_SUCH_SECRET"], ray=ray)
        other = workshop.job("refused", run={"steps": 10})
        refused = workshop.call("gmml-submit", other, "--cluster", elsewhere, code=3, errors=True)
        assert "NO_SUCH_SECRET is not set on node" in refused
        greedy = ray_profile(workshop, cluster, ray={**ray, "resources": {"fast": 2}})
        refused = workshop.call("gmml-submit", other, "--cluster", greedy, code=3, errors=True)
        assert "1 rank of 1 CPU, 2 fast on nodes labelled {'pool': 'spot'} at least" in refused
        assert "the cluster can never hold more than 0" in refused


def waiting(workshop, run):
    """The state of a run, and what it waits for."""
    document = json.loads(workshop.call("gmml", "status", run, "--json"))
    return document["state"], document["queue_reason"]


def test_a_bucket_that_a_node_may_not_write_is_refused_from_there(workshop, s3_server, monkeypatch):
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    bucket = f"s3://{s3_server.make_bucket()}"
    with running_ray(nodes=1, **{**s3_server.environment, "AWS_SECRET_ACCESS_KEY": "another"}) as cluster:
        profile = ray_profile(workshop, cluster, root=f"{bucket}/runs", secrets=[*s3_server.environment])
        job = workshop.job("elsewhere", run={"steps": 10})
        refused = workshop.call("gmml-submit", job, "--cluster", profile, code=3, errors=True)
        # what a node has no means to make, and says so in no output
        without = ray_profile(workshop, cluster, ray={"runtime_env": {"conda": "no_such_environment"}})
        unmade = workshop.call("gmml-submit", job, "--cluster", without, code=3, errors=True)
    assert f"{bucket}/runs: on node " in refused
    assert "a job with the submitted code and environment failed there: " in unmade
    assert "it printed nothing" not in unmade
    assert open_store(bucket).list_objects() == []


def test_ranks_run_in_the_environment_that_pip_of_the_profile_makes(workshop):
    if packages.unreachable():
        pytest.skip(packages.unreachable())
    with running_ray(nodes=1) as cluster:
        # it copies this environment, which takes minutes on a busy machine
        ray = {"runtime_env": {"pip": [packages.TRIED]}, "start": "20 min"}
        profile = ray_profile(workshop, cluster, ray=ray)
        workshop.call("gmml-submit", workshop.job("piped", run={"steps": 100_000}), "--cluster", profile)
        workshop.until("piped", committed_in(1))
        (rank,) = ranks_of(workshop, "piped").values()
        python, *_ = Path(f"/proc/{rank}/cmdline").read_text().split("\0")
        assert "/runtime_resources/pip/" in python
        workshop.call("gmml", "cancel", "piped")
        workshop.until("piped", lambda entries: "cancelled" in ended(entries))


def address_of(pid):
    """The address of the node that a rank is on."""
    words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next(word for word in words if word.startswith(b"GMML_ADDRESS=")).decode().partition("=")[2]


def test_a_node_on_which_ranks_were_killed_twice_gets_no_more_of_them(workshop):
    with running_ray(nodes=1) as cluster:
        cluster.add_node()
        profile = ray_profile(workshop, cluster)
        every = {"checkpoint": {"every": "20 steps"}, "resources": {"nodes": 1}}
        workshop.call("gmml-submit", workshop.job("shy", run={"steps": 100_000}, **every), "--cluster", profile)
        killed, excluded = [], []
        while not excluded:  # of three killed ranks two were on one of the two nodes
            attempt = len(killed) + 1
            workshop.until("shy", committed_in(attempt))
            (rank,) = ranks_of(workshop, "shy").values()
            killed.append(address_of(rank))
            os.kill(rank, signal.SIGKILL)
            entries = workshop.until("shy", committed_in(attempt + 1))
            excluded = [entry["node"] for entry in entries if entry["kind"] == "exclude"]
        assert killed.count(excluded[0]) == 2
        (rank,) = ranks_of(workshop, "shy").values()
        assert address_of(rank) != excluded[0]
        workshop.call("gmml", "cancel", "shy")
        entries = workshop.until("shy", lambda entries: "cancelled" in ended(entries))
    assert ended(entries) == [*["killed"] * len(killed), "cancelled"]
