"""What the driver asks of Ray, and what it makes of Ray's errors."""

from types import SimpleNamespace

import pytest

pytest.importorskip("ray")
from ray.exceptions import RayActorError
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from gmml_cluster.launch.ray import driver
from gmml_cluster.launch.ray.job import DriverJob
from gmml_cluster.launch.ray.supervisor import AttemptLost, Unplaced


@pytest.mark.parametrize(
    ("raised", "named"),
    [
        (ControllerError(WorkerGroupStartupTimeoutError(2)), Unplaced),
        (ControllerError(RuntimeError("x")), AttemptLost),
        (WorkerGroupError("lost", {1: RuntimeError("x")}), AttemptLost),
        (RayActorError(), AttemptLost),
        (ValueError("a defect"), ValueError),
    ],
)
def test_what_ray_raises_is_no_room_or_a_loss_and_a_defect_is_neither(raised, named):
    with pytest.raises(named), driver.named():
        raise raised


def test_a_loss_has_the_last_line_of_what_ray_says():
    with pytest.raises(AttemptLost, match=r"^Ray Train ends with 'the end'$"), driver.named():
        raise WorkerGroupError("a worker was lost\nthe end\n", {})


def test_a_node_is_avoided_under_the_id_that_it_has_now(monkeypatch):
    known = (("old", "10.0.0.1", False), ("new", "10.0.0.1", True), ("other", "10.0.0.2", True))
    nodes = [{"NodeID": node, "NodeManagerAddress": address, "Alive": alive} for node, address, alive in known]
    monkeypatch.setattr(driver.ray, "nodes", lambda: nodes)
    assert driver.at_addresses(["10.0.0.1"]) == ["new"]
    assert driver.at_addresses([]) == []


def test_ray_train_places_what_is_asked_for_and_retries_nothing(monkeypatch):
    seen = {}
    made = SimpleNamespace(fit=lambda: None)
    monkeypatch.setattr(driver, "DataParallelTrainer", lambda loop, **given: seen.update(given) or made)
    monkeypatch.setattr(driver.ray, "nodes", list)
    job = DriverJob("/r", "a", "s", "j", "m", (1, 2), 1, {"CPU": 2.0}, "SPREAD", {"pool": "spot"})
    driver.RayCluster().place(job, 3, 2, SimpleNamespace(actor=None), ())
    scaling, run = seen["scaling_config"], seen["run_config"]
    assert (scaling.num_workers, scaling.use_gpu, scaling.resources_per_worker) == (2, False, {"CPU": 2.0})
    assert (scaling.placement_strategy, scaling.label_selector) == ("SPREAD", {"pool": "spot"})
    retries = run.failure_config
    assert (retries.max_failures, retries.controller_failure_limit, retries.max_preemption_failures) == (0, 0, 0)
    # Ray would restore its own state of a run whose name it knows
    assert run.name == "s-3"


def test_the_arguments_of_the_job_are_read_as_they_are_sent(monkeypatch):
    seen = []
    monkeypatch.setattr(driver.ray, "init", lambda **_: None)
    monkeypatch.setattr(driver, "supervise", lambda job, cluster: seen.append(job) or 5)
    given = {"root": "/r", "run": "a", "submit": "s", "job": "j", "module": "m", "nodes": "1..2", "placement": "PACK"}
    given |= {"resources": '{"CPU": 2.0}', "labels": '{"pool": "spot"}', "ranks-per-node": "3"}
    assert driver.main([word for name, value in given.items() for word in (f"--{name}", value)]) == 5
    assert seen == [DriverJob("/r", "a", "s", "j", "m", (1, 2), 3, {"CPU": 2.0}, "PACK", {"pool": "spot"})]
