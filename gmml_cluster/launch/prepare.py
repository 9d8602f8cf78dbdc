"""From a job file to what would be submitted: validated, compared with what lies there, planned. Touches nothing."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import gmml_cluster
from gmml_cluster.errors import Fault, SpecError, StorageError
from gmml_cluster.launch.indexed import Indexed, count, look_up, miscounted
from gmml_cluster.launch.init_source import with_source
from gmml_cluster.launch.local.supervisor import thread_environment
from gmml_cluster.launch.protocol import Submission, launcher_named
from gmml_cluster.launch.snapshot import Snapshot, take
from gmml_cluster.plan.plan import Plan, make_plan
from gmml_cluster.run.discovery import is_run
from gmml_cluster.run.history import History
from gmml_cluster.run.root import RunRoot, absolute, run_root
from gmml_cluster.spec.cluster import ClusterProfile
from gmml_cluster.spec.identity import changeable, differences
from gmml_cluster.spec.job import JobSpec
from gmml_cluster.spec.loading.locations import Locations
from gmml_cluster.spec.loading.validate import dump, parse_job, read_job, read_profile
from gmml_cluster.spec.loading.yaml import shown
from gmml_cluster.spec.methods.plugins import plug_in

SHOWN_TOKEN = "<token>"
A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True)
class Prepared:
    """A job that may be submitted: all that is known before anything is touched."""

    job: JobSpec
    profile: ClusterProfile
    cluster: str
    plan: Plan
    submission: Submission
    places: Locations = field(default_factory=Locations)

    @property
    def script(self) -> str:
        """What would be handed over, the token shown as `<token>`.

        Raises:
            PreflightError: the launcher can make none of this profile.
        """
        with self.places.told():
            return launcher_named(self.profile.launcher).script(self.submission)


def prepare(path: str, *, cluster: str, overrides: Sequence[str] = ()) -> Prepared:
    """Validate and plan a job file.

    Raises:
        SpecError: all faults of the job file and the profile, or else of `init`, or else of the plan, of numbers that
            an index contradicts, and of a name that another run has.
        PreflightError: this version has no launcher for the profile.
    """
    (job, job_tree), (profile, profile_tree) = _both(lambda: read_job(path, overrides), lambda: read_profile(cluster))
    job = with_absolute_paths(job)
    places = Locations(job_tree, profile_tree, tuple(corpus.url for corpus in job.data.corpora))
    root = absolute(profile.root)
    with places.told():
        indexed = known_by_indexes(job, profile, root)
        job = with_source(job, root)
        made, (history, words) = _both(
            lambda: planned(job, profile, cluster, root, indexed), lambda: _compared(job, root, indexed)
        )
        if history.submit is not None:
            made = with_code_of(run_root(root, job.name), history, made)
        return replace(made, plan=replace(made.plan, words=(*made.plan.words, *words)), places=places)


def known_by_indexes(job: JobSpec, profile: ClusterProfile, root: str) -> Indexed:
    """What indexes say, once it is known that there is a launcher: without one no store is asked."""
    launcher_named(profile.launcher)
    return look_up(job, root)


def _compared(job: JobSpec, root: str, indexed: Indexed) -> tuple[History, list[str]]:
    """The history of the run of this name, and what could not be compared with what lies there.

    Raises:
        SpecError: an index contradicts the job, or a run of this name has another identity.
    """
    faults = miscounted(job, indexed.shapes) if indexed.shapes else []
    words, history = [], History()
    try:
        run = run_root(root, job.name)
        history = run.log.refresh()
        if history.run:
            changes_of(run, dump(job))
        else:
            demand_begun(run, is_run(run))
    except StorageError as error:
        words.append(f"whether a run has this name already is not known: {str(error).splitlines()[0]}")
    except SpecError as error:
        faults += error.faults
    if faults:
        raise SpecError(faults)
    return history, words


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


def planned(job: JobSpec, profile: ClusterProfile, cluster: str, root: str, indexed: Indexed) -> Prepared:
    """The job with its plan and what a launcher needs of it, the token as `<token>`.

    Raises:
        SpecError: the plan does not fit the cluster.
    """
    plan = make_plan(job, profile, indexed.shapes)
    plan = replace(plan, environment=_environment(profile, plan.ranks[1]), words=(*plan.words, *indexed.words))
    submission = Submission(
        root=root,
        name=job.name,
        token=SHOWN_TOKEN,
        profile=profile,
        nodes=plan.node_range,
        ranks_per_node=plan.ranks_per_node,
        code=code_for(job.method.name),
        corpora=tuple(corpus.url for corpus in job.data.corpora),
        bytes_per_rank=plan.memory.total_bytes,
        max_pixels=job.data.max_pixels,
    )
    return Prepared(job=job, profile=profile, cluster=cluster, plan=plan, submission=submission)


def counted(prepared: Prepared) -> Prepared:
    """The same, planned again with the lanes known, where this machine would start ranks that may be more."""
    plan, old = prepared.plan, prepared.submission
    if prepared.profile.launcher != "local" or plan.lanes is not None or plan.ranks_per_node == 1:
        return prepared
    new = planned(prepared.job, prepared.profile, prepared.cluster, old.root, count(prepared.job))
    return replace(prepared, plan=new.plan, submission=replace(new.submission, code=old.code))


def _environment(profile: ClusterProfile, ranks: int) -> dict[str, str]:
    """What the profile sets for every rank, and what the local launcher adds."""
    if profile.launcher != "local":
        return dict(profile.environment)
    return {**thread_environment(ranks, {**os.environ, **profile.environment}), **profile.environment}


def code_for(method: str) -> Snapshot:
    """Snapshot of this project, and of the plug-in that has the method.

    Raises:
        PreflightError: they are too large.
        SpecError: the plug-in's package cannot be found.
    """
    ours, plug = Path(gmml_cluster.__file__).parent, plug_in(method)
    return take(ours) if plug is None else take(ours, *plug.packages, metadata=plug.metadata)


def with_code_of(run: RunRoot, history: History, prepared: Prepared) -> Prepared:
    """The same with the code that the run was submitted with, and a word where another is installed here."""
    last, submission = history.submit, prepared.submission
    if last is None or last.code == submission.code.digest:
        return prepared
    code = Snapshot(last.code, run.code(last.code))
    cure = f"gmml resume {run.name} --code takes what is installed here, {submission.code.digest[:12]}"
    word = f"goes on with the run's own code, {last.code[:12]}; {cure}"
    plan = replace(prepared.plan, words=(*prepared.plan.words, word))
    return replace(prepared, plan=plan, submission=replace(submission, code=code))


def with_absolute_paths(job: JobSpec) -> JobSpec:
    """The job with the paths of its corpora made absolute, so that it can be resumed from any folder."""
    spec = dump(job)
    for corpus in spec["data"]["corpora"]:
        corpus["url"] = absolute(corpus["url"])
    return parse_job(spec)


def demand_begun(run: RunRoot, cut_off: bool) -> None:
    """Refuse a run whose log never opened.

    Raises:
        SpecError: it was cut off.
    """
    if cut_off:
        told = (
            "its log does not open; a submission of this name was cut off, or a removal, or one is under way elsewhere"
        )
        raise SpecError(Fault(run.url, f"{told}; gmml rm {run.url} deletes what is left; then submit again"))


def changes_of(run: RunRoot, new: dict[str, Any]) -> dict[str, Any]:
    """Fields outside the identity that differ from the run's spec: name -> [value in spec.yaml, value now].

    Raises:
        SpecError: the run has another identity; lists the fields that differ.
    """
    old = _spec(run)
    differ = differences(old, new)
    if differ:
        raise SpecError([_differs(run, field, *values) for field, values in differ.items()])
    return changeable(old, new)


def _differs(run: RunRoot, field: str, old: Any, new: Any) -> Fault:
    told = f"{shown(new)}, but the run {run.name!r} under {run.root} was submitted with {shown(old)}"
    return Fault(field, f"{told}; a run computes what it was submitted with; set it back or give another name")


def _spec(run: RunRoot) -> dict[str, Any]:
    return dump(run.job({}))
