"""A virtual Ray cluster under the real decisions of the driver (`launch/ray/supervisor.py`) and of its workers."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from gmml_cluster.errors import Fault, LaunchError
from gmml_cluster.launch.protocol import JobReport, Submission
from gmml_cluster.launch.ray import growth, supervisor
from gmml_cluster.launch.ray import worker as ray_worker
from gmml_cluster.launch.ray.job import DriverJob
from gmml_cluster.launch.ray.room import Free, usable
from gmml_cluster.launch.ray.supervisor import AttemptLost, Unplaced
from gmml_cluster.run.codes import ORPHAN_S
from gmml_cluster.train.ranks.agreement import StartInfo
from tests.simulation.clock import Threading, Time
from tests.simulation.machine import judge
from tests.simulation.ranks import Pod, start_rank
from tests.simulation.world import Node, Process, Signal, World, here

START_S, HELD_S = 60.0, 5.0
_KILLED = 128 + 9


@dataclass(eq=False)
class Machine:
    """A node: what it can hold, and the workers on it.

    Attributes:
        seen_lost: whether Ray has noticed that it is gone.
    """

    id: str
    node: Node
    holds: int
    alive: bool = True
    seen_lost: bool = False
    workers: list[Process] = field(default_factory=list)

    def as_ray_has_it(self) -> dict[str, Any]:
        """Its part of `ray.nodes()`."""
        return {"NodeID": self.id, "Alive": not self.seen_lost, "NodeManagerAddress": f"at-{self.id}", "Labels": {}}

    def free(self) -> float:
        """Ranks that it could still hold."""
        return float(self.holds - sum(process.alive for process in self.workers)) if self.alive else 0.0


class Cluster:
    """Keeps the Launcher protocol, and that of what a driver asks of Ray.

    Attributes:
        away: times from and to which the head answers no client.
        drivers: job -> its driver.
    """

    def __init__(self, world: World, nodes: int, holds: int) -> None:
        self._world, self._holds = world, holds
        self.machines: dict[str, Machine] = {}
        self.draining: set[str] = set()
        self.drivers: dict[str, Process] = {}
        self.records: dict[int, Process] = {}
        self.away: list[tuple[float, float]] = []
        self.head, self.changed = Node("head"), Signal()
        for _ in range(nodes):
            self.add()

    # what becomes of nodes

    def add(self) -> None:
        """A node joins."""
        name = f"node{len(self.machines) + 1}"
        self.machines[name] = Machine(name, Node(name), self._holds)

    def lose(self, machine: Machine) -> None:
        """A node is gone, which Ray notices a while later."""
        machine.alive = False
        machine.node.lose("its node is lost")
        self.changed.give()
        self._world.start(
            "head", lambda: setattr(machine, "seen_lost", True), after_s=self._world.random.uniform(1, 30)
        )

    def drain(self, machine: Machine) -> None:
        """Ray is to take a node away, and does after a minute."""
        self.draining.add(machine.id)
        self._world.start("head", lambda: self.lose(machine), after_s=self._world.random.uniform(20, 90))

    def usable(self) -> list[Machine]:
        """Nodes that live and stay."""
        return [each for each in self.machines.values() if each.alive and each.id not in self.draining]

    # the Launcher protocol

    def preflight(self, submission: Submission) -> list[Fault]:
        return []

    def bounds(self, submission: Submission) -> dict[str, Any]:
        return {}

    def submit(self, submission: Submission) -> str:
        self._ask()
        plan, token = submission.plan, submission.token
        id_ = f"ray:{token}"
        job = DriverJob(
            root=submission.root,
            run=submission.name,
            submit=token,
            id=id_,
            module="worker",
            nodes=plan.nodes,
            ranks_per_node=plan.ranks_per_node,
            rank_resources={"CPU": 1.0},
            placement="SPREAD",
            labels={},
        )
        if id_ not in self.drivers:
            name = f"driver {token[:6]}"
            self.drivers[id_] = self._world.start(name, lambda: self._drive(job), self.head, 1.0, "driver")
        return id_

    def _drive(self, job: DriverJob) -> None:
        code = supervisor.supervise(job, self)
        here().note(here().process.name, "leaves", f"code {code}")

    def poll(self, jobs: Mapping[str, str]) -> dict[str, JobReport]:
        try:
            self._ask()
        except LaunchError:
            return {job: JobReport("unknown") for job in jobs}
        lives = {job: job in self.drivers and self.drivers[job].alive for job in jobs}
        return {job: JobReport("running" if lives[job] else "gone") for job in jobs}

    def give_notice(self, job: str) -> None:
        pass

    def cancel(self, job: str) -> None:
        self._ask()
        if job in self.drivers:
            self.drivers[job].end(_KILLED, "its job is stopped")

    def worker(self, root: str, name: str) -> None:
        return None

    def forget(self, root: str, name: str) -> None:
        pass

    def _ask(self) -> None:
        world = self._world
        world.sleep(world.random.uniform(0.01, 1.0))
        if any(begin <= world.now < end for begin, end in self.away):
            world.sleep(10.0)
            raise LaunchError(Fault("ray", "does not answer"))

    # what a driver asks of Ray

    def free(self, job: DriverJob, avoided: Collection[str]) -> Free:
        return self._of_usable(avoided, {name: {"CPU": each.free()} for name, each in self.machines.items()})

    def capacity(self, job: DriverJob, avoided: Collection[str]) -> Free:
        return self._of_usable(avoided, {name: {"CPU": float(each.holds)} for name, each in self.machines.items()})

    def _of_usable(self, avoided: Collection[str], resources: Free) -> Free:
        shown = [each.as_ray_has_it() for each in self.machines.values()]
        left_out = {node["NodeID"] for node in shown if node["NodeManagerAddress"] in avoided}
        return usable(shown, resources, {*self.draining, *left_out}, {})

    def lost(self) -> dict[str, str]:
        return {name: f"at-{name}" for name, each in self.machines.items() if each.seen_lost}

    def record(self, ranks: int) -> ray_worker.AttemptRecord:
        made = ray_worker.AttemptRecord(ranks)
        self.records[id(made)] = here().process
        return made

    def place(self, job: DriverJob, restart: int, ranks: int, record: Any, avoided: Collection[str]) -> None:
        world, chosen = here(), self._room(job, ranks, avoided)
        pod = Pod(StartInfo(job.root, job.run, job.submit, job.id, restart, None, world.now), ranks)
        workers = [self._worker(pod, number, machine, record) for number, machine in enumerate(chosen)]
        driver = world.process
        world.start("raylet", lambda: self._end_with(driver, workers))
        while any(process.alive for process in workers) and not any(process.code for process in workers):
            world.wait(self.changed, HELD_S)
        if any(process.code for process in workers):
            world.sleep(world.random.uniform(0.5, 10.0))
            for process in workers:
                process.end(_KILLED, "Ray ends the group")
            raise AttemptLost("a worker is lost")

    def _room(self, job: DriverJob, ranks: int, avoided: Collection[str]) -> list[Machine]:
        """A node for each rank, as soon as there are enough."""
        world, until = here(), here().now + START_S
        while world.now < until:
            free = self.free(job, avoided)
            slots = [self.machines[name] for name, each in free.items() for _ in range(int(each["CPU"]))]
            slots = [machine for machine in slots if machine.alive]
            if len(slots) >= ranks:
                return slots[:ranks]
            world.sleep(HELD_S)
        raise Unplaced

    def _worker(self, pod: Pod, number: int, machine: Machine, record: Any) -> Process:
        """What Ray Train runs for a rank (`worker.run_rank`), and its rank."""
        world = here()
        rank = Rank(number, start_rank(pod, number, 1, machine.node))

        def body() -> None:
            try:
                ray_worker._watch(rank, record, machine.id, f"at-{machine.id}")
            except Lost as error:
                rank.abandon()
                world.process.end(1, str(error))
            rank.kill()

        process = world.start(f"worker {number} of {pod.start.job[4:10]}.{pod.start.restart}", body, machine.node)
        machine.workers.append(process)
        world.start("pipe", lambda: self._close_pipe(process, rank))
        return process

    def _end_with(self, driver: Process, workers: list[Process]) -> None:
        """Ray ends the workers of a job that is over."""
        driver.wait()
        here().sleep(here().random.uniform(1.0, 60.0))
        for process in workers:
            process.end(_KILLED, "Ray ends the job")

    def _close_pipe(self, process: Process, rank: "Rank") -> None:
        """The end of a worker is notice to its rank, which then has so long to leave."""
        process.wait()
        self.changed.give()
        if rank.code is None:
            rank.orphan()
            here().sleep(ORPHAN_S)
            rank.kill()


class Lost(Exception):
    """The driver is gone, and with it who knew of the attempt."""


@dataclass(eq=False)
class Rank:
    """Of `worker.RankProcess`: the process of a rank."""

    rank: int
    process: Process
    noticed: bool = False
    sign: str = ""

    @property
    def code(self) -> int | None:
        return self.process.code

    @property
    def is_stopped(self) -> bool:
        return self.code is None and self.process.frozen_until > here().now

    def give_notice(self) -> None:
        self.noticed = True
        self.orphan()

    def orphan(self) -> None:
        self.process.about.signals.stop_request.give("notice")

    def abandon(self) -> None:
        self.orphan()
        deadline = here().now + ORPHAN_S
        while self.code is None and here().now < deadline:
            here().sleep(HELD_S)
        self.kill()

    def kill(self) -> None:
        """End it, unless it has left."""
        self.process.end(_KILLED, "its worker kills it")

    def tail(self) -> str:
        return ""


def _ask(method: Any, *arguments: Any) -> Any:
    """Of `worker`: a call of the attempt's actor, which is gone with its driver."""
    world = here()
    world.sleep(world.random.uniform(0.001, 0.05))
    if not world.launcher.records[id(method.__self__)].alive:
        world.sleep(world.random.uniform(0.0, ray_worker._ANSWER_S))
        raise Lost("the driver is gone")
    return method(*arguments)


def replacements() -> dict[Any, dict[str, Any]]:
    """What of the modules for Ray is virtual."""
    return {
        ray_worker: {
            "time": Time,
            "_ask": _ask,
            "_is_drained": lambda node: node in here().launcher.draining,
            "_TICK_S": 5.0,
        },
        supervisor: {"time": Time, "judge_by_log": judge, "open_store": lambda url: here().open_store(str(url))},
        growth: {"threading": Threading},
    }
