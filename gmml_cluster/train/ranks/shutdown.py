"""How a rank leaves: errors go to rank 0, rank 0 writes the attempt's `end`, and no rank exits before it is written.

The order matters because launchers kill: the first rank that exits has the others killed (SLURM's
`--kill-on-bad-exit`, after KillWait), and with them the one that has yet to write the `end`. So:

1. A rank that fails writes its error into the key-value store and waits.
2. Rank 0's signal thread sees it, waits a moment for errors of other ranks, and writes the `end` with the root cause.
   Its main thread may hang in a collective meanwhile, which is why this is the signal thread's work.
3. Rank 0 writes the exit code under `ended`. Every other rank sees it, acknowledges it under `left/<rank>` and exits.
4. Rank 0 serves the store, so it exits last: a store that vanishes before a rank has read `ended` would look to that
   rank like the death of rank 0.
"""

import enum
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

from gmml_cluster.errors import Fenced, StorageError
from gmml_cluster.run import protocol
from gmml_cluster.run.codes import COME_BACK, FAILED, FINISHED, NEVER, STORAGE
from gmml_cluster.run.ends import failures
from gmml_cluster.run.root import RunRoot
from gmml_cluster.running_time import running_time
from gmml_cluster.store.requests import DEADLINE_S
from gmml_cluster.train.ranks import hang
from gmml_cluster.train.ranks.agreement import StartInfo
from gmml_cluster.train.ranks.causes import describe, log_fields, root_cause
from gmml_cluster.train.ranks.cluster_env import is_kept_without_its_script, leave_s, requeue_own_job
from gmml_cluster.train.ranks.rendezvous import KeyValueStore, RankInfo
from gmml_cluster.train.ranks.signals import TICK_S, StopRequest
from gmml_cluster.train.ranks.watchdog import Hang, stacks, watchdog
from gmml_cluster.train.stepper import LoopResult

CODES: dict[LoopResult, int] = {"finished": FINISHED, "notice": COME_BACK, "cancelled": NEVER, "not_finite": FAILED}

HANG = "hang"
"""Value of the key `failed` where a rank makes no progress: every rank then writes its stacks into its log."""

NOT_HALVED = "; no smaller micro-batch is tried: batch.micro is a number, or one group is what did not fit"

_log = logging.getLogger(__name__)


class Phase(enum.Enum):
    """How far this rank has come, which decides what a notice and an error mean."""

    MEETING = enum.auto()
    """Nothing is claimed. A notice: exit. An error: rank 0 logs that this start failed."""
    CLAIMED = enum.auto()
    """Rank 0 has claimed an attempt, whose `end` is owed from now on. A notice: write it and exit; nothing to save."""
    TRAINING = enum.auto()
    """There is state to save. A notice travels through the loop, which saves and ends."""
    ENDED = enum.auto()
    """A thread of this rank is writing the `end` or leaving. Others of its threads have nothing more to do."""


@dataclass(frozen=True)
class Limits:
    """How long a leaving rank waits, in seconds.

    Attributes:
        echo: rank 0, after the first error, for those of other ranks: the error that arrives first is often that of a
            rank which only lost the one that failed.
        upload: for the upload of the last log lines.
        acknowledge: rank 0, for the others to leave; within SLURM's KillWait.
        lost: rank 0, for the others to leave where one of them is lost, which will never say that it does.
        positions: rank 0, after a hang, for where each of the others is; one that can answer does so within a tick.
        alone: the others, where rank 0 is gone and nothing but they could tell SLURM, for srun to end them.
        end: the others, for rank 0's `end`: as long as requests to a store are retried. If it were shorter, their exit
            would have rank 0 killed in the middle of it.
    """

    echo: float = 1.0
    upload: float = 3.0
    acknowledge: float = field(default_factory=leave_s)
    lost: float = 2.0
    positions: float = 5.0
    alone: float = 30.0
    end: float = DEADLINE_S


@dataclass
class Shutdown:
    """The way out of one rank.

    Attributes:
        kv: connection of the signal thread.
        phase: set by `claimed`, `training`, and by whatever ends the rank.
        attempt: the number that rank 0 claimed; None before.
        last_step: the last step whose figures are known; None before.
        smaller_micro: images that the next attempt is to hold at once if memory is lacking; None for no fewer.
        upload_metrics: rank 0's, called before an `end` is written: no step that the log knows lacks its line.
        upload_log: called right before the process exits, which waits 3 s for it at most.
        group_problem: what is wrong with the process group; empty where nothing is.
    """

    rank_info: RankInfo
    kv: KeyValueStore
    run: RunRoot
    start: StartInfo
    stop_request: StopRequest
    limits: Limits = field(default_factory=Limits)
    phase: Phase = Phase.MEETING
    attempt: int | None = None
    last_step: int | None = None
    smaller_micro: int | None = None
    upload_metrics: Callable[[], None] = lambda: None
    upload_log: Callable[[], None] = lambda: None
    group_problem: Callable[[], str] = lambda: ""
    _ending: threading.Lock = field(default_factory=threading.Lock)
    _alone_since: float | None = None
    _stacks_logged: bool = False

    def claimed(self, attempt: int) -> None:
        """Rank 0 has claimed this attempt."""
        self.phase, self.attempt = Phase.CLAIMED, attempt

    def training(self) -> None:
        """There is something to save from now on."""
        self.phase = Phase.TRAINING
        self._try("say where it runs", lambda: self.kv.set(f"place/{self.rank_info.rank}", hang.place()))

    def check(self) -> None:
        """For the signal thread, at every tick: leave where the attempt has ended, rank 0 is gone or a peer failed."""
        if self.phase is Phase.ENDED:
            return
        try:
            ended, failed = self.kv.get("ended"), self.kv.get("failed")
        except Exception as error:
            # rank 0 serves the store, so its death closes the connection; nobody is left to wait for or report to
            if not self._may_go():
                return
            _log.error("rank 0 is gone (%s): this rank exits", error)
            self._exit(FAILED)
        if failed == HANG:
            self._log_stacks()
        if self.rank_info.rank != 0:
            if ended is not None:
                self._acknowledge(ended)
        elif failed is not None:
            self._end_failed([])
        else:
            self._leave_early()
        if problem := self.group_problem():
            self.fail(RuntimeError(problem))
        if problem := watchdog.overdue():
            self.fail(Hang(problem))

    def fail(self, error: BaseException) -> NoReturn:
        """Report this rank's error; the process ends when the attempt's `end` is written, or cannot be written."""
        described = describe(error, self.rank_info)
        self._try("say when it failed", lambda: described.update(order=self.kv.count("failures")))
        _log.error("rank %d failed\n%s", self.rank_info.rank, described["traceback"])
        flag: int | str = self.rank_info.rank
        if described["cause"] == "hang":
            self._log_stacks()
            flag = HANG
        if self.rank_info.rank == 0:
            if flag == HANG:
                self._try("ask the others for their stacks", lambda: self.kv.set("failed", flag))
            self._end_failed([described])
        # the error before the flag: rank 0 reads the errors once it sees `failed`
        self._try("report its error", lambda: self.kv.set(f"error/{self.rank_info.rank}", described))
        self._try("report its error", lambda: self.kv.set("failed", flag))
        self.leave(_code(described))

    def _log_stacks(self) -> None:
        if not self._stacks_logged:
            self._stacks_logged = True
            at = hang.position(watchdog.phase, watchdog.beats)
            self._try("say where it is", lambda: self.kv.set(f"at/{self.rank_info.rank}", at))
            _log.error("rank %d does not progress or waits for one that does not\n%s", self.rank_info.rank, stacks())

    def leave(self, code: int) -> NoReturn:
        """End this process: rank 0 informs the others first and exits last.

        The other ranks exit with rank 0's code if they learn it.
        """
        if self.rank_info.rank == 0:
            self._begin_end()
            self._inform_and_exit(code)
        try:
            # on a connection of its own: this thread may wait for minutes, and the signal thread must see rank 0 die
            code = self.kv.connect().wait("ended", timeout_s=self.limits.end)
        except Exception as error:
            _log.warning("rank %d exits without a code from rank 0: %s", self.rank_info.rank, error)
            while not self._may_go():
                time.sleep(TICK_S)
        self._acknowledge(code)

    def end(self, result: LoopResult, step: int, **fields: Any) -> int:
        """The attempt has ended by itself: rank 0 writes `end`.

        Args:
            result: why the loop ended.
            step: the last step made.
            fields: further fields of `end`.

        Returns:
            The exit code.
        """
        if self.rank_info.rank == 0:
            assert self.attempt is not None
            self._begin_end()
            self.upload_metrics()
            result = resolved(self.run, self.attempt, result)
            protocol.end(self.run.log, self.attempt, result, step=step, suspended_s=running_time.stopped_s, **fields)
            self._explain_notice(self.attempt)
        _log.info("attempt ended: %s, the last step is %d", result, step)
        return CODES[result]

    def _leave_early(self) -> None:
        """Rank 0's: before the first step there is nothing to save, so a notice ends the attempt at once."""
        stop = self.stop_request.stop
        if not stop or self.phase is Phase.TRAINING:
            return
        attempt = self.attempt
        self._begin_end()
        if attempt is None:
            self._inform_and_exit(COME_BACK)
        code = CODES[stop]
        try:
            result = resolved(self.run, attempt, stop)
            protocol.end(self.run.log, attempt, result, suspended_s=running_time.stopped_s)
            code = CODES[result]
            self._explain_notice(attempt)
        except Fenced as error:
            _log.info("%s", error)
            code = NEVER
        except StorageError as error:  # the exit code says the same
            _log.warning("%s; this attempt leaves without an end in the log", error)
        self._inform_and_exit(code)

    def _explain_notice(self, attempt: int) -> None:
        """Log why the notice came where nobody else knows: the launcher's process is gone, or rank 0 gave it."""
        orphaned, grown = self.stop_request.orphaned, self.stop_request.grown
        cause, proof = ("lost", orphaned) if orphaned else ("notice", grown)
        if proof:
            self._try("write the cause", lambda: protocol.resolve_cause(self.run.log, attempt, cause, proof))

    def _end_failed(self, errors: list[dict[str, Any]]) -> NoReturn:
        self._begin_end()
        time.sleep(self.limits.echo)
        errors += [error for rank in range(1, self.rank_info.ranks) if (error := self._error_of(rank)) is not None]
        root = root_cause(errors or [describe(RuntimeError("a rank failed; its error did not arrive"), self.rank_info)])
        # each by itself: where the store fails, the exit code below still reports the cause
        self._try("upload metrics", self.upload_metrics)
        self._try("keep the errors of all ranks", lambda: self._keep_errors(root, errors))
        self._try("write the end", lambda: self._write_end(self._blamed(root)))
        # where a peer was lost the others have the same code whether they read it or find rank 0 gone
        lost = root["kind"] == "lost_peer"
        self._inform_and_exit(_code(root), self.limits.lost if lost else None)

    def _blamed(self, root: dict[str, Any]) -> dict[str, Any]:
        """A hang as that of the rank which the others wait for."""
        if root["cause"] != HANG:
            return root
        deadline, ranks = running_time() + self.limits.positions, range(self.rank_info.ranks)
        found: list[dict[str, Any] | None] = []
        try:
            while len(found) < len(ranks) or (None in found and running_time() < deadline):
                time.sleep(TICK_S if found else 0.0)
                found = [self.kv.get(f"at/{rank}") for rank in ranks]
            return hang.blame(root, found, [self.kv.get(f"place/{rank}") or {} for rank in ranks])
        except Exception as fault:
            _log.warning("rank 0 could not learn where the others are: %s", fault)
            return root

    def _error_of(self, rank: int) -> dict[str, Any] | None:
        try:
            error: dict[str, Any] | None = self.kv.get(f"error/{rank}")
        except Exception as fault:
            _log.warning("rank 0 could not read the error of rank %d: %s", rank, fault)
            return None
        return error

    def _keep_errors(self, root: dict[str, Any], errors: list[dict[str, Any]]) -> None:
        if self.attempt is not None:
            others = sorted((error for error in errors if error is not root), key=lambda error: error["rank"])
            failures.write(self.run.store, self.attempt, [root, *others])

    def _write_end(self, error: dict[str, Any]) -> None:
        if self.attempt is None:
            start = {"job": self.start.job, "restart": self.start.restart}
            protocol.start_failed(self.run.log, self.start.submit, **start, **log_fields(error))
            return
        more: dict[str, Any] = {"suspended_s": running_time.stopped_s}
        if self.last_step is not None:
            more["step"] = self.last_step
        fields = log_fields(error)
        if error["cause"] == "out_of_memory":
            if self.smaller_micro is not None:
                more["micro"] = self.smaller_micro
            else:
                first, *rest = str(fields["message"]).split("\n")
                fields["message"] = "\n".join([first + NOT_HALVED, *rest])
        protocol.end(self.run.log, self.attempt, error["cause"], **more, **fields)

    def _begin_end(self) -> None:
        """Enter the last phase. The first thread of a rank to do so continues, and another one waits for its exit.

        Two ends at once would race for the log, and the exit code could be that of the one that lost.
        """
        me = threading.get_ident()
        with self._ending:
            if self.phase is not Phase.ENDED:
                self.phase, self._ended_by = Phase.ENDED, me
        if self._ended_by != me:
            threading.Event().wait()  # for ever: the other thread ends the process

    def _inform_and_exit(self, code: int, patience_s: float | None = None) -> NoReturn:
        self._try("inform the others", lambda: self.kv.set("ended", code))
        deadline = running_time() + (self.limits.acknowledge if patience_s is None else patience_s)
        try:
            for rank in range(1, self.rank_info.ranks):
                self.kv.wait(f"left/{rank}", timeout_s=max(0.0, deadline - running_time()))
        except Exception as error:
            _log.warning("rank 0 exits before the others: %s", error)
        self._exit(code)

    def _acknowledge(self, code: int) -> NoReturn:
        self._try("acknowledge the end", lambda: self.kv.set(f"left/{self.rank_info.rank}", 1))
        self._exit(code)

    def _try(self, what: str, action: Callable[[], Any]) -> None:
        try:
            action()
        except Exception as error:
            _log.warning("rank %d could not %s: %s", self.rank_info.rank, what, error)

    def _may_go(self) -> bool:
        """Whether this rank may exit although rank 0 is gone: at once, but not where the batch script went with it.

        SLURM keeps a job with `--no-kill` whose first node it lost, and with it nobody is left to end or requeue the
        job. As long as the script lives its srun sends TERM once rank 0 is gone; where none comes, this rank requeues.
        """
        if self.stop_request.stop or not is_kept_without_its_script(os.environ):
            return True
        self._alone_since = self._alone_since or running_time()
        if running_time() < self._alone_since + self.limits.alone:
            return False
        _log.warning("rank 0 is gone and no srun ends rank %d: the job is requeued", self.rank_info.rank)
        self._try("requeue the job", requeue_own_job)
        return True

    def _exit(self, code: int) -> NoReturn:
        """Leave without Python's clean-up, which may wait for a hanging thread of NCCL, gloo or the store."""
        # in a thread, so that a store that does not answer cannot keep the rank
        uploading = threading.Thread(target=self._try, args=("upload its log", self.upload_log), daemon=True)
        uploading.start()
        uploading.join(self.limits.upload)
        sys.stderr.flush()
        os._exit(code)


def _code(error: dict[str, Any]) -> int:
    """Where storage fails the `end` may be missing, and the exit code alone proves the cause."""
    return STORAGE if error["cause"] == "storage" else FAILED


def resolved(run: RunRoot, attempt: int, result: LoopResult) -> LoopResult:
    """The result, where a notice that came of a person's stop is a cancel.

    Raises:
        Fenced: a later attempt has claimed.
    """
    stopped = protocol.look(run.log, attempt).stopped is not None
    return "cancelled" if stopped and result == "notice" else result
