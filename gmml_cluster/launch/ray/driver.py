"""The driver of one submission on a Ray cluster: places ranks through Ray Train, as `supervisor` decides.

`python -m gmml_cluster.launch.ray.driver` is the entrypoint of the job. A driver that is lost ends the restarts.
"""

import argparse
import json
import logging
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from gmml_cluster.launch.ray.client import AUTO, connected, dashboard
from gmml_cluster.launch.ray.job import DriverJob
from gmml_cluster.launch.ray.room import Free, usable, without_nodes
from gmml_cluster.launch.ray.supervisor import AttemptLost, Unplaced, supervise
from gmml_cluster.launch.ray.turns import wait_for_turn
from gmml_cluster.launch.ray.worker import AttemptRecord, Left, run_rank


class RayRecord:
    """The actor beside this driver that knows how the ranks of an attempt left."""

    def __init__(self, ranks: int) -> None:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.actor = ray.remote(AttemptRecord).options(num_cpus=0, scheduling_strategy=here).remote(ranks)

    def places(self) -> list[str]:
        """The node of each rank that has started."""
        return list(self._ask(self.actor.places))

    def all_left(self) -> list[Left]:
        """Those that have left, in the order in which they did."""
        return list(self._ask(self.actor.all_left))

    def nodes_of_missing(self) -> list[str]:
        """Nodes of the ranks that have not left."""
        return list(self._ask(self.actor.nodes_of_missing))

    def send_away(self) -> None:
        """Have the ranks save and leave."""
        self._ask(self.actor.send_away)

    @staticmethod
    def _ask(method: Any) -> Any:
        with named():
            return ray.get(method.remote())


class RayCluster:
    """The cluster whose job this process is."""

    def free(self, job: DriverJob, avoided: Collection[str]) -> Free:
        """What is free on the nodes that the job may be placed on."""
        from ray._private.state import available_resources_per_node

        return self._of_usable(job, avoided, available_resources_per_node())

    def capacity(self, job: DriverJob, avoided: Collection[str]) -> Free:
        """All that the nodes have which the job may be placed on."""
        return self._of_usable(job, avoided, {node["NodeID"]: node["Resources"] for node in ray.nodes()})

    @staticmethod
    def _of_usable(job: DriverJob, avoided: Collection[str], resources: Mapping[str, Mapping[str, float]]) -> Free:
        from ray._private.state import state

        draining = {*state.get_draining_nodes(), *at_addresses(avoided)}
        return usable(ray.nodes(), resources, draining, job.labels)

    def lost(self) -> dict[str, str]:
        """Nodes that Ray has lost: id -> address."""
        return {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if not node["Alive"]}

    def record(self, ranks: int) -> RayRecord:
        """An actor on this node."""
        return RayRecord(ranks)

    def place(self, job: DriverJob, restart: int, ranks: int, record: Any, avoided: Collection[str]) -> None:
        """By Ray Train, which places them and says when they have left."""
        with tempfile.TemporaryDirectory() as folder, named():
            DataParallelTrainer(
                run_rank,
                train_loop_config={"command": job.command(restart), "attempt": record.actor},
                scaling_config=ScalingConfig(
                    num_workers=ranks,
                    use_gpu="GPU" in job.rank_resources,
                    resources_per_worker=job.rank_resources,
                    placement_strategy=job.placement,
                    label_selector=without_nodes(job.labels, at_addresses(avoided)) or None,
                ),
                run_config=RunConfig(
                    name=f"{job.submit}-{restart}",
                    storage_path=folder,
                    failure_config=FailureConfig(max_failures=0, controller_failure_limit=0, max_preemption_failures=0),
                ),
            ).fit()


def listed_jobs() -> list[Any]:
    """All jobs of this driver's own cluster, whatever address its submitter reaches that by."""
    with connected(dashboard(AUTO)) as client:
        return list(client.list_jobs())


def at_addresses(addresses: Collection[str]) -> list[str]:
    """Ids of the nodes at these addresses: a node that Ray has started anew has another id and the same address."""
    return [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeManagerAddress"] in addresses]


@contextmanager
def named() -> Iterator[None]:
    """What Ray raises as `Unplaced` or `AttemptLost`."""
    try:
        yield
    except ControllerError as error:
        if isinstance(error.controller_failure, WorkerGroupStartupTimeoutError):
            raise Unplaced from error
        raise AttemptLost(last_line(error)) from error
    except (TrainingFailedError, RayError) as error:
        raise AttemptLost(last_line(error)) from error


def last_line(error: Exception) -> str:
    """The end of an error of Ray, whose message holds the output of a worker."""
    return f"Ray Train ends with {(str(error).strip().splitlines() or [type(error).__name__])[-1]!r}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of the job."""
    parser = argparse.ArgumentParser(prog="python -m gmml_cluster.launch.ray.driver")
    for name in ("root", "run", "submit", "job", "module", "nodes", "placement"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("resources", "labels"):
        parser.add_argument(f"--{name}", type=json.loads, required=True)
    parser.add_argument("--ranks-per-node", type=int, required=True)
    parser.add_argument("--namespace")
    parser.add_argument("--in-sweep", help="of whose runs only so many are at work at once")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    least, most = map(int, given.nodes.split(".."))
    job = DriverJob(
        root=given.root,
        run=given.run,
        submit=given.submit,
        id=given.job,
        module=given.module,
        nodes=(least, most),
        ranks_per_node=given.ranks_per_node,
        rank_resources=given.resources,
        placement=given.placement,
        labels=given.labels,
    )
    ray.init(address="auto", namespace=given.namespace, log_to_driver=True)
    if given.in_sweep is not None:
        wait_for_turn(job.submit, listed_jobs)
    return supervise(job, RayCluster())


if __name__ == "__main__":
    sys.exit(main())
