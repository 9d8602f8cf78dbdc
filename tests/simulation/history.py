"""One history of a run: who does what when is drawn from its seed, and judged when it is over."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from gmml_cluster.errors import GmmlError
from gmml_cluster.launch import submit as submitting
from gmml_cluster.launch.runs import cancel as cancelling
from gmml_cluster.run.log import Log, check
from gmml_cluster.run.root import RunRoot
from gmml_cluster.store.posix import PosixStore
from gmml_cluster.store.s3 import S3Store
from tests.simulation import bucket, folder, product
from tests.simulation.judge import Judge
from tests.simulation.machine import Machine, Supervising
from tests.simulation.ranks import Rank
from tests.simulation.ray_cluster import Cluster
from tests.simulation.scheduler import Job, Scheduler
from tests.simulation.weather import Exchange, Weather
from tests.simulation.world import EPOCH, TooLong, World, enter

MOST_SWITCHES = 60_000
LONGEST_S = 6 * 3600.0


@dataclass(frozen=True)
class Outcome:
    """What came of a history.

    Attributes:
        broken: promises that do not hold; none where all is well.
        lines: what happened, where it was wanted.
        counts: entries by kind, and what else is worth knowing.
    """

    seed: int
    broken: list[str]
    lines: list[tuple[float, str, str, str]]
    counts: dict[str, int] = field(default_factory=dict)


class History(World):
    """A world with one store, one scheduler and one run."""

    def __init__(self, seed: int, *, listed: bool = False, only: str = "", **forced: Any) -> None:
        super().__init__(seed, listed=listed)
        self.seed, random = seed, self.random
        self.pods: dict[str, Any] = {}
        self.kind = random.choice(("folder", "bucket"))
        self.root = "/runs" if self.kind == "folder" else "s3://bucket/runs"
        self.nodes_asked = random.choice((1, 1, 2))
        self.saves = (random.choice((1, 2, 3)), random.choice((1, 1, 2, 3)))
        self.step_s = random.choice((0.5, 5.0, 30.0))
        self.requeues = random.random() < 0.7
        self.cluster = random.choice(("slurm", "slurm", "local", "ray"))
        self.srun_loses = random.choice((0.0, 0.0, 0.1))
        self.room = (random.choice((1, 2, 3)), random.choice((1, 2)))
        self.horizon = random.choice((60.0, 300.0, 1200.0))
        self.escapes = random.choice((0, 0, 0, 0, 1))
        self._only = only
        vars(self).update(forced)
        self.weather = self._weather()
        self.launcher = self._launcher()
        self._make_store()
        self.judge = Judge(self._object, self._who, self.note)
        self.judged = self.judge.judged

    def _launcher(self) -> Any:
        if self.cluster == "local":
            return Machine()
        if self.cluster == "ray":
            return Cluster(self, *self.room)
        made = Scheduler(self)
        made.escapes = self.escapes
        made.leaves_behind, made.faulty = self.random.choice((0.0, 0.0, 0.3)), self.random.choice((0.0, 0.0, 0.1))
        return made

    def _weather(self) -> Weather:
        random = self.random
        faulty, slow = random.choice((0.0, 0.01, 0.05, 0.15)), random.choice((0.0, 0.02, 0.1))
        outages = ()
        if random.random() < 0.2:
            begin = EPOCH + random.uniform(0.0, 600.0)
            outages = ((begin, begin + random.uniform(10.0, 900.0)),)
        return Weather(faulty, slow, outages, late=random.random() < 0.5)

    def _make_store(self) -> None:
        if self.kind == "folder":
            self.files = folder.fresh()
            self.files.folders["/runs"] = 0o755
            self.files.exchange = Exchange(self.weather, folder.refused, folder.unanswered, 30.0)
            self.files.watch = lambda path, old, new: self._change(path, "/runs/run/", old, new)
        else:
            self.bucket = bucket.Bucket(watch=lambda key, old, new: self._change(key, "runs/run/", old, new))
            self.exchange = Exchange(self.weather, bucket.refused, bucket.unanswered, 30.0)

    def open_store(self, url: str) -> Any:
        """A store as a process opens it."""
        if self.kind == "folder":
            return PosixStore(url)
        return S3Store(url, bucket.BucketRequests(self.bucket, self.exchange))

    def _change(self, key: str, prefix: str, old: bytes | None, new: bytes | None) -> None:
        if key.startswith(prefix):
            self.judge.changes(key[len(prefix) :], old, new)

    def _object(self, name: str) -> bytes | None:
        if self.kind == "folder":
            inode = self.files.names.get(f"/runs/run/{name}")
            return None if inode is None else inode.data
        return self.bucket.objects.get(f"runs/run/{name}")

    def names(self) -> list[str]:
        """All objects of the run, and unfinished writes."""
        if self.kind == "folder":
            found = [name for name in self.files.names if name.startswith("/runs/run/")]
        else:
            found = [f"/{key}" for key in (*self.bucket.objects, *(u["Key"] for u in self.bucket.uploads.values()))]
        return [name.removeprefix("/runs/run/") for name in found]

    def _who(self) -> str:
        return self.thread.process.name if self.thread is not None else "?"

    def slots(self) -> int:
        """Slots of the log that exist now."""
        return len(self.judge.account.entries)

    def stepped(self, rank: Rank, step: int) -> None:
        """A rank made a step; after it was asked to stop it may make two more."""
        if rank.asked_at is None and rank.signals.stop_request.stop:
            rank.asked_at = step
        if rank.asked_at is not None and step > rank.asked_at + 2:
            self.judge.broken.append(f"step {step} is made, though a stop was seen at step {rank.asked_at}")

    # what happens

    def explore(self) -> Outcome:
        """Play the history and judge it."""
        enter(self)
        try:
            self._play()
        except TooLong as error:
            self.judge.broken.append(str(error))
        finally:
            self.clear()
            enter(None)
        kinds: dict[str, int] = {
            self.kind: 1,
            self.cluster: 1,
            "switches": self.switches,
            "seconds": int(self.now - EPOCH),
        }
        for entry in self.judge.account.entries:
            kinds[entry["kind"]] = kinds.get(entry["kind"], 0) + 1
        return Outcome(self.seed, list(self.judge.broken), self.lines, kinds)

    def _play(self) -> None:
        random = self.random
        horizon = self.horizon
        self.person("submit", lambda: submitting.submit(product.prepared()), 0.0)
        for _ in range(random.choice((0, 1, 2, 4, 8))):
            moment = random.uniform(0.0, horizon)
            name, body = random.choice(self._disturbances())
            self.start(name, body, after_s=moment)
        self.run(EPOCH + horizon, most=MOST_SWITCHES)
        self._settle()
        self._finale()
        self._judge_all()

    def person(self, what: str, command: Callable[[], Any], after_s: float = 0.0) -> Any:
        """A command that a person gives; faults of the product are their answers, anything else is a defect."""

        def body() -> None:
            try:
                answer = command()
                self.note(self.process.name, what, str(getattr(answer, "action", answer)))
            except GmmlError as fault:
                self.note(self.process.name, what, f"{type(fault).__name__}: {fault}")

        return self.start(f"{what} {len(self.processes)}", body, after_s=after_s, about="person")

    def _disturbances(self) -> list[tuple[str, Callable[[], None]]]:
        more = {"local": self._of_a_machine, "ray": self._of_ray, "slurm": self._of_a_scheduler}
        found = [*self._of_people(), *more[self.cluster]()]
        return [each for each in found if self._only in ("", each[0])]

    def _of_people(self) -> list[tuple[str, Callable[[], None]]]:
        return [
            ("a person submits", lambda: self.person("submit", self._submit) and None),
            ("a person resumes", lambda: self.person("resume", lambda: submitting.resume(self.run_root())) and None),
            ("a person takes over", lambda: self.person("resume --take-over", self._take_over) and None),
            ("a person takes over", lambda: self.person("resume --take-over", self._take_over) and None),
            ("a person cancels", lambda: self.person("cancel", lambda: cancelling.cancel(self.run_root())) and None),
            ("a person removes", self._remove),
            ("a process is killed", self._kill),
            ("a process is killed", self._kill),
            ("a process is frozen", self._freeze),
            ("a process is frozen", self._freeze),
        ]

    def _of_a_machine(self) -> list[tuple[str, Callable[[], None]]]:
        machine = self.launcher
        return [
            ("a process is killed", self._kill),
            ("a process is killed", self._kill),
            ("a supervisor is killed", self._kill_supervisor),
            ("a supervisor is killed", self._kill_supervisor),
            ("the machine reboots", lambda: machine.node_.lose("the machine reboots")),
        ]

    def _of_ray(self) -> list[tuple[str, Callable[[], None]]]:
        cluster = self.launcher
        return [
            ("a process is killed", self._kill),
            ("a driver is killed", self._kill_driver),
            ("a node joins", cluster.add),
            ("a node joins", cluster.add),
            ("a node is lost", lambda: self._with_node(cluster.lose)),
            ("a node is drained", lambda: self._with_node(cluster.drain)),
            ("the head is away", self._away),
        ]

    def _of_a_scheduler(self) -> list[tuple[str, Callable[[], None]]]:
        return [
            ("a job is preempted", lambda: self._end_job("PREEMPTION", requeue=True, grace=True)),
            ("a job is preempted", lambda: self._end_job("PREEMPTION", requeue=False, grace=False)),
            ("a job is at its time limit", lambda: self._end_job("TIME LIMIT", requeue=False, grace=True)),
            ("scancel", lambda: self._end_job("CANCELLED", requeue=False, grace=False, cancelled=True)),
            ("a node is lost", lambda: self._with_job(lambda job: self.launcher.lose_node(job, alive=False))),
            ("a node is cut off", lambda: self._with_job(lambda job: self.launcher.lose_node(job, alive=True))),
            ("a node is cut off", lambda: self._with_job(lambda job: self.launcher.lose_node(job, alive=True))),
            ("a job is started twice", lambda: self._with_job(self._start_twice)),
            ("ranks escape", self.launcher.lose_next_ranks),
            ("the scheduler forgets a job", lambda: self._with_job(self.launcher.lose_sight)),
            ("the scheduler is away", self._away),
        ]

    def run_root(self) -> RunRoot:
        """The run as one process opens it."""
        return RunRoot(self.root, "run")

    def _submit(self) -> Any:
        return submitting.submit(product.prepared())

    def _take_over(self) -> Any:
        return submitting.resume(self.run_root(), take_over=True)

    def _remove(self) -> None:
        self.person("cancel", lambda: cancelling.cancel(self.run_root()))
        self.person("rm", lambda: cancelling.remove(self.run_root()), self.random.uniform(10.0, 200.0))
        self.person("submit", self._submit, self.random.uniform(100.0, 400.0))

    def _kill(self) -> None:
        process = self._victim()
        if process is not None:
            process.end(128 + 9, "kill -9")

    def _freeze(self) -> None:
        process = self._victim()
        if process is not None:
            seconds = math.exp(self.random.uniform(math.log(5.0), math.log(1500.0)))
            self.note("world", f"{process.name} is frozen", f"{seconds:.0f} s")
            process.freeze(seconds)

    def _kill_supervisor(self) -> None:
        self._kill_one(lambda process: isinstance(process.about, Supervising))

    def _kill_driver(self) -> None:
        self._kill_one(lambda process: process.about == "driver")

    def _kill_one(self, wanted: Callable[[Any], bool]) -> None:
        alive = [process for process in self.processes if process.alive and wanted(process)]
        if alive:
            self.random.choice(alive).end(128 + 9, "kill -9")

    def _with_node(self, act: Callable[[Any], None]) -> None:
        nodes = self.launcher.usable()
        if nodes:
            act(self.random.choice(nodes))

    def _victim(self) -> Any:
        alive = [p for p in self.processes if p.alive and (p.node is not None or p.about == "person")]
        return self.random.choice(alive) if alive else None

    def _end_job(self, why: str, *, requeue: bool, grace: bool, cancelled: bool = False) -> None:
        grace_s = self.random.choice((5.0, 30.0, 120.0)) if grace else 0.0
        self._with_job(lambda job: self.launcher.end(job, why, cancelled=cancelled, requeue=requeue, grace_s=grace_s))

    def _with_job(self, act: Callable[[Job], None]) -> None:
        at_work = [job for job in self.launcher.jobs.values() if job.state != "gone"]
        if at_work:
            act(self.random.choice(at_work))

    def _start_twice(self, job: Job) -> None:
        if job.state == "running" and job.ranks == 1:
            self.launcher.script(job, [self.launcher.node()], again=True)

    def _away(self) -> None:
        self.launcher.away.append((self.now, self.now + self.random.uniform(5.0, 300.0)))

    # the end

    def _settle(self) -> None:
        """Nothing goes wrong any more; run until nobody has anything left to do."""
        self.weather.clear_up()
        self.srun_loses = 0.0
        if isinstance(self.launcher, Scheduler):
            self.launcher.away, self.launcher.faulty, self.launcher.leaves_behind = [], 0.0, 0.0
            self.launcher.escapes = 0
        if isinstance(self.launcher, Cluster):
            self.launcher.away = []
            if not self.launcher.usable():
                self.launcher.add()
        self.run(self.now + LONGEST_S, most=MOST_SWITCHES)
        for process in self.processes:
            if process.alive:
                self.judge.broken.append(f"{process.name} does not end")
        for process, error in self.errors:
            self.judge.broken.append(f"{process.name}: {type(error).__name__}: {error}")

    def _finale(self) -> None:
        """A run can always go on: one more command, and it finishes."""
        self.note("world", "all is well from here on")
        if self._is_finished():
            return
        for command in (self._submit, self._take_over, self._take_over):
            if not self._is_finished():
                self.person("resume", command)
                self._settle()
        if self.judge.removal or not self.judge.account.claims:
            self.person("cancel", lambda: cancelling.cancel(self.run_root()))
            self._settle()
            self.person("rm", lambda: cancelling.remove(self.run_root()))
            self._settle()
            self.person("submit", self._submit)
            self._settle()
        if self._is_finished():
            self._collected()
        else:
            self.judge.broken.append("the run does not finish, though nothing goes wrong any more")

    def _collected(self) -> None:
        """An attempt that was alone and saved has left nothing in the folders of checkpoints that no commit names."""
        account = self.judge.account
        folders = {f"checkpoints/{step:08d}-{attempt:04d}" for step, attempt in account.live}
        left = [
            name
            for name in self.names()
            if name.startswith("checkpoints/")
            and name.rpartition("/")[0] not in folders
            # a rank that outlived the removal of a run of this name leaves what no attempt of this one collects
            and int(name.split("/")[1].partition("-")[2]) <= account.last
        ]
        if left and account.last in account.last_commit_of:
            self.judge.broken.append(f"orphans are left: {', '.join(left)}")

    def _is_finished(self) -> bool:
        return self.judge.account.finished and not self.judge.removal

    def _judge_all(self) -> None:
        judge = self.judge
        for key in list(judge.account.live):
            judge.whole(key)
        if not judge.account.entries:
            return

        def look() -> None:
            log = Log(self.run_root().store)
            judge.broken.extend(check(log))
            judge.broken.extend(differences(log, judge))

        self.start("gmml log --check", look)
        self._settle()


def differences(log: Log, judge: Judge) -> list[str]:
    """Where the product's fold and the judge's own account disagree."""
    history, account = log.refresh(), judge.account
    pairs = {
        "slots": (history.slots, len(account.entries)),
        "last attempt": (history.last_attempt, account.last),
        "commits": ([(c.step, c.attempt) for c in history.commits], list(account.live)),
        "submit": (history.submitted, account.submit),
        "finished": (history.finished, account.finished),
        "stopped": (history.stopped is not None, account.stopped),
        "causes": ({a.number: a.cause for a in history.attempts if a.ended}, account.causes),
    }
    return [f"{name}: the fold says {a}, the entries say {b}" for name, (a, b) in pairs.items() if a != b]


def explore(seed: int, *, listed: bool = False, **forced: Any) -> Outcome:
    """The history of a seed; within `product.installed`.

    Args:
        forced: attributes of the history in place of what the seed draws; `only`: the disturbance that there is.
    """
    return History(seed, listed=listed, **forced).explore()
