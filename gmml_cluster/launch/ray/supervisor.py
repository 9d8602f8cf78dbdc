"""What the driver of a submission decides, without Ray: how many nodes an attempt gets, how it ended, and what follows.

Ray Train places a fixed number of workers for each attempt; it retries nothing, keeps no checkpoint and judges nothing.
"""

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from gmml_cluster.errors import GmmlError
from gmml_cluster.launch import notify
from gmml_cluster.launch.after import exits
from gmml_cluster.launch.after.evidence import Evidence
from gmml_cluster.launch.after.exits import RankExit
from gmml_cluster.launch.after.verdict import Verdict
from gmml_cluster.launch.ray.growth import looked_for
from gmml_cluster.launch.ray.job import DriverJob
from gmml_cluster.launch.ray.room import Free, ranks_on, without_ranks
from gmml_cluster.launch.ray.worker import LEAVE_S, Left
from gmml_cluster.launch.restart import JobStart
from gmml_cluster.launch.restart import judge as judge_by_log
from gmml_cluster.run import history as started
from gmml_cluster.run.codes import FAILED, FINISHED, NEVER, ORPHAN_S, RESTARTS
from gmml_cluster.run.growth import NO_COMMIT, Growth
from gmml_cluster.run.log import Log
from gmml_cluster.store.open import open_store

_LONGEST_PAUSE_S, _PAUSE_S = 300.0, 10.0
_NODE_LOST_S, _FREED_S, _LOOK_S = 20.0, 30.0, 1.0
_KILLED = 137

_log = logging.getLogger(__name__)


class Unplaced(Exception):
    """Ray has not started the ranks in time."""


class AttemptLost(Exception):
    """Ray has lost something of an attempt; its words are Ray's."""


class Record(Protocol):
    """What an attempt's ranks say of themselves (`worker.AttemptRecord`); raises `AttemptLost` where it is lost."""

    def places(self) -> list[str]: ...

    def all_left(self) -> list[Left]: ...

    def nodes_of_missing(self) -> list[str]: ...

    def send_away(self) -> None: ...


class Cluster(Protocol):
    """What a driver asks of Ray."""

    def free(self, job: DriverJob, avoided: Collection[str]) -> Free:
        """What is free on the nodes that the job may be placed on, but for those at these addresses."""
        ...

    def capacity(self, job: DriverJob, avoided: Collection[str]) -> Free:
        """All that those nodes have."""
        ...

    def lost(self) -> Mapping[str, str]:
        """Nodes that Ray has lost: id -> address."""
        ...

    def record(self, ranks: int) -> Record:
        """For an attempt of so many ranks."""
        ...

    def place(self, job: DriverJob, restart: int, ranks: int, record: Record, avoided: Collection[str]) -> None:
        """Place the ranks of an attempt on no node at these addresses, and wait until all have left.

        Raises:
            Unplaced: they found no room in time.
            AttemptLost: a worker or the controller is lost.
        """
        ...


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


def supervise(job: DriverJob, cluster: Cluster) -> int:
    """Make attempts until the log allows no more; the exit code of the last, 0 only of a run that has finished."""
    restart = 0
    had: tuple[str, ...] | None = ()
    while True:
        avoided = avoided_nodes(job, cluster)
        nodes = nodes_to_use(job, cluster, had, avoided)
        ended = attempt(job, cluster, restart, nodes, avoided)
        if ended is None:
            _log.warning("Ray has not started the ranks of %d nodes in time; asked again with what is free then", nodes)
            if _is_over(job):
                return NEVER
            had = None
            continue
        verdict = judge(job, restart, ended.code, ended.evidence)
        then = "again" if verdict.again else "the job ends"
        _log.info("attempt after %d restarts exited with %d; %s", restart, ended.code, then)
        sending = notify.start(f"{job.root.rstrip('/')}/{job.run}", over=not verdict.again)
        if not verdict.again:
            notify.finish(sending)
            return ended.code if ended.code != FINISHED or verdict.finished else FAILED
        time.sleep(verdict.pause_s)
        restart, had = restart + 1, ended.places


def avoided_nodes(job: DriverJob, cluster: Cluster) -> tuple[str, ...]:
    """Addresses of nodes that the run avoids, as its log says; none where the others could not hold its fewest ranks.

    A run that waits for nodes which never come is worse off than one on a node that failed.
    """
    try:
        excluded = tuple(_open(job).refresh().excluded)
    except GmmlError as fault:
        _log.warning("%s; no node is avoided", fault)
        return ()
    if excluded and not job.fits(cluster.capacity(job, excluded)):
        _log.warning("too few nodes to avoid %s", ", ".join(excluded))
        return ()
    return excluded


def attempt(job: DriverJob, cluster: Cluster, restart: int, nodes: int, avoided: Collection[str] = ()) -> Ended | None:
    """Place the ranks of so many nodes and wait until they have left; None where Ray could not start them in time."""
    ranks = job.ranks_per_node * nodes
    record, failure, growth = cluster.record(ranks), "", Growth(nodes)

    def look() -> bool:
        free = without_ranks(cluster.free(job, avoided), record.places(), job.rank_resources)
        return growth.is_due(job.nodes_in(free), lambda: _last_commit(job, restart))

    try:
        with looked_for(growth, job.nodes[1], look, lambda proof: record.send_away()):
            cluster.place(job, restart, ranks, record, avoided)
    except Unplaced:
        return None
    except AttemptLost as error:
        failure = str(error)
    left, missing, places = _asked(record)
    evidence = evidence_of(left, growth.proof)
    silent = False
    if failure:
        _log.warning("%s", failure)
        # what outlives a lost worker of the ranks reads that by their pipes, saves and leaves
        silent = not _await_end(job, restart, LEAVE_S)
        loss = evidence_of_loss(missing, cluster)
        if silent and loss is None:  # all nodes are there, so a large state may still be on its way to the store
            silent = not _await_end(job, restart, ORPHAN_S)
        evidence = _with_failure(loss or evidence, failure)
    return Ended(exit_code(left, evidence, silent=silent), evidence, tuple(places))


def _with_failure(evidence: Evidence, failure: str) -> Evidence:
    """What is known, with Ray's words, which explain a notice that nothing else does: a lost worker's rank gave it."""
    if evidence.cause is None and evidence.notice is None:
        evidence = replace(evidence, notice="lost", proof=failure)
    return replace(evidence, stderr_tail=failure)


def _asked(record: Record) -> tuple[list[Left], list[str], list[str]]:
    """How the ranks left, the nodes of those that did not, and of all; nothing where who knew is lost."""
    try:
        return record.all_left(), record.nodes_of_missing(), record.places()
    except AttemptLost as error:
        _log.warning("%s", error)
        return [], [], []


def exit_code(left: Sequence[Left], evidence: Evidence, *, silent: bool = False) -> int:
    """The highest of the ranks; where none has left by itself they were killed with their node, or never ran.

    One that had to be ended counts as killed.

    Args:
        left: how they left.
        evidence: what else is known.
        silent: whether they had claimed the run, and wrote no end.
    """
    codes = [_KILLED if rank.code is None else rank.code for rank in left]
    return max(codes, default=_KILLED if evidence.cause or silent else FAILED)


def nodes_to_use(job: DriverJob, cluster: Cluster, had: Sequence[str] | None, avoided: Collection[str] = ()) -> int:
    """As many nodes as are free now, within the bounds; the fewest where less is free, for which Ray waits.

    Args:
        job: what is to be placed.
        cluster: where.
        had: nodes of the ranks of the last attempt. Ray gives their resources back a moment after it, and else a run
            would go on on fewer nodes for that moment alone; a node that is drained, that Ray has lost or that is
            avoided from now on has none. None where they are not known, as Ray gave up starting the ranks: its answer
            is waited for in full.
        avoided: addresses of nodes that get no ranks.
    """
    until = time.monotonic() + _FREED_S
    while True:
        free = cluster.free(job, avoided)
        nodes = job.nodes_in(free)
        back = had is not None and all(
            ranks_on(free[node], job.rank_resources) >= had.count(node) for node in had if node in free
        )
        if nodes == job.nodes[1] or back or time.monotonic() > until:
            return nodes
        time.sleep(_LOOK_S)


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
    return exits.evidence_of(
        [RankExit(rank.rank, rank.code, rank.stopped, [rank.sign], rank.address) for rank in left], tail
    )


def evidence_of_loss(nodes: Sequence[str], cluster: Cluster) -> Evidence | None:
    """The node that Ray lost of these, of which it says nothing until its health checks have failed for a while."""
    until = time.monotonic() + _NODE_LOST_S
    while nodes:
        dead = cluster.lost()
        found = next((node for node in nodes if node in dead), None)
        if found is not None:
            proof = f"Ray lost node {found} ({dead[found]})"
            return Evidence(cause="node_lost", proof=proof, node=dead[found])
        if time.monotonic() > until:
            break
        time.sleep(_LOOK_S)
    return None


def judge(job: DriverJob, restart: int, code: int, evidence: Evidence) -> Verdict:
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


def _open(job: DriverJob) -> Log:
    return Log(open_store(f"{job.root.rstrip('/')}/{job.run}"))


def _await_end(job: DriverJob, restart: int, limit_s: float) -> bool:
    """Whether the log has this start's end in time, or nothing of it; False too where the log cannot be read."""
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        try:
            found = _mine(job, restart)
        except GmmlError as fault:
            _log.warning("%s", fault)
            return False
        if found is None or found.ended:
            return True
        time.sleep(_LOOK_S)
    return False


def _mine(job: DriverJob, restart: int) -> started.Attempt | None:
    """What the log has of this start; None before its claim."""
    found = _open(job).refresh().attempts
    return next((each for each in reversed(found) if each.job == job.id and each.restart == restart), None)


def _last_commit(job: DriverJob, restart: int) -> int:
    """The step of this start's latest checkpoint, `NO_COMMIT` without one."""
    history = _open(job).refresh()
    mine = {each.number for each in history.attempts if each.job == job.id and each.restart == restart}
    return max((commit.step for commit in history.commits if commit.attempt in mine), default=NO_COMMIT)


def _is_over(job: DriverJob) -> bool:
    """Whether the run is stopped, finished, or another submit's by now; not where the log cannot be read."""
    try:
        history = _open(job).refresh()
    except GmmlError as fault:
        _log.warning("%s", fault)
        return False
    return bool(history.stopped or history.finished or history.submitted != job.submit)
