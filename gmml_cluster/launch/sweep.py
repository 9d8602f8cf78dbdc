"""Sweeps: every run is checked before the first is submitted; then all are handed over, or resumed, at once.

A run of a sweep is a run as any other: it has its own name, log and job. The sweep is the list of them.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from gmml_cluster.errors import Fault, GmmlError, PreflightError, SpecError
from gmml_cluster.launch.prepare import Prepared, prepare
from gmml_cluster.launch.protocol import Queue
from gmml_cluster.launch.submit import (
    Asked,
    Ready,
    Submitted,
    ask,
    decide,
    decide_resume,
    record_job,
    take_back,
)
from gmml_cluster.run import protocol, sweeps
from gmml_cluster.run.discovery import is_run
from gmml_cluster.run.root import NAME, RunRoot, run_root
from gmml_cluster.spec.identity import identity
from gmml_cluster.spec.loading.compose import compose
from gmml_cluster.spec.loading.validate import dump, job_path, read_job
from gmml_cluster.spec.loading.yaml import walk
from gmml_cluster.spec.sweep import Grid, Member, grid, read_axes
from gmml_cluster.store.protocol import AlreadyExists

T = TypeVar("T")
_NAMED = 3


@dataclass(frozen=True)
class Sweep:
    """A sweep that may be submitted: nothing is touched yet.

    Attributes:
        grid: its name, and the runs as they were asked for.
        prepared: of each run.
        parallel: runs at work at once; None for as many as the launcher starts by itself.
    """

    grid: Grid
    prepared: tuple[Prepared, ...]
    parallel: int | None

    @property
    def root(self) -> str:
        """Folder or URL under which its runs lie."""
        return self.prepared[0].submission.root

    @property
    def at_once(self) -> str:
        """How many runs are at work at once, for people; empty where the launcher decides it."""
        if self.parallel is None and self.prepared[0].profile.launcher != "local":
            return ""
        return f", {self.parallel or 1} at once"


@dataclass(frozen=True)
class Launched:
    """What came of several submissions.

    Attributes:
        done: of the runs that were handed over, or that needed nothing.
        failed: run -> why it was not.
    """

    done: tuple[Submitted, ...]
    failed: Mapping[str, GmmlError]


def prepare_sweep(
    job: str,
    given: Sequence[str],
    *,
    cluster: str,
    overrides: Sequence[str] = (),
    parallel: int | None = None,
    take_counts: bool = False,
) -> Sweep:
    """Validate and plan every run of a sweep.

    Args:
        job: the job file, or the name of a packaged job.
        given: `FIELD=VALUE,VALUE` each.
        cluster: a profile's name or file.
        overrides: of all runs.
        parallel: runs at work at once.
        take_counts: as for `prepare`.

    Raises:
        SpecError: all faults of all runs; those that some have alone with these runs' names.
    """
    axes = read_axes(given, overrides)
    name, method = _base(job, overrides)
    made = grid(name, axes)
    calls = {
        member.name: partial(
            prepare,
            job,
            cluster=cluster,
            overrides=[*overrides, *_applied(member, method), f"name={member.name}"],
            take_counts=take_counts,
        )
        for member in made.members
    }
    prepared = _of_each(calls)
    _refuse_equal(prepared)
    queue = Queue(made.name, parallel)
    queued = [replace(each, submission=replace(each.submission, queue=queue)) for each in prepared.values()]
    return Sweep(made, tuple(queued), parallel)


def submit_sweep(sweep: Sweep, *, take_over: bool = False) -> Launched:
    """Submit its runs; of those that exist each as `submit` would: nothing is submitted twice.

    Raises:
        SpecError: all that keeps any of its runs from being submitted; then none is.
        LaunchError: the scheduler is out of reach.
    """
    if is_run(run_root(sweep.root, sweep.grid.name)):
        problem = f"a run under {sweep.root} has the name that the sweep would have"
        raise SpecError(Fault(sweep.grid.name, problem, "add name=... to the command: the sweep's name begins with it"))
    found = _of_each({each.job.name: partial(_decided, each, take_over) for each in sweep.prepared})

    def keep() -> None:
        runs = zip(sweep.grid.members, sweep.prepared, strict=True)
        entries = [sweeps.Entry(m.name, m.overrides, identity(dump(p.job))) for m, p in runs]
        sweeps.record(sweep.root, sweep.grid.name, entries)

    return _launch(list(found.values()), keep)


def resume_all(
    runs: Sequence[RunRoot],
    *,
    cluster: str | None = None,
    new_code: bool = False,
    take_over: bool = False,
    all_nodes: bool = False,
) -> Launched:
    """Continue several runs, each as `resume` would; one that cannot be resumed keeps no other from it."""
    found: list[Submitted | Ready] = []
    failed: dict[str, GmmlError] = {}
    for run in runs:
        try:
            found.append(
                decide_resume(run, cluster=cluster, new_code=new_code, take_over=take_over, all_nodes=all_nodes)
            )
        except GmmlError as error:
            failed[run.name] = error
    launched = _launch(found)
    return replace(launched, failed={**failed, **launched.failed})


def _base(job: str, overrides: Sequence[str]) -> tuple[str, str]:
    """Name and method of the job, which need not be valid without the swept values.

    Raises:
        SpecError: it has no name that a run can have.
    """
    tree = compose(job_path(job), overrides, [])
    name, method = (walk(tree, path) for path in (("name",), ("method", "name")))
    if name is None or not isinstance(name.value, str) or not NAME.fullmatch(name.value):
        return read_job(job, overrides)[0].name, ""
    return name.value, str(method.value) if method else ""


def _applied(member: Member, method: str) -> Iterator[str]:
    """A run's overrides; another method replaces the whole section, as options of one mean nothing to another."""
    for text in sorted(member.overrides, key=lambda text: not text.startswith("method.name=")):
        name = text.removeprefix("method.name=")
        yield text if name in (text, method) else f"method={{name: {name}}}"


def _refuse_equal(prepared: Mapping[str, Prepared]) -> None:
    """Refuse runs of which one spec is written in two ways, such as 1e-4 and 0.0001."""
    alike: dict[str, list[str]] = defaultdict(list)
    for name, each in prepared.items():
        alike[repr({**dump(each.job), "name": ""})].append(name)
    faults = [
        Fault(f"--sweep: {', '.join(names)}", "are the same run, written in several ways", "remove all values but one")
        for names in alike.values()
        if len(names) > 1
    ]
    if faults:
        raise SpecError(faults)


def _decided(prepared: Prepared, take_over: bool) -> Submitted | Ready:
    with prepared.locations.located_faults():
        return decide(prepared, take_over=take_over)


def _of_each(calls: Mapping[str, Callable[[], T]]) -> dict[str, T]:
    """What each call gives, by run.

    Raises:
        SpecError: some failed: all their faults, one that all runs have once, any other with the names of its runs.
    """
    results: dict[str, T] = {}
    errors: list[SpecError] = []
    runs_of: dict[Fault, list[str]] = defaultdict(list)
    for name, call in calls.items():
        try:
            results[name] = call()
        except SpecError as error:
            errors.append(error)
            for fault in dict.fromkeys(error.faults):
                runs_of[fault].append(name)
    if errors:
        kind = PreflightError if all(isinstance(error, PreflightError) for error in errors) else SpecError
        raise kind([_with_runs(fault, runs, of=len(calls)) for fault, runs in runs_of.items()])
    return results


def _with_runs(fault: Fault, runs: Sequence[str], *, of: int) -> Fault:
    if len(runs) == of:
        return fault
    further = f" and {len(runs) - _NAMED} more" if len(runs) > _NAMED else ""
    return replace(fault, where=f"{', '.join(runs[:_NAMED])}{further}: {fault.where}")


def _launch(found: Sequence[Submitted | Ready], keep: Callable[[], None] = lambda: None) -> Launched:
    """Append each `submit`, hand all jobs over at once and append each `queued`.

    Args:
        found: what was decided of each run.
        keep: called between the two, when all runs exist.
    """
    outcomes: list[Submitted | Asked] = []
    try:
        for each in found:
            outcomes.append(each if isinstance(each, Submitted) else _asked(each))
        keep()
        answers = _handed_over([each for each in outcomes if isinstance(each, Asked)])
    except BaseException as error:  # an interrupt too: no log may be left with a `submit` that nobody carries out
        for outcome in outcomes:
            if isinstance(outcome, Asked):
                _undo(outcome, error)
        raise
    done, failed = [], {}
    for outcome in outcomes:
        if isinstance(outcome, Submitted):
            done.append(outcome)
            continue
        try:
            done.append(_recorded(outcome, answers[outcome.submission.token]))
        except GmmlError as error:
            failed[outcome.run.name] = error
    return Launched(tuple(done), failed)


def _asked(ready: Ready) -> Submitted | Asked:
    try:
        return ask(ready)
    except AlreadyExists:  # another first submission of this run came in between
        again = _decided(ready.prepared, take_over=False)
        return again if isinstance(again, Submitted) else ask(again)


def _undo(asked: Asked, error: BaseException) -> None:
    """Record that the start failed, and remove a run that this submission created."""
    with suppress(GmmlError):
        message = f"{type(error).__name__}: {error}"
        protocol.start_failed(asked.run.log, asked.submission.token, message=message)
        take_back(asked)


def _handed_over(asked: Sequence[Asked]) -> dict[str, str | GmmlError]:
    """Token -> the job, or why it was not taken; by one call a launcher."""
    answers: dict[str, str | GmmlError] = {}
    of_launcher: dict[str, list[Asked]] = defaultdict(list)
    for each in asked:
        of_launcher[each.submission.profile.launcher].append(each)
    for group in of_launcher.values():
        submissions = [each.submission for each in group]
        taken = group[0].launcher.submit_all(submissions)
        answers |= zip((each.token for each in submissions), taken, strict=True)
    return answers


def _recorded(asked: Asked, answer: str | GmmlError) -> Submitted:
    def take() -> str:
        if isinstance(answer, GmmlError):
            raise answer
        return answer

    try:
        return asked.taken(record_job(asked.run, asked.launcher, asked.submission, take))
    except BaseException:
        take_back(asked)
        raise
