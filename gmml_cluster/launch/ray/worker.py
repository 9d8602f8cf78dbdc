"""What Ray Train runs for each rank: the rank as a process of its own, watched until it has left.

Ray runs this in a thread, where no signal can be handled, and kills it without notice. So the rank is a process, as
under every other launcher: a drain of its node becomes a SIGTERM, and when Ray kills this worker the rank's pipe
closes; either way it saves and leaves.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gmml_cluster
from gmml_cluster.launch.after.exits import is_stopped
from gmml_cluster.launch.tail import last_line, tail_of
from gmml_cluster.run.codes import COME_BACK, NEVER, ORPHAN_S, UNMET
from gmml_cluster.run.ends.symptoms import of_output

LEAVE_S = 60.0
"""How long the others may stay once a rank has failed."""
_TICK_S = 1.0
_ANSWER_S = 30.0
_ORPHANED = "the Ray worker of rank 0 has lost its driver or head, or was killed"
_LEFT = (COME_BACK, NEVER)


@dataclass(frozen=True)
class Left:
    """How a rank left.

    Attributes:
        code: exit code, a signal counting as 128 and its number; None where it had to be ended.
        tail: the last line it printed.
        drained: the node that Ray drains and on which it was; empty where none is drained.
        sign: the line that it printed and that proves why it left; empty where none does.
        address: of the node on which it was, by which the run can avoid it.
        stopped: whether it was stopped by a signal, as by SIGSTOP, and would never have left.
    """

    rank: int
    code: int | None
    tail: str = ""
    drained: str = ""
    sign: str = ""
    address: str = ""
    stopped: bool = False


@dataclass
class AttemptRecord:
    """The ranks of one attempt, as far as they have left; an actor beside the driver."""

    ranks: int
    left: dict[int, Left] = field(default_factory=dict)
    nodes: dict[int, str] = field(default_factory=dict)
    deadline: float = float("inf")
    sent_away: bool = False

    def place(self, rank: int, node: str) -> None:
        """A rank has started on this node."""
        self.nodes[rank] = node

    def report(self, rank: Left) -> None:
        """A rank has left."""
        self.left.setdefault(rank.rank, rank)
        if rank.code:
            self.deadline = min(self.deadline, time.monotonic() + LEAVE_S)

    def is_over(self) -> bool:
        """Whether all have left, or those that stay have stayed too long."""
        return len(self.left) == self.ranks or time.monotonic() > self.deadline

    def send_away(self) -> None:
        """Have the ranks save and leave."""
        self.sent_away = True

    def is_to_leave(self) -> bool:
        """Whether the ranks get notice: by the driver, or as one failed before they had met, which they then cannot."""
        return self.sent_away or any(rank.code == UNMET for rank in self.left.values())

    def places(self) -> list[str]:
        """The node of each rank that has started."""
        return list(self.nodes.values())

    def nodes_of_missing(self) -> list[str]:
        """Nodes of the ranks that have not left."""
        return [node for rank, node in self.nodes.items() if rank not in self.left]

    def all_left(self) -> list[Left]:
        """Those that have left, in the order in which they did."""
        return list(self.left.values())


def run_rank(config: dict[str, Any]) -> None:
    """Start this worker's rank, and return when all ranks of the attempt have left.

    Args:
        config: `command`, the rank's; `attempt`, the handle of the attempt's `AttemptRecord`.
    """
    import ray
    from ray.train import get_context

    context, attempt, address = get_context(), config["attempt"], ray.util.get_node_ip_address()
    rank = context.get_world_rank()
    variables = {
        "GMML_ADDRESS": address,
        "RANK": rank,
        "WORLD_SIZE": context.get_world_size(),
        "LOCAL_RANK": context.get_local_rank(),
        "LOCAL_WORLD_SIZE": context.get_local_world_size(),
        "NODE_RANK": context.get_node_rank(),
    }
    node = ray.get_runtime_context().get_node_id()
    with RankProcess(rank, config["command"], {name: str(value) for name, value in variables.items()}) as process:
        try:
            _watch(process, attempt, node, address)
        except Exception:
            process.abandon()
            raise


def _watch(process: "RankProcess", attempt: Any, node: str, address: str) -> None:
    """Pass notices on until all ranks have left, or those that have not are to be ended.

    Raises:
        Exception: the driver or the head is gone; Ray itself kills this worker up to a minute later.
    """
    _ask(attempt.place, process.rank, node)
    over = False
    while process.code is None and not over:
        time.sleep(_TICK_S)
        # the actor first: it answers with an error at once where the head is gone, and the list of nodes waits
        leave = _ask(attempt.is_to_leave)
        if not process.noticed and (leave or _is_drained(node)):
            process.give_notice()
        over = _ask(attempt.is_over)
    drained = node if _is_drained(node) else ""
    tail = process.tail()  # before `sign`, which it finds
    left = Left(process.rank, process.code, tail, drained, process.sign, address, process.is_stopped)
    _ask(attempt.report, left)
    while not _ask(attempt.is_over):
        time.sleep(_TICK_S)


def _ask(method: Any, *arguments: Any) -> Any:
    import ray

    return ray.get(method.remote(*arguments), timeout=_ANSWER_S)


@dataclass
class RankProcess:
    """The process of a rank; leaving the context kills one that still runs."""

    rank: int
    command: Sequence[str]
    variables: dict[str, str]
    noticed: bool = False
    sign: str = ""

    def __enter__(self) -> "RankProcess":
        # Nobody inherits the writing end: however this worker dies the rank reads the end of the pipe.
        theirs, ours = os.pipe()
        self._pipe: int | None = ours
        package = str(Path(gmml_cluster.__file__).parents[1])
        path = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {**os.environ, **self.variables, "PYTHONPATH": path}
        environment |= {"GMML_PIPE": str(theirs), "GMML_ORPHANED": _ORPHANED}
        self._errors = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [sys.executable, *self.command],
            stdin=subprocess.DEVNULL,
            stderr=self._errors,
            env=environment,
            pass_fds=[theirs],
            start_new_session=True,  # Ray may end all of a worker's process group with it
        )
        os.close(theirs)
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        with suppress(subprocess.TimeoutExpired):  # in a system call that never returns: nothing ends such a process
            self._process.wait(LEAVE_S)
        self._close_pipe()
        self._errors.close()

    def abandon(self) -> None:
        """Let it save and leave as if this worker were dead already, which it is about to be: its rank outlives it."""
        self._close_pipe()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(ORPHAN_S)

    def _close_pipe(self) -> None:
        if self._pipe is not None:
            os.close(self._pipe)
        self._pipe = None

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        found = self._process.poll()
        return found if found is None or found >= 0 else 128 - found

    @property
    def is_stopped(self) -> bool:
        """Whether a signal has stopped it."""
        return self.code is None and is_stopped(self._process.pid)

    def give_notice(self) -> None:
        """Give it notice: it saves and leaves."""
        self.noticed = True
        self._process.send_signal(signal.SIGTERM)

    def tail(self) -> str:
        """The last line that it printed; the end of what it printed goes to this worker's own output."""
        printed = tail_of(self._errors)
        print(printed, file=sys.stderr, flush=True)
        self.sign = (of_output(printed.splitlines()) or ("", ""))[1]
        return last_line(printed) if self.code not in (None, 0, *_LEFT) else ""


def _is_drained(node: str) -> bool:
    """Whether Ray is about to take the node away; the only place where it says so without a collective."""
    from ray._private.state import state

    return node in state.get_draining_nodes()
