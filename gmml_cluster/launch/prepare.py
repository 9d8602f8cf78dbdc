"""From a job file to what would be submitted: validated, compared with an existing run, planned. Touches nothing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from gmml_cluster.errors import Fault, SpecError
from gmml_cluster.launch.checks.existing import compare
from gmml_cluster.launch.checks.indexed import Indexed, count, look_up, refuse_empty
from gmml_cluster.launch.checks.init_source import with_source
from gmml_cluster.launch.code import code_of_run, installed_code
from gmml_cluster.launch.protocol import Submission
from gmml_cluster.launch.registry import launcher_named
from gmml_cluster.launch.snapshot import Snapshot
from gmml_cluster.plan.plan import Plan, make_plan
from gmml_cluster.run.root import absolute, run_root
from gmml_cluster.run.saving.space import room_lacking
from gmml_cluster.spec.cluster import ClusterProfile
from gmml_cluster.spec.job import JobSpec
from gmml_cluster.spec.loading.locations import Locations
from gmml_cluster.spec.loading.validate import dump, parse_job, read_job, read_profile
from gmml_cluster.spec.loading.yaml import Tree

SHOWN_TOKEN = "<token>"
A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True)
class Prepared:
    """A job that may be submitted: all that is known before anything is touched.

    Attributes:
        cluster: the profile as it was named.
        locations: where the fields of the job and of the profile were written.
        all_nodes: whether the run is to use nodes again that it avoids.
    """

    job: JobSpec
    cluster: str
    submission: Submission
    locations: Locations = field(default_factory=Locations)
    all_nodes: bool = False

    @property
    def plan(self) -> Plan:
        """Nodes, ranks, steps and memory."""
        return self.submission.plan

    @property
    def profile(self) -> ClusterProfile:
        """The cluster."""
        return self.submission.profile

    @property
    def script(self) -> str:
        """What would be handed over, the token shown as `<token>`.

        Raises:
            PreflightError: the launcher can make none of this profile.
        """
        with self.locations.located_faults():
            return launcher_named(self.profile.launcher).script(self.submission)


def prepare(path: str, *, cluster: str, overrides: Sequence[str] = (), take_counts: bool = False) -> Prepared:
    """Validate and plan a job file.

    Args:
        path: the job file, or the name of a packaged job.
        cluster: a profile's name or file.
        overrides: `batch.size=512` and the like.
        take_counts: as for `look_up`: a dry run takes the spec's word for what an object store holds.

    Raises:
        SpecError: all faults of the job file and the profile, or else of `init`, or else of the plan, of numbers that
            an index contradicts, and of a name that another run has.
        PreflightError: this version has no launcher for the profile, or a corpus holds no sample by its indexes.
    """
    (job, job_tree), (profile, profile_tree) = _both(lambda: read_job(path, overrides), lambda: profile_named(cluster))
    job = with_absolute_paths(job)
    locations = Locations(job_tree, profile_tree, tuple(corpus.url for corpus in job.data.corpora))
    root = absolute(profile.root)
    with locations.located_faults():
        launcher_named(profile.launcher)  # asked first: no store is read for a launcher that does not exist
        indexed = look_up(job, root, take_counts=take_counts)
        refuse_empty(job, indexed.held)
        job = with_source(job, root)
        submission, (history, notes) = _both(
            lambda: plan_submission(job, profile, root, indexed), lambda: compare(job, root, indexed)
        )
        if history.submit is not None:
            code, code_notes = code_of_run(run_root(root, job.name), history.submit, submission.code)
            submission = replace(submission, code=code, excluded=tuple(history.excluded))
            notes = (*code_notes, *notes)
        lacking = room_lacking(
            root, submission.plan.checkpoint_bytes, max(1, job.checkpoint.keep + 1 - len(history.commits))
        )
        notes = (*notes, *([] if lacking is None else [str(lacking)]))
    return Prepared(job, cluster, with_notes(submission, notes), locations)


def profile_named(cluster: str) -> tuple[ClusterProfile, Tree]:
    """The profile of this name or file.

    Raises:
        SpecError: there is none, or it has faults; an empty name would otherwise mean this machine.
    """
    if not cluster.strip():
        raise SpecError(Fault("--cluster", f"{cluster!r} is no name of a profile", "name one, or leave the option out"))
    return read_profile(cluster)


def _both(first: Callable[[], A], second: Callable[[], B]) -> tuple[A, B]:
    """Both results, or the faults of both."""
    try:
        made = first()
    except SpecError as error:
        try:
            second()
        except SpecError as other:
            raise SpecError([*error.faults, *other.faults]) from error
        raise
    return made, second()


def plan_submission(
    job: JobSpec, profile: ClusterProfile, root: str, indexed: Indexed, code: Snapshot | None = None
) -> Submission:
    """What a launcher gets of a job, the token as `<token>`.

    Args:
        job: what is trained.
        profile: where.
        root: folder or URL under which the run lies; the profile's is where new runs go.
        indexed: what is known of the corpora.
        code: what the ranks run; by default what is installed here.

    Raises:
        SpecError: the plan does not fit the cluster.
    """
    launcher = launcher_named(profile.launcher)
    plan = make_plan(job, profile, indexed.shapes, launcher.node(profile), indexed.scored)
    plan = replace(plan, environment=launcher.environment(profile, plan.ranks_per_node))
    code = installed_code(job.method.name) if code is None else code
    imports = ("torch",) if job.engine.zero == "ddp" else ("torch", "deepspeed")
    submission = Submission(root, job.name, SHOWN_TOKEN, profile, plan, code, imports=imports)
    return with_notes(submission, indexed.notes)


def with_notes(submission: Submission, notes: Sequence[str]) -> Submission:
    """The same with further notes in its plan."""
    return replace(submission, plan=replace(submission.plan, notes=(*submission.plan.notes, *notes)))


def with_lanes_counted(prepared: Prepared) -> Prepared:
    """The same, planned again with the samples counted, where this machine would start more ranks than lanes.

    A scheduler's ranks are counted by rank 0 of the first attempt; here the ranks are started by this plan.
    """
    submission = prepared.submission
    plan = submission.plan
    if submission.profile.launcher != "local" or plan.lanes is not None or plan.ranks_per_node == 1:
        return prepared
    indexed = count(prepared.job)
    counted = plan_submission(prepared.job, submission.profile, submission.root, indexed, submission.code)
    return replace(prepared, submission=replace(submission, plan=counted.plan))


def with_absolute_paths(job: JobSpec) -> JobSpec:
    """The job with the paths of its corpora made absolute, so that it can be resumed from any folder."""
    spec = dump(job)
    for corpus in spec["data"]["corpora"]:
        corpus["url"] = absolute(corpus["url"])
    asked = spec["evaluate"] or {}
    for name in ("bank", "corpus"):
        if asked.get(name) is not None:
            asked[name] = absolute(asked[name])
    return parse_job(spec)
