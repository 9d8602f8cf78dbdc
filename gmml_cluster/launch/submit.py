"""From what was prepared to a job: preflight, create the run, append `submit`, launch, append `queued`.

What is refused on the way leaves nothing behind.
"""

import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from gmml_cluster import __version__
from gmml_cluster.errors import Fault, PreflightError
from gmml_cluster.launch.jobs import is_busy, poll
from gmml_cluster.launch.preflight import preflight
from gmml_cluster.launch.prepare import (
    Prepared,
    changes_of,
    counted,
    demand_begun,
    known_by_indexes,
    planned,
    with_code_of,
)
from gmml_cluster.launch.protocol import Launcher, Submission, launcher_named
from gmml_cluster.run import protocol
from gmml_cluster.run.discovery import is_run, note_root
from gmml_cluster.run.history import History
from gmml_cluster.run.root import (
    SPEC,
    RunRoot,
    code_name,
    create_run,
    remove_run,
    run_root,
)
from gmml_cluster.spec.identity import identity
from gmml_cluster.spec.loading.locations import Locations
from gmml_cluster.spec.loading.validate import dump, read_profile, to_yaml

WITHDRAW_S = 30.0


Action = Literal["submitted", "resumed", "already", "stopping", "finished"]


@dataclass(frozen=True)
class Submitted:
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


def submit(prepared: Prepared, *, take_over: bool = False) -> Submitted:
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


def _submit(prepared: Prepared, take_over: bool) -> Submitted:
    run = run_root(prepared.submission.root, prepared.job.name)
    history = run.log.refresh()
    if history.run:
        changed = changes_of(run, dump(prepared.job))
        return _go_on(run, history, prepared, changed, take_over=take_over, new_code=False)
    demand_begun(run, is_run(run))
    _refuse(preflight(prepared.submission))
    prepared = counted(prepared)
    run = create_run(run.root, run.name, _files(prepared), _opening(prepared))
    try:
        note_root(run.root)
        job = _launch(run, prepared, {}, run.log.refresh())
    except BaseException:
        remove_run(run)
        raise
    return _outcome(run, "submitted", job, {})


def resume(run: RunRoot, *, cluster: str | None = None, new_code: bool = False, take_over: bool = False) -> Submitted:
    """Go on with a run from its youngest checkpoint, with the changes that its last submit made; lifts a stop.

    Args:
        cluster: profile; the last submit's by default. The root stays where the run was found.
        new_code: run the code that is installed here instead of the run's.
    """
    history = run.log.refresh()
    demand_begun(run, not history.run)
    last = history.submit
    changed = dict(last.changed) if last else {}
    known = cluster or (str(last.bounds["cluster"]) if last else "local")
    job = run.job(changed)
    profile, tree = read_profile(known)
    with Locations(profile=tree, origin=f"--cluster {known}").told():
        prepared = planned(job, profile, known, run.root, known_by_indexes(job, profile, run.root))
        return _go_on(run, history, prepared, changed, take_over=take_over, new_code=new_code)


def _go_on(
    run: RunRoot, history: History, prepared: Prepared, changed: Mapping[str, Any], *, take_over: bool, new_code: bool
) -> Submitted:
    last = history.submit
    job = last.job or "" if last else ""
    if history.finished and _length(changed) == _length(last.changed if last else {}):
        return Submitted(run, "finished", job, {})
    if not take_over and is_busy(history, poll({run.name: history})):
        return Submitted(run, "already" if history.stopped is None else "stopping", job, {})
    if not new_code:
        prepared = with_code_of(run, history, prepared)
    _refuse(preflight(prepared.submission))
    prepared = counted(prepared)
    code = prepared.submission.code
    run.store.put(code_name(code.digest), code.data)
    return _outcome(run, "resumed", _launch(run, prepared, changed, history), changed)


def _length(changed: Mapping[str, Any]) -> dict[str, Any]:
    """The changes that let a run grow."""
    return {name: values for name, values in changed.items() if name.split(".")[0] == "run"}


def _outcome(run: RunRoot, action: Action, job: str | None, changed: Mapping[str, Any]) -> Submitted:
    """What came of a launch; without a job another's submit came first."""
    if job is not None:
        return Submitted(run, action, job, changed)
    submit = run.log.refresh().submit
    return Submitted(run, "already", submit.job or "" if submit else "", {})


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
    from gmml_cluster.launch.slurm.batch import job_folder

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
