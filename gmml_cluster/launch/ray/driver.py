"""The driver of one submission on a Ray cluster: places ranks, and after each attempt does what the log allows.

`python -m gmml_cluster.launch.ray.driver` is the entrypoint of the job. Ray Train places a fixed number of workers for
each attempt; it retries nothing, keeps no checkpoint and judges nothing. A driver that is lost ends the restarts.
"""

import argparse
import json
import logging
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from gmml_cluster.errors import GmmlError
from gmml_cluster.launch import exits
from gmml_cluster.launch.evidence import Evidence
from gmml_cluster.launch.exits import RankExit
from gmml_cluster.launch.ray.worker import LEAVE_S, Attempt, Left, run_rank
from gmml_cluster.launch.restart import JobStart
from gmml_cluster.launch.restart import judge as judge_by_log
from gmml_cluster.launch.verdict import Verdict
from gmml_cluster.run.codes import FAILED, FINISHED, NEVER, RESTARTS
from gmml_cluster.run.log import Log
from gmml_cluster.store.open import open_store

_LONGEST_PAUSE_S, _PAUSE_S = 300.0, 10.0
_NODE_LOST_S = 20.0
_KILLED = 137

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """One submission.

    Attributes:
        nodes: fewest and most.
        rank_resources: what Ray sets aside for each rank, by name.
        labels: what a rank's node must have.
    """

    root: str
    run: str
    submit: str
    id: str
    module: str
    nodes: tuple[int, int]
    ranks_per_node: int
    rank_resources: dict[str, float]
    placement: str
    labels: dict[str, str]

    def command(self, restart: int) -> list[str]:
        """What a rank runs, after its Python."""
        named = {"root": self.root, "run": self.run, "submit": self.submit, "job": self.id, "restart": str(restart)}
        return [
            "-P",
            "-u",
            "-m",
            self.module,
            *(word for name, value in named.items() for word in (f"--{name}", value)),
        ]


def supervise(job: Job) -> int:
    """Make attempts until the log allows no more; the exit code of the last."""
    restart = 0
    while True:
        ranks = job.ranks_per_node * nodes_to_use(job)
        ended = attempt(job, restart, ranks)
        if ended is None:
            _log.warning("Ray has not started %d ranks in time; asked again with what is free then", ranks)
            if _has_ended(job, restart):
                return NEVER
            continue
        code, evidence = ended
        verdict = judge(job, restart, code, evidence)
        _log.info(
            "attempt after %d restarts exited with %d; %s", restart, code, "again" if verdict.again else "the job ends"
        )
        if not verdict.again:
            return code
        time.sleep(verdict.pause_s)
        restart += 1


def attempt(job: Job, restart: int, ranks: int) -> tuple[int, Evidence] | None:
    """Place this many ranks and wait until they have left; None where Ray could not start them in time."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    record = ray.remote(Attempt).options(num_cpus=0, scheduling_strategy=here).remote(ranks)
    failure = ""
    try:
        _place(job, restart, ranks, record)
    except ControllerError as error:
        if isinstance(error.controller_failure, WorkerGroupStartupTimeoutError):
            return None
        failure = _last_line(error)
    except (TrainingFailedError, RayError) as error:
        failure = _last_line(error)
    left = ray.get(record.all_left.remote())
    evidence = evidence_of(left)
    if failure:
        _log.warning("%s", failure)
        # what outlives a lost worker of the ranks reads that by their pipes, saves and leaves
        _wait_for_end(job, restart)
        evidence = replace(evidence_of_loss(ray.get(record.nodes_of_missing.remote())) or evidence, stderr_tail=failure)
    return max((rank.code for rank in left), default=_KILLED if evidence.cause else FAILED), evidence


def _place(job: Job, restart: int, ranks: int, record: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        DataParallelTrainer(
            run_rank,
            train_loop_config={"command": job.command(restart), "attempt": record},
            scaling_config=ScalingConfig(
                num_workers=ranks,
                use_gpu="GPU" in job.rank_resources,
                resources_per_worker=job.rank_resources,
                placement_strategy=job.placement,
                label_selector=job.labels or None,
            ),
            run_config=RunConfig(
                name=f"{job.submit}-{restart}",
                storage_path=folder,
                failure_config=FailureConfig(max_failures=0, controller_failure_limit=0, max_preemption_failures=0),
            ),
        ).fit()


def nodes_to_use(job: Job) -> int:
    """As many nodes as fit what is free now, within the bounds; the fewest where less is free, for which Ray waits."""
    from ray._private.state import available_resources_per_node, state

    draining = state.get_draining_nodes()
    free = 0
    for node, resources in available_resources_per_node().items():
        if node not in draining:
            free += int(min(resources.get(name, 0.0) // need for name, need in job.rank_resources.items() if need))
    least, most = job.nodes
    return max(least, min(most, free // job.ranks_per_node))


def evidence_of(left: Sequence[Left]) -> Evidence:
    """What the ranks show: a node that is drained, else how the first of them ended that says anything of the cause."""
    drained = next((rank.drained for rank in left if rank.drained), "")
    tail = next((f"rank {rank.rank} ends with {rank.tail!r}" for rank in left if rank.tail), "")
    if drained:
        return Evidence(notice="preempted", proof=f"Ray drains node {drained}", stderr_tail=tail)
    return exits.evidence_of([RankExit(rank.rank, rank.code, output=[rank.sign]) for rank in left], tail)


def evidence_of_loss(nodes: Sequence[str]) -> Evidence | None:
    """The node that Ray lost of these, of which it says nothing until its health checks have failed for a while."""
    until = time.monotonic() + _NODE_LOST_S
    while nodes:
        dead = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if not node["Alive"]}
        found = next((node for node in nodes if node in dead), None)
        if found is not None:
            return Evidence(cause="node_lost", proof=f"Ray lost node {found} ({dead[found]})")
        if time.monotonic() > until:
            break
        time.sleep(1.0)
    return None


def _last_line(error: Exception) -> str:
    return f"Ray Train ends with {(str(error).strip().splitlines() or [type(error).__name__])[-1]!r}"


def judge(job: Job, restart: int, code: int, evidence: Evidence) -> Verdict:
    """The verdict of `launch.restart`, waited for while the log cannot be read or written."""
    start = JobStart(job.submit, job.id, restart)
    tries = 1 if code in (FINISHED, NEVER) else RESTARTS + 1
    for number in range(tries):
        try:
            return judge_by_log(_open(job), start, code, evidence)
        except GmmlError as fault:
            _log.warning("%s", fault)
            if number + 1 < tries:
                time.sleep(min(_PAUSE_S * 2**number, _LONGEST_PAUSE_S))
    return Verdict(again=False)


def _open(job: Job) -> Log:
    return Log(open_store(f"{job.root.rstrip('/')}/{job.run}"))


def _wait_for_end(job: Job, restart: int) -> None:
    until = time.monotonic() + LEAVE_S
    while time.monotonic() < until:
        try:
            found = _open(job).refresh().attempts
        except GmmlError as fault:
            _log.warning("%s", fault)
            return
        mine = [each for each in found if each.job == job.id and each.restart == restart]
        if not mine or mine[-1].ended:
            return
        time.sleep(1.0)


def _has_ended(job: Job, restart: int) -> bool:
    history = _open(job).refresh()
    return bool(history.stopped or history.finished)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of the job."""
    parser = argparse.ArgumentParser(prog="python -m gmml_cluster.launch.ray.driver")
    for name in ("root", "run", "submit", "job", "module", "nodes", "placement"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("resources", "labels"):
        parser.add_argument(f"--{name}", type=json.loads, required=True)
    parser.add_argument("--ranks-per-node", type=int, required=True)
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    least, most = map(int, given.nodes.split(".."))
    job = Job(
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
    ray.init(address="auto", log_to_driver=True)
    return supervise(job)


if __name__ == "__main__":
    sys.exit(main())
