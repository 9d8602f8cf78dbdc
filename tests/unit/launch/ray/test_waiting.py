"""What `gmml status` says of a run whose ranks find no room, by what the dashboard of Ray 2.60 answered."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmml_cluster.launch.protocol import JobReport
from gmml_cluster.launch.ray import launcher as ray_launcher
from gmml_cluster.launch.ray.launcher import RayLauncher
from gmml_cluster.launch.ray.room import is_selected, without_nodes
from gmml_cluster.launch.ray.waiting import waits_for_room

A, B = (
    "6d837c36641936902c3202e4b3783570ac62a32c2238cb0bcc9fd11e",
    "b12c62a7afc8f135516901b545121a41ad2032f155afb119b11952eb",
)
IDLE = "0.0/1.0 CPU\n0.0/1.0 fast\n0B/21.52GiB memory\n0B/95.37MiB object_store_memory"
BUSY = "1.0/1.0 CPU (1.0 used of 1.0 reserved in placement groups)\n0B/21.75GiB memory"
TAKEN = "1.0/1.0 CPU\n0B/21.75GiB memory\n2.00KiB/95.37MiB object_store_memory"


def driver(job="3500b572ca5cc0b62b7527c900d29393", job_id="03000000", status="RUNNING", **metadata):
    metadata = {"run": "/runs/a-run", **metadata}
    return SimpleNamespace(
        submission_id=job, job_id=job_id, status=SimpleNamespace(value=status), message="", metadata=metadata
    )


def group(ranks=2, job="03000000", needs=None, selector=None):
    """A placement group as the state API lists it."""
    bundle = {"unit_resources": needs or {"CPU": 1.0}, "node_id": "", "label_selector": selector or {}}
    stats = {"scheduling_attempt": 4, "scheduling_state": "NO_RESOURCES"}
    return {
        "placement_group_id": "a8c4404c9ba1503b4df8af94e5e303000000",
        "name": "",
        "creator_job_id": job,
        "state": "PENDING",
        "bundles": [bundle] * ranks,
        "is_detached": False,
        "stats": stats,
    }


def node(name, state="ALIVE", **labels):
    return {"node_id": name, "state": state, "labels": {"ray.io/node-id": name, **labels}}


class Dashboard:
    """Answers as Ray's does, and keeps what it was asked."""

    def __init__(self, groups=(), used=None, nodes=None, jobs=()):
        listed = {"placement_groups": list(groups), "nodes": nodes or [node(A), node(B, pool="spot")]}
        self.answers = {
            **{f"/api/v0/{name}": {"data": {"result": {"total": 2, "result": each}}} for name, each in listed.items()},
            "/nodes": {"data": {"summary": [], "nodeLogicalResources": {A: TAKEN, B: IDLE} if used is None else used}},
        }
        self.asked = []
        self.jobs = jobs

    def list_jobs(self):
        return list(self.jobs)

    def _do_request(self, method, endpoint, params):
        self.asked.append((method, endpoint, params))
        return SimpleNamespace(json=lambda: self.answers[endpoint])


def line(dashboard, mine=None):
    mine = mine or driver()
    return waits_for_room(dashboard, [mine]).get(mine.submission_id)


def test_a_run_without_room_says_what_it_asks_for_and_what_is_free():
    dashboard = Dashboard([group()])
    assert line(dashboard) == "waits for room for 2 ranks of 1 CPU; free: 1 CPU on 2 nodes, room for 1"
    filters = dict(dashboard.asked[0][2])
    assert (filters["filter_keys"], filters["filter_values"]) == ("state", "PENDING")


def test_labels_and_resources_of_the_profile_are_named_and_other_nodes_have_no_room():
    dashboard = Dashboard(
        [group(1, needs={"fast": 1.0, "CPU": 1.0}, selector={"pool": "spot"})], used={A: IDLE, B: TAKEN}
    )
    expected = "waits for room for 1 rank of 1 CPU, 1 fast on nodes labelled {'pool': 'spot'}"
    assert line(dashboard) == f"{expected}; free: 0 CPU, 0 fast on 1 node, room for 0"
    nowhere = Dashboard([group(1, selector={"pool": "gold"})])
    assert line(nowhere).endswith("on nodes labelled {'pool': 'gold'}; no such node is there")


def test_what_is_set_aside_for_other_placement_groups_is_not_free():
    started = "0.0/1.0 CPU (0.0 used of 1.0 reserved in placement groups)"
    for used in (BUSY, started):
        assert line(Dashboard([group(1)], used={A: used, B: BUSY})).endswith("free: 0 CPU on 2 nodes, room for 0")


def test_a_strict_placement_has_room_on_one_node_alone_and_says_so():
    both = "0.0/2.0 CPU"
    dashboard = Dashboard([group(3)], used={A: both, B: both})
    assert line(dashboard, driver(placement="STRICT_PACK")).endswith(
        "free: 4 CPU on 2 nodes, room for 2 by STRICT_PACK"
    )
    assert line(dashboard, driver(placement="SPREAD")).endswith("free: 4 CPU on 2 nodes, room for 4")


def test_nodes_that_are_lost_have_no_room_and_what_no_node_has_reported_is_not_claimed():
    lost = Dashboard([group()], used={A: IDLE, B: IDLE}, nodes=[node(A), node(B, "DEAD")])
    assert line(lost).endswith("free: 1 CPU on 1 node, room for 1")
    assert line(Dashboard([group()], used={})) == "waits for room for 2 ranks of 1 CPU"


def test_groups_of_others_and_jobs_that_do_not_run_are_no_reason():
    assert line(Dashboard([group(job="07000000")])) is None
    for mine in (driver(status="PENDING"), driver(job_id=None)):
        dashboard = Dashboard([group()])
        assert line(dashboard, mine) is None
        assert not dashboard.asked


# placement groups without selectors, nodes without labels
NOTHING_NAMED = {
    "data": {
        "result": {"result": [{**group(), "bundles": [None], "state": "ALIVE", "node_id": A, "labels": None}]},
        "nodeLogicalResources": 5,
    }
}


@pytest.mark.parametrize("endpoint", ["/api/v0/placement_groups", "/api/v0/nodes", "/nodes"])
@pytest.mark.parametrize("answer", [{}, {"data": None}, [], {"data": {"result": {"result": [{}]}}}, NOTHING_NAMED])
def test_a_dashboard_that_answers_otherwise_gives_no_reason_and_no_error(endpoint, answer):
    dashboard = Dashboard([group(selector={"pool": "spot"})])
    dashboard.answers[endpoint] = answer
    assert line(dashboard) is None


def test_a_run_without_room_is_queued_and_one_with_room_runs(monkeypatch):
    waits, runs = driver(), driver("another", "04000000")
    dashboard = Dashboard([group()], jobs=[waits, runs])

    class Connected:
        def __init__(self, address, answer_s):
            pass

        def __enter__(self):
            return dashboard

        def __exit__(self, *_):
            return False

    monkeypatch.setattr(ray_launcher, "connected", Connected)
    jobs = [f"http://head:8265#{job.submission_id}" for job in (waits, runs)]
    reason = "waits for room for 2 ranks of 1 CPU; free: 1 CPU on 2 nodes, room for 1"
    assert RayLauncher().poll(dict.fromkeys(jobs, "a-run")) == {
        jobs[0]: JobReport("queued", reason),
        jobs[1]: JobReport("running"),
    }


@given(st.dictionaries(st.sampled_from("abc"), st.sampled_from("xy")), st.sets(st.sampled_from([A, B])))
def test_a_selector_takes_the_nodes_with_its_labels_that_are_not_avoided(labels, avoided):
    selector = without_nodes(labels, sorted(avoided))
    for name in (A, B):
        assert is_selected({**labels, "z": "z", "ray.io/node-id": name}, selector) is (name not in avoided)
        if labels:
            assert not is_selected({"ray.io/node-id": name}, selector)
