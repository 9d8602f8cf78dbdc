"""What starts runs: one protocol, kept by the local machine, SLURM and Ray. A launcher keeps no state of its own."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from gmml_cluster.errors import Fault, PreflightError

if TYPE_CHECKING:  # `gmml status` polls without pydantic
    from gmml_cluster.launch.snapshot import Snapshot
    from gmml_cluster.spec.cluster import ClusterProfile
    from gmml_cluster.spec.scalars import NodeRange

JobState = Literal["queued", "running", "gone", "unknown"]


@dataclass(frozen=True)
class Submission:
    """One request to run: what a launcher must know of a run and its plan.

    Attributes:
        root: folder or `s3://` URL under which the run root `<root>/<name>` lies.
        name: the run's name.
        token: the `submit` entry's token; argument and comment of the job.
        profile: where it goes.
        nodes: bounds of the number of nodes.
        ranks_per_node: ranks of each node, resolved (never `auto`).
        code: the packages that will run.
        corpora: URLs of the corpora, for the preflight.
        max_pixels: of an image that is no bad sample; None where any is good.
        bytes_per_rank: estimated memory of a rank; 0 where there is no estimate.
    """

    root: str
    name: str
    token: str
    profile: "ClusterProfile"
    nodes: "NodeRange"
    ranks_per_node: int
    code: "Snapshot"
    corpora: tuple[str, ...] = ()
    bytes_per_rank: int = 0
    max_pixels: int | None = None

    @property
    def run_root(self) -> str:
        """Folder or URL of the run."""
        return f"{self.root.rstrip('/')}/{self.name}"


class Launcher(Protocol):
    """Takes submissions to a place where they run, and tells how they fare there."""

    def preflight(self, submission: Submission) -> list[Fault]:
        """What would keep this submission from running; never raises for what a user can mend."""
        ...

    def script(self, submission: Submission) -> str:
        """What `submit` would hand over, to the byte, the token shown as `<token>`."""
        ...

    def submit(self, submission: Submission) -> str:
        """Hand over and return the job's id.

        Raises:
            LaunchError: refused, or out of reach.
        """
        ...

    def poll(self, jobs: Mapping[str, str]) -> dict[str, JobState]:
        """State of each job, by one call to the scheduler.

        Args:
            jobs: job id -> name of its run; another run's job under a reused id counts as gone.
        """
        ...

    def notify(self, job: str) -> None:
        """Give the ranks of a running job notice: they save, however long that takes, and leave.

        Raises:
            LaunchError: the scheduler is out of reach.
        """
        ...

    def cancel(self, job: str) -> None:
        """Ask the job to end, queued or running. A job that is gone is left in peace.

        Raises:
            LaunchError: the scheduler is out of reach.
        """
        ...


def launcher_named(kind: str) -> Launcher:
    """The launcher of this name: what a profile says under `launcher`, and what a `submit` entry keeps.

    Raises:
        PreflightError: this version has no such launcher.
    """
    if kind == "local":
        from gmml_cluster.launch.local.launcher import LocalLauncher

        return LocalLauncher()
    if kind == "slurm":
        from gmml_cluster.launch.slurm.launcher import SlurmLauncher

        return SlurmLauncher()
    raise PreflightError(
        Fault(
            "launcher", f"{kind!r} is not yet in this version; local and slurm are; choose a profile with one of them"
        )
    )
