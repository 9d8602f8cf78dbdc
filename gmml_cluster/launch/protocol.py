"""The protocol of launchers, which start runs on this machine, on SLURM or on Ray. A launcher keeps no state."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from gmml_cluster.errors import Fault, LaunchError

if TYPE_CHECKING:  # `gmml status` polls without pydantic
    from gmml_cluster.launch.snapshot import Snapshot
    from gmml_cluster.plan.machine import Machine
    from gmml_cluster.plan.plan import Plan
    from gmml_cluster.spec.cluster import ClusterProfile

JobState = Literal["queued", "running", "gone", "unknown"]
TRAIN_MODULE = "gmml_cluster.train.worker"


@dataclass(frozen=True)
class JobReport:
    """What a scheduler says of a job.

    Attributes:
        state: `unknown` where the scheduler cannot be asked; never taken for `gone`.
        reason: why a queued job waits, a running one stands still or one is gone; empty where it gives none.
        expected_start: seconds since 1970; None where the scheduler has no estimate.
        lingering: whether processes of a job that is gone still work on the run: nothing restarts it, and nothing of
            the run may be deleted.
    """

    state: JobState
    reason: str = ""
    expected_start: float | None = None
    lingering: bool = False


@dataclass(frozen=True)
class Queue:
    """Runs that share a machine or a quota.

    Attributes:
        name: of the sweep that they are of.
        parallel: how many of them are at work at once; None for as many as there is room for.
    """

    name: str
    parallel: int | None


@dataclass(frozen=True)
class Submission:
    """One request to run.

    Attributes:
        root: folder or `s3://` URL under which the run root `<root>/<name>` lies.
        name: the run's name.
        token: the `submit` entry's token; argument and comment of the job.
        profile: the cluster.
        plan: nodes, ranks and memory, as resolved for this profile.
        code: the packages that will run.
        module: what each rank starts as `python -m MODULE --root --run --submit --job --restart`.
        imports: packages that the ranks import besides this one, of those that an installation may lack.
        excluded: nodes that the run avoids, as its log says.
        queue: of a run of a sweep.
    """

    root: str
    name: str
    token: str
    profile: "ClusterProfile"
    plan: "Plan"
    code: "Snapshot"
    module: str = TRAIN_MODULE
    imports: tuple[str, ...] = ("torch",)
    excluded: tuple[str, ...] = ()
    queue: Queue | None = None

    @property
    def run_root(self) -> str:
        """Folder or URL of the run."""
        return f"{self.root.rstrip('/')}/{self.name}"


class Launcher(Protocol):
    """Starts submissions and reports on their jobs. Job ids are the launcher's own; `JobRef` names them elsewhere."""

    def node(self, profile: "ClusterProfile") -> "Machine | None":
        """What a node of this cluster offers; None where only the profile's own fields say something of it."""
        ...

    def environment(self, profile: "ClusterProfile", ranks_per_node: int) -> dict[str, str]:
        """Variables that are set for every rank: the profile's, and those that the launcher adds."""
        ...

    def preflight(self, submission: Submission) -> list[Fault]:
        """What would keep this submission from running; never raises for what a user can fix."""
        ...

    def script(self, submission: Submission) -> str:
        """What `submit` would hand over, to the byte, the token shown as `<token>`."""
        ...

    def bounds(self, submission: Submission) -> dict[str, Any]:
        """What this launcher adds to the `bounds` of the `submit` entry, such as where its own files lie."""
        ...

    def submit(self, submission: Submission) -> str:
        """Hand over and return the job's id.

        Raises:
            LaunchError: refused, or out of reach.
        """
        ...

    def submit_all(self, submissions: Sequence[Submission]) -> list[str | LaunchError]:
        """Hand over the runs of a sweep, by as few calls as it takes: the id of each, or why it was not taken."""
        ...

    def poll(self, jobs: Mapping[str, str]) -> dict[str, JobReport]:
        """Report on each job, by one call to the scheduler.

        Args:
            jobs: job id -> name of its run; another run's job under a reused id counts as gone.
        """
        ...

    def give_notice(self, job: str) -> None:
        """Signal the ranks of a running job to save, however long that takes, and exit.

        Raises:
            LaunchError: the scheduler is out of reach.
        """
        ...

    def cancel(self, job: str) -> None:
        """Ask the job to end, queued or running; does nothing for a job that is gone.

        Raises:
            LaunchError: the scheduler is out of reach.
        """
        ...

    def output(self, job: str, bounds: Mapping[str, Any], *, restart: int | None, rank: int) -> Path | None:
        """File that can be read here with exactly what a rank printed in one start; None where there is none.

        Args:
            job: its id.
            bounds: of the `submit` entry that the job was started for.
            restart: which start; None for the latest, whose number need not be known.
            rank: of the attempt.
        """
        ...

    def worker(self, root: str, name: str) -> str | None:
        """A process that this machine can see at work on the run, whatever its log says; None where there is none."""
        ...

    def forget(self, root: str, name: str) -> None:
        """Delete what this machine keeps of a run outside of its root."""
        ...


def one_by_one(submit: Callable[[Submission], str], submissions: Sequence[Submission]) -> list[str | LaunchError]:
    """What `submit_all` gives where each run is handed over for itself."""
    taken: list[str | LaunchError] = []
    for submission in submissions:
        try:
            taken.append(submit(submission))
        except LaunchError as error:
            taken.append(error)
    return taken
