"""The local scheduler of one run: starts its ranks, and after each attempt does what the log allows.

`python -m gmml_cluster.launch.local.supervisor` runs detached, from the unpacked code snapshot. It holds the run's lock
and a pipe to every rank, so that the ranks save and leave if it dies.
"""

import argparse
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from gmml_cluster.errors import Fault, GmmlError, LaunchError
from gmml_cluster.launch import notify
from gmml_cluster.launch.after.exits import RankExit, evidence_of
from gmml_cluster.launch.local import outage
from gmml_cluster.launch.local.lock import Holder, held
from gmml_cluster.launch.local.outage import Outage
from gmml_cluster.launch.local.queue import queue_folder, shown_waiting, ticket
from gmml_cluster.launch.local.ranks import STOP, Ranks, SupervisedJob
from gmml_cluster.launch.restart import restart_delay_s
from gmml_cluster.launch.tail import last_line, tail_of
from gmml_cluster.run import protocol
from gmml_cluster.run.codes import FINISHED, NEVER, RESTARTS
from gmml_cluster.run.log import Log
from gmml_cluster.store.open import open_store

TAKE_OVER_S = 120.0
_RETRY_S = 10.0
_LONGEST_RETRY_S = 300.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EndedStart:
    """How one start of a job ended.

    Attributes:
        restart: how often the job was started before.
        code: highest exit code of its ranks.
        noticed: whether notice was given.
        errors: output of the rank that failed first; None where none did.
        exits: how its ranks left, in their order.
    """

    restart: int
    code: int
    noticed: bool
    errors: Path | None = None
    exits: Sequence[RankExit] = ()

    @property
    def stderr_tail(self) -> str:
        """The failed rank's last line and the file that holds it; empty where no rank failed or it said nothing."""
        line = ""
        if self.errors is not None:
            with suppress(OSError), self.errors.open("rb") as file:
                line = last_line(tail_of(file))
        return f"{self.errors} ends with {line!r}" if line else ""


Judge = Callable[[EndedStart], bool]
"""Whether the job starts again."""


def supervise(
    job: SupervisedJob, judge: Judge, command: Callable[[int], Sequence[str]], locks: Sequence[int] = ()
) -> int:
    """Run attempts until `judge` or a notice ends the job; the exit code of the last."""
    restart = 0
    while True:
        with Ranks(job, restart, command(restart), locks=locks) as ranks:
            noticed = ranks.wait()
        failed = None if ranks.first_failed is None else job.output(restart, ranks.first_failed)
        ended = EndedStart(restart, ranks.code, noticed, failed, ranks.exits)
        again = judge(ended) and not noticed  # asked after a notice too: an `end` may be missing
        verdict = "it starts again" if again else "the job ends"
        _log.info("attempt after %d restarts exited with %d; %s", restart, ranks.code, verdict)
        if not again or signal.sigtimedwait(STOP, 0):  # a notice that came while the verdict was sought
            return ranks.code
        restart += 1


def judge_by_log(job: SupervisedJob) -> Judge:
    """The verdict of `launch.restart`, waited for while the log cannot be read or written.

    No rank is started meanwhile: it could not claim, and the next claim would end the attempt as lost although its exit
    code proves the cause. An outage may last as long as `RESTARTS` tries; the next outage has as many.
    """

    def judge(ended: EndedStart) -> bool:
        # without an answer the exit code decides: 0 and 78 say that the ranks, or another attempt, wrote the end
        tries = 1 if ended.noticed or ended.code in (FINISHED, NEVER) else RESTARTS + 1
        for left in reversed(range(tries)):
            try:
                pause_s = restart_delay_s(
                    job.root,
                    job.run,
                    submit=job.submit,
                    job=job.id,
                    restart=ended.restart,
                    rc=ended.code,
                    evidence=evidence_of(ended.exits, ended.stderr_tail),
                )
            except GmmlError as fault:
                if not _wait_for_store(job, fault, left, tried=tries - left):
                    return False
            else:
                outage.clear(job.digest, job.submit)
                _notify(job, over=pause_s is None or ended.noticed)
                return pause_s is not None and not (pause_s and signal.sigtimedwait(STOP, pause_s))
        return False

    return judge


def _notify(job: SupervisedJob, *, over: bool) -> None:
    sending = notify.start(f"{job.root}/{job.run}", over=over)
    if over:
        notify.finish(sending)


def _wait_for_store(job: SupervisedJob, fault: GmmlError, left: int, *, tried: int) -> bool:
    """Keep the reason and wait, if there are tries left; whether the log is to be asked again."""
    first_line = str(fault).splitlines()[0]
    pause = min(_RETRY_S * 2 ** (tried - 1), _LONGEST_RETRY_S)
    _log.warning("%s; %s", first_line, f"asked again in {pause:g} s" if left else "the job ends")
    outage.record(job.digest, job.submit, Outage(first_line, time.time() + pause if left else None))
    return left > 0 and not signal.sigtimedwait(STOP, pause)


@contextmanager
def _queued(job: SupervisedJob, queue: str | None, parallel: int, *, ready: int) -> Iterator[list[int] | None]:
    """Report ready, and wait for the job's turn in the queue of its sweep if it is of one.

    Yields:
        What the ranks are to hold beside the run's locks, so that their place is free only when they have left; None
        where the job was asked to end while it waited.
    """
    if queue is None:
        _report_ready(ready)
        yield []
        return
    with ticket(queue_folder(job.root, queue)) as mine:
        with shown_waiting(job.digest, job.submit, parallel, queue):
            _report_ready(ready)  # behind the ticket: who is submitted first is first
            come = mine.wait(parallel)
        yield [mine.file.fileno()] if come else None


def _report_ready(descriptor: int) -> None:
    os.write(descriptor, b"1")
    os.close(descriptor)


def _served(job: SupervisedJob, locks: Sequence[int]) -> int:
    """The exit code of a job.

    Raises:
        LaunchError: its ranks cannot be started here, which the log says too.
    """
    try:
        return supervise(job, judge_by_log(job), job.worker, locks)
    except OSError as error:
        problem = f"{error.strerror}; ranks cannot be started"
        fault = LaunchError(Fault(str(error.filename or job.id), problem, "fix this and gmml resume"))
        try:
            log = Log(open_store(f"{job.root}/{job.run}"))
            protocol.start_failed(log, job.submit, job=job.id, message=str(fault))
        except GmmlError:
            outage.record(job.digest, job.submit, Outage(str(fault), None))
        raise fault from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of the detached process; a byte on descriptor `--ready` signals to the submitter that the lock is held."""
    parser = argparse.ArgumentParser(prog="python -m gmml_cluster.launch.local.supervisor", description=__doc__)
    for name in ("root", "run", "submit", "job", "module"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--ranks", type=int, required=True)
    parser.add_argument("--ready", type=int, required=True)
    parser.add_argument("--queue", help="the sweep whose runs share this machine")
    parser.add_argument("--parallel", type=int, default=1, help="runs of it at once")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    signal.pthread_sigmask(signal.SIG_BLOCK, (*STOP, signal.SIGCONT))
    job = SupervisedJob(
        root=given.root, run=given.run, submit=given.submit, id=given.job, ranks=given.ranks, module=given.module
    )
    me = Holder(host=socket.gethostname(), pid=os.getpid(), submit=job.submit)
    try:
        with (
            held(job.root, job.run, me, wait_s=TAKE_OVER_S) as locks,
            _queued(job, given.queue, given.parallel, ready=given.ready) as place,
        ):
            return NEVER if place is None else _served(job, [*locks, *place])
    except GmmlError as fault:
        print(fault, file=sys.stderr)
        return fault.exit_code


if __name__ == "__main__":
    sys.exit(main())
