"""From a job file to a job: validate, plan, preflight, create the run, append `submit`, launch, append `queued`.

What is refused on the way leaves nothing behind.
"""

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import gmml_cluster
from gmml_cluster import __version__
from gmml_cluster.errors import Fault, PreflightError, SpecError, StorageError
from gmml_cluster.launch.forks import with_source
from gmml_cluster.launch.indexed import Indexed, count, look_up, miscounted
from gmml_cluster.launch.jobs import is_busy, poll
from gmml_cluster.launch.launcher import Launcher, Submission, launcher_named
from gmml_cluster.launch.preflight import preflight
from gmml_cluster.launch.snapshot import Snapshot, take
from gmml_cluster.launch.supervisor import thread_environment
from gmml_cluster.plan.plan import Plan, make_plan
from gmml_cluster.run import protocol
from gmml_cluster.run.history import History
from gmml_cluster.run.root import (
    SPEC,
    RunRoot,
    absolute,
    code_name,
    create_run,
    is_run,
    note_root,
    remove_run,
    run_root,
)
from gmml_cluster.spec.cluster import ClusterProfile
from gmml_cluster.spec.identity import changeable, differences, identity
from gmml_cluster.spec.job import JobSpec
from gmml_cluster.spec.load import dump, parse_job, read_job, read_profile, to_yaml
from gmml_cluster.spec.places import Places
from gmml_cluster.spec.plugins import plug_in
from gmml_cluster.spec.yaml import shown

SHOWN_TOKEN = "<token>"
WITHDRAW_S = 30.0
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
    places: Places = field(default_factory=Places)

    @property
    def script(self) -> str:
        """What would be handed over, the token shown as `<token>`.

        Raises:
            PreflightError: the launcher can make none of this profile.
        """
        with self.places.told():
            return launcher_named(self.profile.launcher).script(self.submission)


Action = Literal["submitted", "resumed", "already", "stopping", "finished"]


@dataclass(frozen=True)
class Outcome:
    """What came of a submission.

    Attributes:
        action: `submitted` (a new run), `resumed` (another attempt of one), `already` (a job of it is queued or
            lives), `stopping` (the same, and it was cancelled) or `finished` (nothing is left to do).
        job: the launcher's id; empty where there is none.
        changed: fields outside the identity that hold from now on: name -> [value in spec.yaml, value now].
    """

    run: RunRoot
    action: Action
    job: str
    changed: Mapping[str, Any]


def prepare(path: str, *, cluster: str, overrides: Sequence[str] = ()) -> Prepared:
    """Validate and plan a job file.

    Raises:
        SpecError: all faults of the job file and the profile, or else of `init`, or else of the plan, of numbers that
            an index contradicts, and of a name that another run has.
        PreflightError: this version has no launcher for the profile.
    """
    (job, job_tree), (profile, profile_tree) = _both(lambda: read_job(path, overrides), lambda: read_profile(cluster))
    job = with_absolute_paths(job)
    places = Places(job_tree, profile_tree, tuple(corpus.url for corpus in job.data.corpora))
    root = absolute(profile.root)
    with places.told():
        indexed = _look_up(job, profile, root)
        job = with_source(job, root)
        made, (history, words) = _both(
            lambda: _prepared(job, profile, cluster, root, indexed), lambda: _compared(job, root, indexed)
        )
        if history.submit is not None:
            made = _with_code_of(run_root(root, job.name), history, made)
        return replace(made, plan=replace(made.plan, words=(*made.plan.words, *words)), places=places)


def _look_up(job: JobSpec, profile: ClusterProfile, root: str) -> Indexed:
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
            _changes(run, dump(job))
        else:
            _demand_begun(run, is_run(run))
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


def _prepared(job: JobSpec, profile: ClusterProfile, cluster: str, root: str, indexed: Indexed) -> Prepared:
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


def _counted(prepared: Prepared) -> Prepared:
    """The same, planned again with the lanes known, where this machine would start ranks that may be more."""
    plan, old = prepared.plan, prepared.submission
    if prepared.profile.launcher != "local" or plan.lanes is not None or plan.ranks_per_node == 1:
        return prepared
    new = _prepared(prepared.job, prepared.profile, prepared.cluster, old.root, count(prepared.job))
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


def with_absolute_paths(job: JobSpec) -> JobSpec:
    """The job with the paths of its corpora made absolute, so that it can be resumed from any folder."""
    spec = dump(job)
    for corpus in spec["data"]["corpora"]:
        corpus["url"] = absolute(corpus["url"])
    return parse_job(spec)


def submit(prepared: Prepared, *, take_over: bool = False) -> Outcome:
    """Submit a new run, or go on with the one of this name and identity. A failure leaves nothing behind.

    Args:
        take_over: submit anew although a job of the run is queued or lives; its attempt is then fenced.

    Raises:
        SpecError: a run of this name has another identity; lists the fields that differ.
        PreflightError: all that would stop the run.
        LaunchError: the scheduler refused, or is out of reach.
    """
    with prepared.places.told():
        return _submit(prepared, take_over)


def _submit(prepared: Prepared, take_over: bool) -> Outcome:
    run = run_root(prepared.submission.root, prepared.job.name)
    history = run.log.refresh()
    if history.run:
        changed = _changes(run, dump(prepared.job))
        return _go_on(run, history, prepared, changed, take_over=take_over, new_code=False)
    _demand_begun(run, is_run(run))
    _refuse(preflight(prepared.submission))
    prepared = _counted(prepared)
    run = create_run(run.root, run.name, _files(prepared), _opening(prepared))
    try:
        note_root(run.root)
        job = _launch(run, prepared, {}, run.log.refresh())
    except BaseException:
        remove_run(run)
        raise
    return _outcome(run, "submitted", job, {})


def resume(run: RunRoot, *, cluster: str | None = None, new_code: bool = False, take_over: bool = False) -> Outcome:
    """Go on with a run from its youngest checkpoint, with the changes that its last submit made; lifts a stop.

    Args:
        cluster: profile; the last submit's by default. The root stays where the run was found.
        new_code: run the code that is installed here instead of the run's.
    """
    history = run.log.refresh()
    _demand_begun(run, not history.run)
    last = history.submit
    changed = dict(last.changed) if last else {}
    known = cluster or (str(last.bounds["cluster"]) if last else "local")
    job = run.job(changed)
    profile, tree = read_profile(known)
    with Places(profile=tree, origin=f"--cluster {known}").told():
        prepared = _prepared(job, profile, known, run.root, _look_up(job, profile, run.root))
        return _go_on(run, history, prepared, changed, take_over=take_over, new_code=new_code)


def _go_on(
    run: RunRoot, history: History, prepared: Prepared, changed: Mapping[str, Any], *, take_over: bool, new_code: bool
) -> Outcome:
    last = history.submit
    job = last.job or "" if last else ""
    if history.finished and _length(changed) == _length(last.changed if last else {}):
        return Outcome(run, "finished", job, {})
    if not take_over and is_busy(history, poll({run.name: history})):
        return Outcome(run, "already" if history.stopped is None else "stopping", job, {})
    if not new_code:
        prepared = _with_code_of(run, history, prepared)
    _refuse(preflight(prepared.submission))
    prepared = _counted(prepared)
    code = prepared.submission.code
    run.store.put(code_name(code.digest), code.data)
    return _outcome(run, "resumed", _launch(run, prepared, changed, history), changed)


def _with_code_of(run: RunRoot, history: History, prepared: Prepared) -> Prepared:
    """The same with the code that the run was submitted with, and a word where another is installed here."""
    last, submission = history.submit, prepared.submission
    if last is None or last.code == submission.code.digest:
        return prepared
    code = Snapshot(last.code, run.store.get(code_name(last.code)))
    cure = f"gmml resume {run.name} --code takes what is installed here, {submission.code.digest[:12]}"
    word = f"goes on with the run's own code, {last.code[:12]}; {cure}"
    plan = replace(prepared.plan, words=(*prepared.plan.words, word))
    return replace(prepared, plan=plan, submission=replace(submission, code=code))


def _length(changed: Mapping[str, Any]) -> dict[str, Any]:
    """The changes that let a run grow."""
    return {name: values for name, values in changed.items() if name.split(".")[0] == "run"}


def _demand_begun(run: RunRoot, cut_off: bool) -> None:
    if cut_off:
        told = (
            "its log does not open; a submission of this name was cut off, or a removal, or one is under way elsewhere"
        )
        raise SpecError(Fault(run.url, f"{told}; gmml rm {run.url} deletes what is left; then submit again"))


def _outcome(run: RunRoot, action: Action, job: str | None, changed: Mapping[str, Any]) -> Outcome:
    """What came of a launch; without a job another's submit came first."""
    if job is not None:
        return Outcome(run, action, job, changed)
    submit = run.log.refresh().submit
    return Outcome(run, "already", submit.job or "" if submit else "", {})


def _launch(run: RunRoot, prepared: Prepared, changed: Mapping[str, Any], seen: History) -> str | None:
    """The job's id; None where another submit stands than the one that was seen."""
    launcher, submission = prepared.profile.launcher, prepared.submission
    nodes = submission.nodes
    asked = {"nodes": [nodes.least, nodes.most], "ranks_per_node": submission.ranks_per_node}
    bounds = {"cluster": _lasting(prepared.cluster), **asked, **_job_folder(launcher, submission)}
    code = submission.code.digest
    token = protocol.submit(run.log, launcher=launcher, code=code, bounds=bounds, changed=changed, seen=seen)
    if token is None:
        return None
    return _hand_over(run, launcher_named(launcher), replace(submission, root=run.root, token=token))


def _job_folder(launcher: str, submission: Submission) -> dict[str, str]:
    """Where a reader finds the scheduler's own files."""
    from gmml_cluster.launch.batch import job_folder

    return {"folder": str(job_folder(submission))} if launcher == "slurm" else {}


def _hand_over(run: RunRoot, launcher: Launcher, submission: Submission) -> str:
    job = None
    try:
        job = launcher.submit(submission)
        protocol.queued(run.log, submission.token, job)
    except BaseException as error:
        if job is not None:
            _withdraw(launcher, run, job)
        protocol.start_failed(run.log, submission.token, message=f"{type(error).__name__}: {error}")
        raise
    return job


def _withdraw(launcher: Launcher, run: RunRoot, job: str) -> None:
    """Take back a job that no log names, and wait until it no longer touches the run."""
    launcher.cancel(job)
    deadline = time.monotonic() + WITHDRAW_S
    while launcher.poll({job: run.name})[job] != "gone" and time.monotonic() < deadline:
        time.sleep(0.2)


def _lasting(cluster: str) -> str:
    """A profile's name as it is, the path of one made absolute."""
    return str(Path(cluster).absolute()) if Path(cluster).is_file() else cluster


def _refuse(faults: list[Fault]) -> None:
    if faults:
        raise PreflightError(faults)


def _files(prepared: Prepared) -> dict[str, bytes]:
    code = prepared.submission.code
    return {SPEC: to_yaml(prepared.job).encode(), code_name(code.digest): code.data}


def _opening(prepared: Prepared) -> dict[str, Any]:
    digest = identity(dump(prepared.job))
    versions = {"gmml_cluster": __version__, "python": platform.python_version()}
    return {"spec": digest, "code": prepared.submission.code.digest, "versions": versions}


def _spec(run: RunRoot) -> dict[str, Any]:
    return dump(run.job({}))


def _changes(run: RunRoot, new: dict[str, Any]) -> dict[str, Any]:
    old = _spec(run)
    differ = differences(old, new)
    if differ:
        raise SpecError([_differs(run, field, *values) for field, values in differ.items()])
    return changeable(old, new)


def _differs(run: RunRoot, field: str, old: Any, new: Any) -> Fault:
    told = f"{shown(new)}, but the run {run.name!r} under {run.root} was submitted with {shown(old)}"
    return Fault(field, f"{told}; a run computes what it was submitted with; set it back or give another name")
