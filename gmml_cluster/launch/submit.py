"""From what was prepared to a job: preflight, create the run, append `submit`, launch, append `queued`.

What is refused on the way leaves nothing behind.
"""

import platform
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from gmml_cluster import __version__
from gmml_cluster.errors import Fault, Fenced, PreflightError, SpecError, StorageError
from gmml_cluster.launch.checks.evaluation import refuse_evaluation
from gmml_cluster.launch.checks.existing import changes_of, opened
from gmml_cluster.launch.checks.indexed import look_up
from gmml_cluster.launch.checks.preflight import preflight
from gmml_cluster.launch.code import code_of_run
from gmml_cluster.launch.jobs import is_busy, poll_one
from gmml_cluster.launch.prepare import Prepared, plan_submission, profile_named, with_lanes_counted
from gmml_cluster.launch.protocol import Launcher, Queue, Submission
from gmml_cluster.launch.registry import launcher_named
from gmml_cluster.run import protocol
from gmml_cluster.run.finding.discovery import note_root
from gmml_cluster.run.finding.location import demand_in_place, misplaced
from gmml_cluster.run.history import History
from gmml_cluster.run.root import SPEC, RunRoot, code_name, create_run, remove_run, run_root, withdraw
from gmml_cluster.run.saving.notice import too_short
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


@dataclass(frozen=True)
class Ready:
    """A submission that passed every check; nothing is written yet.

    Attributes:
        prepared: as planned after the checks.
        changed: as in `Submitted`.
        seen: the history by which it was decided; empty for a run that does not exist yet.
    """

    run: RunRoot
    prepared: Prepared
    changed: Mapping[str, Any]
    seen: History

    @property
    def is_new(self) -> bool:
        """Whether the run does not exist yet."""
        return not self.seen.run


@dataclass(frozen=True)
class Asked:
    """A run whose log has the `submit`, and what is to be handed over for it.

    Attributes:
        submission: with the token.
        notices: `bounds` of the `submit` on notices.
    """

    ready: Ready
    run: RunRoot
    launcher: Launcher
    submission: Submission
    notices: Mapping[str, int]

    def taken(self, job: str) -> Submitted:
        """The outcome once a launcher has taken it."""
        ready = self.ready
        notes = (*ready.prepared.plan.notes, *too_short(ready.seen, self.notices))
        return Submitted(self.run, "submitted" if ready.is_new else "resumed", job, ready.changed, notes)


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
        try:
            return _launched(decide(prepared, take_over=take_over))
        except AlreadyExists:  # another first submission of this name came in between
            return _launched(decide(prepared, take_over=take_over))


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
    return _launched(decide_resume(run, cluster=cluster, new_code=new_code, take_over=take_over, all_nodes=all_nodes))


def decide(prepared: Prepared, *, take_over: bool) -> Submitted | Ready:
    """What `submit` is to do: nothing, with the reason, or to launch. Checks everything and writes nothing."""
    # not for `resume`: a corpus of scores that is gone by then must not keep a run from its next step
    refuse_evaluation(prepared.job, prepared.submission.root)
    run = run_root(prepared.submission.root, prepared.job.name)
    history = opened(run)
    if not history.run:
        return Ready(run, _checked(prepared), {}, History())
    changed = changes_of(run, dump(prepared.job))
    return _decide_existing(run, history, prepared, changed, take_over=take_over, new_code=False)


def decide_resume(
    run: RunRoot, *, cluster: str | None, new_code: bool, take_over: bool, all_nodes: bool
) -> Submitted | Ready:
    """What `resume` is to do, as `decide` says it of `submit`; a run of a sweep goes back into its queue."""
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
        queue = last.bounds.get("queue") if last else None
        submission = replace(submission, queue=Queue(**queue) if queue else None)
        prepared = Prepared(job, known, submission, all_nodes=all_nodes)
        return _decide_existing(run, history, prepared, changed, take_over=take_over, new_code=new_code)


def _decide_existing(
    run: RunRoot, history: History, prepared: Prepared, changed: Mapping[str, Any], *, take_over: bool, new_code: bool
) -> Submitted | Ready:
    """Of a run that exists: nothing where it has finished or is busy, else another job of it."""
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
    return Ready(run, _checked(prepared), changed, history)


def _launched(found: Submitted | Ready) -> Submitted:
    """Append `submit`, hand the job over and append `queued`."""
    if isinstance(found, Submitted):
        return found
    asked = ask(found)
    if isinstance(asked, Submitted):
        return asked
    try:
        return asked.taken(hand_over(asked.run, asked.launcher, asked.submission))
    except BaseException:
        take_back(asked)
        raise


def ask(ready: Ready) -> Submitted | Asked:
    """Create a run that does not exist yet, then append `submit`; `already` where another submit came meanwhile.

    Raises:
        AlreadyExists: another first submission of this name came in between.
    """
    if not ready.is_new:
        code = ready.prepared.submission.code
        ready.run.store.put(code_name(code.digest), code.data)
        return _append_submit(ready, ready.run)
    run = _created(ready)
    try:
        note_root(run.root)
        return _append_submit(ready, run)
    except BaseException:
        _remove(run)
        raise


def _created(ready: Ready) -> RunRoot:
    prepared = ready.prepared
    code, spec = prepared.submission.code, dump(prepared.job)
    files = {SPEC: to_yaml(prepared.job).encode(), code_name(code.digest): code.data}
    versions = {"gmml_cluster": __version__, "python": platform.python_version()}
    opening = {"spec": identity(spec), "code": code.digest, "versions": versions}
    return create_run(ready.run.root, ready.run.name, files, opening)


def take_back(asked: Asked) -> None:
    """Remove the run of a submission that failed if it created it; one that existed before stays."""
    if asked.ready.is_new:
        _remove(asked.run)


def _remove(run: RunRoot) -> None:
    """Remove a new run whose submission failed.

    A run that somebody else relies on by then stays: the scheduler may have taken the job though its answer was lost.
    """
    with suppress(Fenced, StorageError):
        if withdraw(run):
            remove_run(run)


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


def _append_submit(ready: Ready, run: RunRoot) -> Submitted | Asked:
    """Append `submit`; `already` where another submit came since it was decided."""
    prepared = ready.prepared
    excluded = () if prepared.all_nodes else tuple(ready.seen.excluded)
    # a renamed run's spec has the old name
    submission = replace(prepared.submission, root=run.root, name=run.name, excluded=excluded)
    launcher = launcher_named(submission.profile.launcher)
    bounds = {**_bounds(prepared), **launcher.bounds(submission)}
    token = protocol.submit(
        run.log,
        launcher=submission.profile.launcher,
        code=submission.code.digest,
        bounds=bounds,
        changed=ready.changed,
        seen=ready.seen,
    )
    if token is None:
        submit = run.log.refresh().submit
        return Submitted(run, "already", submit.job or "" if submit else "", {})
    return Asked(ready, run, launcher, replace(submission, token=token), bounds.get("notices", {}))


def _bounds(prepared: Prepared) -> dict[str, Any]:
    plan, cluster = prepared.plan, prepared.cluster
    lasting = str(Path(cluster).absolute()) if Path(cluster).is_file() else cluster  # `gmml resume` runs elsewhere
    retries, queue = prepared.job.retries, prepared.submission.queue
    budget = {name: getattr(retries, name) for name in ("failures", "outages", "errors")}
    return {
        "cluster": lasting,
        "nodes": list(plan.nodes),
        "ranks_per_node": plan.ranks_per_node,
        "retries": {**budget, "longest_pause_s": retries.longest_pause},
        **({"all_nodes": True} if prepared.all_nodes else {}),
        **({"queue": asdict(queue)} if queue is not None else {}),
    }


def hand_over(run: RunRoot, launcher: Launcher, submission: Submission) -> str:
    """Launch and append `queued`; a job that the log cannot name is taken back, and the start recorded as failed."""
    return record_job(run, launcher, submission, lambda: launcher.submit(submission))


def record_job(run: RunRoot, launcher: Launcher, submission: Submission, take: Callable[[], str]) -> str:
    """Append `queued` with the job that `take` gives, or that the start failed; the job."""
    job = None
    try:
        job = take()
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
