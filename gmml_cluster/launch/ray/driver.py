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
from gmml_cluster.launch.ray.growth import looked_for
from gmml_cluster.launch.ray.job import Job
from gmml_cluster.launch.ray.room import Free, ranks_on, usable, without_ranks
from gmml_cluster.launch.ray.worker import LEAVE_S, Attempt, Left, run_rank
from gmml_cluster.launch.restart import JobStart
from gmml_cluster.launch.restart import judge as judge_by_log
from gmml_cluster.launch.verdict import Verdict
from gmml_cluster.run import history as started
from gmml_cluster.run.codes import FAILED, FINISHED, NEVER, RESTARTS
from gmml_cluster.run.growth import NO_COMMIT, Growth
from gmml_cluster.run.log import Log
from gmml_cluster.store.open import open_store

_LONGEST_PAUSE_S, _PAUSE_S = 300.0, 10.0
_NODE_LOST_S, _FREED_S, _LOOK_S = 20.0, 30.0, 1.0
_KILLED = 137

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ended:
    """How an attempt ended.

    Attributes:
        code: highest exit code of its ranks.
        evidence: what else is known of it.
        places: the node of each rank that had started.
    """

    code: int
    evidence: Evidence
    places: tuple[str, ...] = ()


def supervise(job: Job) -> int:
    """Make attempts until the log allows no more; the exit code of the last."""
    restart = 0
    had: tuple[str, ...] | None = ()
    while True:
        nodes = nodes_to_use(job, had)
        ended = attempt(job, restart, nodes)
        if ended is None:
            _log.warning("Ray has not started the ranks of %d nodes in time; asked again with what is free then", nodes)
            if _has_ended(job):
                return NEVER
            had = None
            continue
        verdict = judge(job, restart, ended.code, ended.evidence)
        then = "again" if verdict.again else "the job ends"
        _log.info("attempt after %d restarts exited with %d; %s", restart, ended.code, then)
        if not verdict.again:
            return ended.code
        time.sleep(verdict.pause_s)
        restart, had = restart + 1, ended.places


def attempt(job: Job, restart: int, nodes: int) -> Ended | None:
    """Place the ranks of so many nodes and wait until they have left; None where Ray could not start them in time."""
    ranks = job.ranks_per_node * nodes
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    record = ray.remote(Attempt).options(num_cpus=0, scheduling_strategy=here).remote(ranks)
    failure, growth = "", Growth(nodes)

    def look() -> bool:
        free = without_ranks(free_now(job), ray.get(record.places.remote()), job.rank_resources)
        return growth.is_due(job.nodes_in(free), lambda: _last_commit(job, restart))

    try:
        with looked_for(growth, job.nodes[1], look, lambda proof: ray.get(record.send_away.remote())):
            _place(job, restart, ranks, record)
    except ControllerError as error:
        if isinstance(error.controller_failure, WorkerGroupStartupTimeoutError):
            return None
        failure = _last_line(error)
    except (TrainingFailedError, RayError) as error:
        failure = _last_line(error)
    left, missing, places = _asked(record)
    evidence = evidence_of(left, growth.proof)
    if failure:
        _log.warning("%s", failure)
        # what outlives a lost worker of the ranks reads that by their pipes, saves and leaves
        _wait_for_end(job, restart)
        evidence = replace(evidence_of_loss(missing) or evidence, stderr_tail=failure)
    return Ended(exit_code(left, evidence), evidence, tuple(places))


def _asked(record: Any) -> tuple[list[Left], list[str], list[str]]:
    """How the ranks left, the nodes of those that did not, and of all; nothing where the actor that knew is lost."""
    try:
        left: list[Left] = ray.get(record.all_left.remote())
        missing: list[str] = ray.get(record.nodes_of_missing.remote())
        places: list[str] = ray.get(record.places.remote())
    except RayError as error:
        _log.warning("%s", _last_line(error))
        return [], [], []
    return left, missing, places


def exit_code(left: Sequence[Left], evidence: Evidence) -> int:
    """The highest of the ranks; where none has left by itself they were killed with their node, or never ran."""
    return max((rank.code for rank in left), default=_KILLED if evidence.cause else FAILED)


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


def nodes_to_use(job: Job, had: Sequence[str] | None) -> int:
    """As many nodes as are free now, within the bounds; the fewest where less is free, for which Ray waits.

    Args:
        job: what is to be placed.
        had: nodes of the ranks of the last attempt. Ray gives their resources back a moment after it, and else a run
            would go on on fewer nodes for that moment alone; a node that is drained, or that Ray has lost, has none.
            None where they are not known, as Ray gave up starting the ranks: its answer is waited for in full.
    """
    until = time.monotonic() + _FREED_S
    while True:
        free = free_now(job)
        nodes = job.nodes_in(free)
        back = had is not None and all(
            ranks_on(free[node], job.rank_resources) >= had.count(node) for node in had if node in free
        )
        if nodes == job.nodes[1] or back or time.monotonic() > until:
            return nodes
        time.sleep(_LOOK_S)


def free_now(job: Job) -> Free:
    """What is free on the nodes that the job may be placed on."""
    from ray._private.state import available_resources_per_node, state

    return usable(ray.nodes(), available_resources_per_node(), state.get_draining_nodes(), job.labels)


def evidence_of(left: Sequence[Left], grown: str = "") -> Evidence:
    """What the ranks show: a node that is drained, else how the first of them ended that says anything of the cause.

    Args:
        left: how they left.
        grown: why they were given notice by this driver; empty where they were not.
    """
    drained = next((rank.drained for rank in left if rank.drained), "")
    tail = next((f"rank {rank.rank} ends with {rank.tail!r}" for rank in left if rank.tail), "")
    if drained:
        return Evidence(notice="preempted", proof=f"Ray drains node {drained}", stderr_tail=tail)
    if grown:
        return Evidence(notice="notice", proof=grown, stderr_tail=tail)
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
            found = _mine(job, restart)
        except GmmlError as fault:
            _log.warning("%s", fault)
            return
        if found is None or found.ended:
            return
        time.sleep(_LOOK_S)


def _mine(job: Job, restart: int) -> started.Attempt | None:
    """What the log has of this start; None before its claim."""
    found = _open(job).refresh().attempts
    return next((each for each in reversed(found) if each.job == job.id and each.restart == restart), None)


def _last_commit(job: Job, restart: int) -> int:
    """The step of this start's latest checkpoint, `NO_COMMIT` without one."""
    history = _open(job).refresh()
    mine = {each.number for each in history.attempts if each.job == job.id and each.restart == restart}
    return max((commit.step for commit in history.commits if commit.attempt in mine), default=NO_COMMIT)


def _has_ended(job: Job) -> bool:
    """Whether the run is stopped or finished; not where the log cannot be read."""
    try:
        history = _open(job).refresh()
    except GmmlError as fault:
        _log.warning("%s", fault)
        return False
    return bool(history.stopped or history.finished)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of the job."""
    parser = argparse.ArgumentParser(prog="python -m gmml_cluster.launch.ray.driver")
    for name in ("root", "run", "submit", "job", "module", "nodes", "placement"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("resources", "labels"):
        parser.add_argument(f"--{name}", type=json.loads, required=True)
    parser.add_argument("--ranks-per-node", type=int, required=True)
    parser.add_argument("--namespace")
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
    ray.init(address="auto", namespace=given.namespace, log_to_driver=True)
    return supervise(job)


if __name__ == "__main__":
    sys.exit(main())
