"""Ranks of attempts: the real `run_attempt`, with an engine that adds and a rendezvous without sockets."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch

from gmml_cluster.errors import CheckpointError, Fault
from gmml_cluster.run.codes import UNMET
from gmml_cluster.train import attempt
from gmml_cluster.train.engines.slices import VALUE, Slice
from gmml_cluster.train.ranks import signals
from gmml_cluster.train.ranks.agreement import StartInfo
from gmml_cluster.train.ranks.rendezvous import UNWRITTEN, Address, RankInfo
from gmml_cluster.train.stepper import Report
from tests.simulation.world import FOREVER, Dead, Node, Process, Signal, here

RUN_STEPS = 10
PARAMETERS = 4


@dataclass
class Pod:
    """The ranks of one start: what they exchange in collectives, and rank 0's rendezvous store.

    Attributes:
        flags: step -> rank -> what it contributes to the step's reduction.
        keys, counts: of the rendezvous store.
        lost: whether its scheduler has lost the ranks, which live on.
    """

    start: StartInfo
    ranks: int
    processes: list[Process] = field(default_factory=list)
    flags: dict[int, dict[int, Any]] = field(default_factory=dict)
    arrived: Signal = field(default_factory=Signal)
    keys: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    written: Signal = field(default_factory=Signal)
    ended: Signal = field(default_factory=Signal)
    lost: bool = False

    def reduce(self, step: int, rank: int, value: Any) -> dict[int, Any]:
        """What all ranks contributed; as a collective does, it fails where one of them is gone."""
        world = here()
        self.flags.setdefault(step, {})[rank] = value
        self.arrived.give()
        while len(self.flags[step]) < self.ranks:
            if any(not process.alive for process in self.processes):
                world.sleep(world.random.uniform(0.0, 2.0))
                raise RuntimeError("Connection closed by peer")
            world.wait(self.arrived, 1.0)
        return self.flags[step]


@dataclass(eq=False)
class Rank:
    """What a process is that is a rank."""

    pod: Pod
    info: RankInfo
    signals: Any
    poked: Signal = field(default_factory=Signal)
    attempt: int | None = None
    asked_at: int | None = None


class StopRequest(signals.StopRequest):
    """Wakes the signal thread, as the kernel's descriptor does."""

    rank: Rank

    def give(self, stop: Any) -> None:
        super().give(stop)
        self.rank.poked.give()


class Rendezvous:
    """Of `KeyValueStore`: values by key on rank 0, which are gone with it."""

    def __init__(self, address: Address, listen: Any = None) -> None:
        pods = here().pods
        if listen is not None:
            pods[address.secret] = rank_of().pod
        self._pod: Pod = pods[address.secret]

    def connect(self) -> "Rendezvous":
        self._demand()
        return self

    def for_groups(self) -> None:
        return None

    def set(self, key: str, value: Any) -> None:
        self._demand()
        self._pod.keys[key] = json.dumps(value)
        self._pod.written.give()
        if key in ("ended", "failed"):
            for process in self._pod.processes:
                process.about.poked.give()

    def get(self, key: str) -> Any:
        self._demand()
        return json.loads(self._pod.keys[key]) if key in self._pod.keys else None

    def count(self, key: str) -> int:
        self._demand()
        self._pod.counts[key] = self._pod.counts.get(key, 0) + 1
        return self._pod.counts[key]

    def delete(self, key: str) -> None:
        self._demand()
        self._pod.keys.pop(key, None)

    def wait(self, key: str, *, timeout_s: float) -> Any:
        world = here()
        deadline = world.now + timeout_s
        while (value := self.get(key)) is None:
            if world.now >= deadline:
                raise TimeoutError(f"{key} {UNWRITTEN} {timeout_s:g} s")
            world.wait(self._pod.written, min(deadline - world.now, 5.0))
        return value

    def _demand(self) -> None:
        if not self._pod.processes[0].alive:
            raise RuntimeError("Connection reset by peer: the rendezvous store is gone")


class Engine:
    """Weights that say of which step and which steps' work they are: after step s each element is s + 1."""

    def __init__(self, rank: Rank) -> None:
        self._rank = rank
        self.weights = torch.zeros(PARAMETERS)
        self.skips_in_a_row = torch.zeros((), dtype=torch.int64)

    def slices(self) -> list[Slice]:
        own = PARAMETERS // self._rank.info.ranks
        start = self._rank.info.rank * own
        return [Slice("weights", (PARAMETERS,), start, {VALUE: self.weights[start : start + own]})]

    def load(self, read: Any) -> None:
        self.weights.copy_(read("weights", VALUE, 0, PARAMETERS))

    def set_adam_step(self, step: int) -> None:
        pass


class Stepper:
    """Steps that take seconds; the stop flag travels in the reduction, one step late as in the real one."""

    def __init__(self, rank: Rank, engine: Engine, first: int) -> None:
        self._rank, self._engine, self._first = rank, engine, first
        self.micro, self.group, self.waited_s = SimpleNamespace(groups_per_micro=1), 8, 0.0
        self.save_due = lambda: False
        if any(value != first for value in engine.weights.tolist()):
            raise CheckpointError(Fault("simulation", f"weights {engine.weights.tolist()} resumed for step {first}"))

    def enqueue(self, step: int) -> int:
        world = here()
        world.sleep(world.step_s * world.random.uniform(0.8, 1.2))
        self._engine.weights += 1
        self._rank.pod.reduce(step, self._rank.info.rank, (self._rank.signals.stop_request.stop, self.save_due()))
        world.stepped(self._rank, step)
        return step

    def read_step(self, step: int) -> Report:
        given = self._rank.pod.reduce(step, self._rank.info.rank, self._rank.pod.flags[step][self._rank.info.rank])
        stops, saves = {stop for stop, _ in given.values()}, any(save for _, save in given.values())
        stop = "cancelled" if "cancelled" in stops else "notice" if "notice" in stops else ""
        line = {"step": step, "loss": float(step), "attempt": self._rank.attempt}
        line |= {"batch": 8, "samples_per_s": 8.0, "data_wait_s": 0.0, "step_s": 1.0, "slow_ranks": []}
        return Report(line=line, stop=stop, save=saves, skip=None)

    def state(self) -> dict[str, Any]:
        step = int(self._engine.weights[0])
        return {"adam_step": step, "skipped_steps": [], "skips_in_a_row": 0, "bad": [], "unchecked": 0}

    @contextmanager
    def left_out(self) -> Iterator[None]:
        yield

    stalled = left_out


def rank_of() -> Rank:
    """The rank whose thread runs."""
    return here().process.about


def start_ranks(start: StartInfo, nodes: list[Node], ranks: int) -> Pod:
    """Start all ranks of one start of a job."""
    pod = Pod(start, ranks)
    per_node = ranks // len(nodes)
    for number in range(ranks):
        start_rank(pod, number, per_node, nodes[number // per_node])
    return pod


def start_rank(pod: Pod, number: int, per_node: int, node: Node) -> Process:
    """Start one rank of a pod, which has those before it."""
    world, start = here(), pod.start
    info = RankInfo(rank=number, ranks=pod.ranks, local_rank=number % per_node, local_ranks=per_node)
    thread = signals.SignalThread(stop_request=StopRequest())
    rank = Rank(pod, info, thread)
    thread.stop_request.rank = rank
    name = f"job {start.job.rpartition(':')[2][:6]}.{start.restart} rank {number}"
    process = world.start(name, lambda: _work(start), node, world.random.uniform(0.1, 20.0), rank)
    process.ended = pod.ended
    process.start("signals", lambda: _listen(rank))
    pod.processes.append(process)
    return process


def _work(start: StartInfo) -> None:
    """What `train/worker.py` does."""
    try:
        attempt.run_attempt(start, rank_of().signals, lambda scored: None)
    except Dead:
        raise
    except BaseException as error:
        here().note(here().process.name, "fails before the ranks have met", f"{type(error).__name__}: {error}")
        here().process.end(UNMET)
        here().stop_thread()


def _listen(rank: Rank) -> None:
    """The signal thread: `check` half a second after anything that it would see."""
    world, problem = here(), ""
    while True:
        asked = bool(rank.signals.stop_request.stop)
        world.wait(rank.poked, signals.TICK_S if asked else _quiet_s(rank))
        world.sleep(world.random.uniform(0.0, signals.TICK_S))
        problem = signals._attempt(rank.signals.check, problem)


def _quiet_s(rank: Rank) -> float:
    """How long nothing can come that does not wake the thread: it looks for a rank 0 that is gone."""
    return FOREVER if rank.info.rank == 0 else 5.0


def give_notice(pod: Pod) -> None:
    """A notice to all ranks: SIGTERM, SIGUSR2."""
    for process in pod.processes:
        if process.alive:
            process.about.signals.stop_request.give("notice")
