"""From what was prepared to a job: preflight, create the run, append `submit`, launch, append `queued`.

What is refused on the way leaves nothing behind.
"""

import platform
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from gmml_cluster import __version__
from gmml_cluster.errors import Fault, Fenced, PreflightError, SpecError, StorageError
from gmml_cluster.launch.code import code_of_run
from gmml_cluster.launch.evaluation import refuse_evaluation
from gmml_cluster.launch.existing import changes_of, opened
from gmml_cluster.launch.indexed import look_up
from gmml_cluster.launch.jobs import is_busy, poll_one
from gmml_cluster.launch.preflight import preflight
from gmml_cluster.launch.prepare import Prepared, plan_submission, profile_named, with_lanes_counted
from gmml_cluster.launch.protocol import Launcher, Submission
from gmml_cluster.launch.registry import launcher_named
from gmml_cluster.run import protocol
from gmml_cluster.run.discovery import note_root
from gmml_cluster.run.history import History
from gmml_cluster.run.location import demand_in_place, misplaced
from gmml_cluster.run.notice import too_short
from gmml_cluster.run.root import SPEC, RunRoot, code_name, create_run, remove_run, run_root, withdraw
from gmml_cluster.spec.identity import identity
from gmml_cluster.spec.loading.locations import Locations
from gmml_cluster.spec.loading.validate import dump, to_yaml
from gmml_cluster.store.protocol import AlreadyExists

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
        notes: what the plan found worth knowing, such as what each corpus holds; empty where nothing was done.
    """

    run: RunRoot
    action: Action
    job: str
    changed: Mapping[str, Any]
    notes: tuple[str, ...] = ()


def submit(prepared: Prepared, *, take_over: bool = False) -> Submitted:
    """Submit a new run, or continue the one of this name and identity. A failure leaves nothing behind.

    Args:
        take_over: submit again although a job of the run is queued or lives; its attempt is then fenced.

    Raises:
        SpecError: a run of this name has another identity; lists the fields that differ.
        PreflightError: all that would stop the run, or make its evaluations fail.
        LaunchError: the scheduler refused, or is out of reach.
    """
    with prepared.locations.located_faults():
        # not for `resume`: a corpus of scores that is gone by then must not keep a run from its next step
        refuse_evaluation(prepared.job, prepared.submission.root)
        run = run_root(prepared.submission.root, prepared.job.name)
        history = opened(run)
        if not history.run:
            try:
                return _begin(run, prepared)
            except AlreadyExists:  # another first submission of this name came in between
                history = opened(run)
        changed = changes_of(run, dump(prepared.job))
        return _continue(run, history, prepared, changed, take_over=take_over, new_code=False)


def resume(
    run: RunRoot,
    *,
    cluster: str | None = None,
    new_code: bool = False,
    take_over: bool = False,
    all_nodes: bool = False,
) -> Submitted:
    """Continue a run from its latest checkpoint, with the changes that its last submit made; lifts a stop.

    Args:
        run: where it was found, which need not be the profile's root.
        cluster: profile; the last submit's by default.
        new_code: run the code that is installed here instead of the run's.
        take_over: as for `submit`.
        all_nodes: use those again that the run avoids because they failed.
    """
    history = opened(run)
    last = history.submit
    changed = dict(last.changed) if last else {}
    before = str(last.bounds["cluster"]) if last else "local"
    known = before if cluster is None else cluster
    job = run.job(changed)
    profile, tree = profile_named(known)
    with Locations(profile=tree, origin=f"--cluster {known}").located_faults():
        launcher_named(profile.launcher)  # asked first: no store is read for a launcher that does not exist
        submission = plan_submission(job, profile, run.root, look_up(job, run.root))
        prepared = Prepared(job, known, submission, all_nodes=all_nodes)
        return _continue(run, history, prepared, changed, take_over=take_over, new_code=new_code)


def _begin(run: RunRoot, prepared: Prepared) -> Submitted:
    """A run that does not exist yet: check, create, launch; what fails after the creation removes it again.

    A run that somebody else relies on by then stays: the scheduler may have taken the job though its answer was lost.
    """
    prepared = _checked(prepared)
    code, spec = prepared.submission.code, dump(prepared.job)
    files = {SPEC: to_yaml(prepared.job).encode(), code_name(code.digest): code.data}
    versions = {"gmml_cluster": __version__, "python": platform.python_version()}
    opening = {"spec": identity(spec), "code": code.digest, "versions": versions}
    run = create_run(run.root, run.name, files, opening)
    try:
        note_root(run.root)
        return _launch(run, prepared, "submitted", {}, History())
    except BaseException:
        with suppress(Fenced, StorageError):
            if withdraw(run):
                remove_run(run)
        raise


def _continue(
    run: RunRoot, history: History, prepared: Prepared, changed: Mapping[str, Any], *, take_over: bool, new_code: bool
) -> Submitted:
    """A run that exists: nothing where it has finished or is busy, else check and launch another job of it."""
    demand_in_place(run, moved=True)
    last = history.submit
    job = last.job or "" if last else ""
    if history.finished and _length(changed) == _length(last.changed if last else {}):
        return Submitted(run, "finished", job, {})
    jobs = poll_one(run.name, history)
    if is_busy(history, jobs) or jobs.lingering:
        _refuse_moved(run, job)
    if not take_over and is_busy(history, jobs):
        return Submitted(run, "already" if history.stopped is None else "stopping", job, {})
    if last is not None and not new_code:
        code, _ = code_of_run(run, last, prepared.submission.code)
        prepared = replace(prepared, submission=replace(prepared.submission, code=code))
    prepared = _checked(prepared)
    code = prepared.submission.code
    run.store.put(code_name(code.digest), code.data)
    return _launch(run, prepared, "resumed", changed, history)


def _refuse_moved(run: RunRoot, job: str) -> None:
    """Refuse to continue a run that was moved while a job works on it at its old location.

    Raises:
        SpecError: it was moved.
    """
    found = misplaced(run)
    if found is not None:
        problem = f"was moved or renamed while job {job} works on it at {found.recorded}"
        raise SpecError(Fault(run.url, problem, "move it back, or wait until that job is gone"))


def _length(changed: Mapping[str, Any]) -> dict[str, Any]:
    """The changes that let a run grow."""
    return {name: values for name, values in changed.items() if name.split(".")[0] == "run"}


def _checked(prepared: Prepared) -> Prepared:
    """The submission after its preflight, with no more ranks than lanes.

    Raises:
        PreflightError: all that would stop the run.
    """
    faults = preflight(prepared.submission, prepared.job.data, prepared.job.notify)
    if faults:
        raise PreflightError(faults)
    return with_lanes_counted(prepared)


def _launch(run: RunRoot, prepared: Prepared, action: Action, changed: Mapping[str, Any], seen: History) -> Submitted:
    """Append `submit`, hand the job over and append `queued`; `already` where another submit came since `seen`."""
    excluded = () if prepared.all_nodes else tuple(seen.excluded)
    # a renamed run's spec has the old name
    submission = replace(prepared.submission, root=run.root, name=run.name, excluded=excluded)
    launcher = launcher_named(submission.profile.launcher)
    bounds = {**_bounds(prepared), **launcher.bounds(submission)}
    token = protocol.submit(
        run.log,
        launcher=submission.profile.launcher,
        code=submission.code.digest,
        bounds=bounds,
        changed=changed,
        seen=seen,
    )
    if token is None:
        submit = run.log.refresh().submit
        return Submitted(run, "already", submit.job or "" if submit else "", {})
    job = hand_over(run, launcher, replace(submission, token=token))
    notes = (*prepared.plan.notes, *too_short(seen, bounds.get("notices", {})))
    return Submitted(run, action, job, changed, notes)


def _bounds(prepared: Prepared) -> dict[str, Any]:
    plan, cluster = prepared.plan, prepared.cluster
    lasting = str(Path(cluster).absolute()) if Path(cluster).is_file() else cluster  # `gmml resume` runs elsewhere
    retries = prepared.job.retries
    budget = {name: getattr(retries, name) for name in ("failures", "outages", "errors")}
    return {
        "cluster": lasting,
        "nodes": list(plan.nodes),
        "ranks_per_node": plan.ranks_per_node,
        "retries": {**budget, "longest_pause_s": retries.longest_pause},
        **({"all_nodes": True} if prepared.all_nodes else {}),
    }


def hand_over(run: RunRoot, launcher: Launcher, submission: Submission) -> str:
    """Launch and append `queued`; a job that the log cannot name is taken back, and the start recorded as failed."""
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
    while launcher.poll({job: run.name})[job].state != "gone" and time.monotonic() < deadline:
        time.sleep(0.2)
