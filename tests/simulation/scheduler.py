"""A virtual scheduler after SLURM, behind the protocol of launchers, and what a batch script does with the verdicts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from gmml_cluster.errors import Fault, GmmlError, LaunchError
from gmml_cluster.launch.after.evidence import Evidence
from gmml_cluster.launch.after.verdict import Allocation, action
from gmml_cluster.launch.protocol import JobReport, Submission
from gmml_cluster.launch.restart import JobStart, judge
from gmml_cluster.launch.slurm import successor
from gmml_cluster.run.codes import NEVER, RESTARTS, UNFIT
from gmml_cluster.run.log import Log
from gmml_cluster.train.ranks.agreement import StartInfo
from tests.simulation.ranks import Pod, give_notice, start_ranks
from tests.simulation.world import Node, Process, World, here

KILL_WAIT_S = 30.0
_KILLED = 128 + 9


@dataclass(eq=False)
class Job:
    """A job and its allocation.

    Attributes:
        starts: number of its next start; a successor's follow those of the job that it succeeds.
        requeues: whether the scheduler requeues it; else its script submits a successor.
        has_files: whether submitit's file is there, without which no rank of it begins.
        why: reason that the scheduler gives for ending the present start; empty where it gives none.
        grace: whether the job is being preempted and has still time.
        epoch: of its allocation; another one, and the one before is over for the controller.
        blind: restarts since the log was last reached.
    """

    id: str
    submission: Submission
    ranks: int
    state: Literal["queued", "running", "gone"] = "queued"
    requeues: bool = True
    has_files: bool = True
    starts: int = 0
    why: str = ""
    grace: bool = False
    cancelled: bool = False
    requeue: bool = False
    nodes: list[Node] = field(default_factory=list)
    pods: list[Pod] = field(default_factory=list)
    blind: int = 0
    epoch: int = 0


class Scheduler:
    """Keeps the Launcher protocol; its own decisions are those of `disturb`.

    Attributes:
        away: times from and to which it answers nobody.
        escapes: how many of the next starts SLURM loses.
        leaves_behind: chance that the processes of a node survive the end of their job.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self.jobs: dict[str, Job] = {}
        self.away: list[tuple[float, float]] = []
        self.faulty = 0.0
        self.leaves_behind, self.escapes = 0.0, 0
        self._nodes = 0

    # the Launcher protocol

    def preflight(self, submission: Submission) -> list[Fault]:
        return []

    def bounds(self, submission: Submission) -> dict[str, Any]:
        return {}

    def submit(self, submission: Submission) -> str:
        """A job; the answer that names it may be lost."""
        fault = self._ask()
        job = self._accept(submission, has_files=True)
        self._queue(job)
        if fault:
            self._world.sleep(20.0)
            raise LaunchError(Fault("sbatch", "timed out"))
        return job.id

    def succeed(self, job: Job) -> Job | None:
        """sbatch of a script for the job that follows its own; None where its answer, which names the job, is lost."""
        fault = self._ask()
        after = self._accept(job.submission, has_files=False)
        after.requeues = False
        self._queue(after, least_s=10.0)
        return None if fault else after

    def _accept(self, submission: Submission, *, has_files: bool) -> Job:
        number = str(100 + len(self.jobs))
        world = self._world
        self.jobs[number] = Job(number, submission, world.nodes_asked, requeues=world.requeues, has_files=has_files)
        return self.jobs[number]

    def poll(self, jobs: Mapping[str, str]) -> dict[str, JobReport]:
        if self._ask():
            raise LaunchError(Fault("squeue", "timed out"))
        return {job: JobReport(self.jobs[job].state if job in self.jobs else "gone") for job in jobs}

    def give_notice(self, job: str) -> None:
        if self._ask():
            raise LaunchError(Fault("scancel", "timed out"))
        for pod in self.jobs[job].pods[-1:]:
            give_notice(pod)

    def cancel(self, job: str) -> None:
        if self._ask():
            raise LaunchError(Fault("scancel", "timed out"))
        self.end(self.jobs[job], "", cancelled=True)

    def worker(self, root: str, name: str) -> str | None:
        return None

    def forget(self, root: str, name: str) -> None:
        pass

    def _ask(self) -> bool:
        """One question to the controller; whether its answer is lost."""
        world = self._world
        world.sleep(world.random.uniform(0.01, 2.0))
        return any(begin <= world.now < end for begin, end in self.away) or world.random.random() < self.faulty

    # jobs

    def _queue(self, job: Job, least_s: float = 0.0) -> None:
        job.epoch += 1
        job.state, job.why, job.grace, job.requeue = "queued", "", False, False
        epoch = job.epoch

        def begin() -> None:
            if job.state == "queued" and job.epoch == epoch:
                job.state = "running"
                job.nodes = [self.node() for _ in range(job.ranks)]
                self.script(job, job.nodes)

        self._world.start("slurmctld", begin, after_s=least_s + self._world.random.choice((0.5, 5.0, 60.0)))

    def node(self) -> Node:
        """A machine that nothing ran on yet."""
        self._nodes += 1
        return Node(f"node{self._nodes}")

    def script(self, job: Job, nodes: list[Node], *, again: bool = False) -> None:
        """Start the batch script of a job; `again`: by mistake, beside the one that runs, as the same start."""
        restart = job.starts - again
        job.starts += not again
        body = Script(self, job, nodes, restart, job.epoch)
        script = self._world.start(f"job {job.id}.{restart} script", body.run, nodes[0])
        if not again:
            epoch = job.epoch
            self._world.start("slurmctld", lambda: self._await(job, script, epoch))

    def _await(self, job: Job, script: Process, epoch: int) -> None:
        """A script that is over ends its job, or its job queues again."""
        script.wait()
        if epoch != job.epoch:
            return
        self._clean(job, job.nodes, "its job is over")
        if job.requeue and not job.cancelled:
            self._queue(job)
        else:
            job.epoch += 1
            job.state = "gone"

    def _clean(self, job: Job, nodes: list[Node], why: str) -> None:
        """Kill what still runs on nodes that the controller reaches; now and then something escapes it."""
        for node in nodes:
            if not node.cut_off and self._world.random.random() >= self.leaves_behind:
                node.lose(why)

    def end(self, job: Job, why: str, *, cancelled: bool = False, requeue: bool = False, grace_s: float = 0.0) -> None:
        """End the present start: notice, after the grace TERM, after KillWait KILL."""
        if job.state == "queued" and cancelled:
            job.epoch += 1
            job.state = "gone"
        if job.state != "running":
            return
        job.cancelled |= cancelled
        job.requeue |= requeue and job.requeues
        job.grace = grace_s > 0
        epoch = job.epoch
        if grace_s:
            self._give_notice(job)

        def kill() -> None:
            if epoch != job.epoch:
                return
            job.why = why
            self._give_notice(job)
            here().sleep(KILL_WAIT_S)
            if epoch == job.epoch:
                self._kill_ranks(job)
                here().sleep(KILL_WAIT_S)
            if epoch == job.epoch:
                self._clean(job, job.nodes, "KillWait is over")

        self._world.start("slurmctld", kill, after_s=grace_s)

    def _give_notice(self, job: Job) -> None:
        for pod in job.pods[-1:]:
            if not pod.lost:
                give_notice(pod)

    def _kill_ranks(self, job: Job) -> None:
        for process in (process for pod in job.pods[-1:] if not pod.lost for process in pod.processes):
            if not process.node.cut_off:
                process.end(_KILLED, "KillWait is over")

    def lose_next_ranks(self) -> None:
        """Of the next start slurmstepd is gone: its ranks live on outside of SLURM, and its job is taken away."""
        self.escapes += 1

    def started(self, job: Job, pod: Pod) -> None:
        """The ranks of a job have started."""
        if self.escapes:
            self.escapes -= 1
            self._world.start("slurmd", lambda: self._lose(job, pod), after_s=self._world.random.uniform(0.0, 30.0))

    def _lose(self, job: Job, pod: Pod) -> None:
        outside, world = Node("outside"), self._world
        pod.lost = True
        for process in pod.processes:
            process.node.processes.remove(process)
            process.node = outside
            outside.processes.append(process)
            process.freeze(world.random.uniform(0.0, 600.0))
        world.note("world", f"the ranks of job {job.id} escape")
        pod.ended.give()
        self.end(job, "PREEMPTION", requeue=True)

    def lose_sight(self, job: Job) -> None:
        """The controller lost its state, and with it the job, whose processes live on."""
        if job.state == "running":
            job.epoch += 1
            job.state = "gone"

    def lose_node(self, job: Job, *, alive: bool) -> None:
        """A node of the job does not answer any more: it is dead, or only cut off from the controller.

        The controller requeues the job, if it requeues any; what lives on the node lives on.
        """
        if job.state != "running":
            return
        node = self._world.random.choice(job.nodes)
        self._world.note("world", f"{node.name} is {'cut off' if alive else 'lost'}", f"job {job.id}")
        job.epoch += 1
        epoch, node.cut_off = job.epoch, alive
        if not alive:
            node.lose("its node is lost")

        def notice() -> None:
            if epoch == job.epoch:
                self._clean(job, [other for other in job.nodes if other is not node], "its job lost a node")
                if job.cancelled or not job.requeues:
                    job.state = "gone"
                else:
                    self._queue(job)

        self._world.start("slurmctld", notice, after_s=self._world.random.uniform(1.0, 60.0))


@dataclass
class Script:
    """The batch script of one start of a job, and of those in the same allocation that follow it (teardown.sh)."""

    scheduler: Scheduler
    job: Job
    nodes: list[Node]
    restart: int
    epoch: int

    def run(self) -> None:
        """Ranks, verdict, and what it says."""
        while True:
            code = self._ranks()
            what, pause_s = self._verdict(code)
            here().note(here().process.name, f"ranks ended with {code}", what)
            if what != "here":
                break
            here().sleep(pause_s)
            if not self._is_mine():
                what, _ = self._verdict(code)
                what = "requeue" if what == "here" else what
                break
            self.restart = self.job.starts
            self.job.starts += 1
        if what == "requeue" and self._is_current():
            here().sleep(here().random.uniform(0.01, 2.0))
            if self.job.requeues:
                self.job.requeue = True
            else:
                self._succeed()

    def _succeed(self) -> None:
        """Another job under the same token, its files, and the real word on it in the log (gmml_succeed)."""
        world, job = here(), self.job
        after = self.scheduler.succeed(job)
        if after is None:
            world.note(world.process.name, "no successor", "sbatch timed out")
            return
        world.sleep(world.random.uniform(0.0, 0.1))
        after.starts, after.blind, after.has_files = self.restart + 1, job.blind, True
        submission = job.submission
        saying = world.start(
            f"job {job.id}.{self.restart} successor",
            lambda: successor.main([submission.run_root, submission.token, after.id]),
            self.nodes[0],
        )
        saying.wait()

    def _ranks(self) -> int:
        """srun with --kill-on-bad-exit; it may lose its ranks and leave 0 while they live."""
        world, job = here(), self.job
        token = job.submission.token
        if not job.has_files:
            world.sleep(world.random.uniform(1.0, 20.0))
            return 1
        start = StartInfo(job.submission.root, job.submission.name, token, job.id, self.restart, None, world.now)
        pod = start_ranks(start, self.nodes, job.ranks)
        job.pods.append(pod)
        self.scheduler.started(job, pod)
        lost = world.random.random() < world.srun_loses
        if lost:
            world.sleep(world.random.uniform(5.0, 90.0))
            return max((process.code or 0 for process in pod.processes), default=0)
        while not pod.lost and all(process.alive for process in pod.processes):
            world.wait(pod.ended)
        if pod.lost:
            return 0
        if any(process.code for process in pod.processes):
            deadline = world.now + KILL_WAIT_S
            while world.now < deadline and any(process.alive for process in pod.processes):
                world.sleep(1.0)
            for process in pod.processes:
                process.end(_KILLED, "--kill-on-bad-exit")
        return max(process.wait() for process in pod.processes)

    def _verdict(self, code: int) -> tuple[str, float]:
        """What the real judge says, in a process of its own; without an answer in time the exit code decides."""
        world, job = here(), self.job
        start = JobStart(job.submission.token, job.id, self.restart)
        answer: list[tuple[str, float]] = []

        def ask() -> None:
            seen = world.slots()
            try:
                verdict = judge(Log(world.open_store(job.submission.run_root)), start, code, self._evidence())
            except GmmlError as fault:
                world.note(world.process.name, "no verdict", str(fault))
                return
            what = action(verdict, self._allocation())
            world.judged(start, seen, verdict, what)
            answer.append((what, verdict.pause_s))

        judging = world.start(f"job {job.id}.{self.restart} judge", ask, self.nodes[0])
        deadline = world.now + (KILL_WAIT_S / 3 + 1 if job.why else 300.0)
        while judging.alive and world.now < deadline:
            world.wait(judging.ended, deadline - world.now)
        judging.end(_KILLED, "its time is over")
        if answer:
            job.blind = 0
            return answer[0]
        return self._blind(code), 0.0

    def _blind(self, code: int) -> str:
        """The rule without the log (gmml_blind_verdict)."""
        if code in (NEVER, UNFIT) or self.job.blind >= RESTARTS:
            return "nothing"
        self.job.blind += 1
        return "requeue"

    def _evidence(self) -> Evidence:
        job = self.job
        if job.why == "PREEMPTION":
            return Evidence("preempted", "DUE TO PREEMPTION")
        if job.why == "TIME LIMIT":
            return Evidence("time_limit", "DUE TO TIME LIMIT")
        if job.why == "CANCELLED":
            return Evidence("cancelled", "COMPLETING without a reason")
        return Evidence(notice="preempted" if job.grace else None, proof="PreemptTime" if job.grace else "")

    def _allocation(self) -> Allocation:
        held = self._is_current() and not self.job.why and not self.job.grace
        return Allocation(held, tuple(node.name for node in self.nodes), (), len(self.nodes))

    def _is_current(self) -> bool:
        """Whether this allocation is still the job's, as the controller would answer."""
        return not self.nodes[0].cut_off and self.job.epoch == self.epoch and self.job.state == "running"

    def _is_mine(self) -> bool:
        return self._is_current() and not self.job.why and not self.job.grace
