"""Sweeps: every run is checked before the first is submitted; then all are handed over, or resumed, at once.

A run of a sweep is a run as any other: it has its own name, log and job. The sweep is the list of them.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
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
from gmml_cluster.run import protocol
from gmml_cluster.run.finding import sweeps
from gmml_cluster.run.finding.discovery import is_run
from gmml_cluster.run.root import NAME, RunRoot, run_root
from gmml_cluster.spec.identity import identity
from gmml_cluster.spec.loading.compose import compose
from gmml_cluster.spec.loading.validate import dump, job_path, read_job
from gmml_cluster.spec.loading.yaml import walk
from gmml_cluster.spec.sweep import Grid, SweepMember, grid, read_axes
from gmml_cluster.store.protocol import AlreadyExists

T = TypeVar("T")
_NAMED = 3
_METHOD = "method.name="


@dataclass(frozen=True)
class PreparedSweep:
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
) -> PreparedSweep:
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
            overrides=[*_overrides_of(member, overrides, method), f"name={member.name}"],
            take_counts=take_counts,
        )
        for member in made.members
    }
    prepared = _of_each(calls)
    _refuse_equal(prepared)
    queue = Queue(made.name, parallel)
    queued = [replace(each, submission=replace(each.submission, queue=queue)) for each in prepared.values()]
    return PreparedSweep(made, tuple(queued), parallel)


def submit_sweep(sweep: PreparedSweep, *, take_over: bool = False) -> Launched:
    """Submit its runs; of those that exist each as `submit` would: nothing is submitted twice.

    Raises:
        SpecError: all that keeps any of its runs from being submitted; then none is.
        LaunchError: the scheduler is out of reach.
    """
    if is_run(run_root(sweep.root, sweep.grid.name)):
        problem = f"a run under {sweep.root} has the name that the sweep would have"
        raise SpecError(Fault(sweep.grid.name, problem, "add name=... to the command: the sweep's name begins with it"))
    found = _of_each({each.job.name: partial(_decided, each, take_over) for each in sweep.prepared})
    runs = zip(sweep.grid.members, sweep.prepared, strict=True)
    entries = [sweeps.SweepRun(m.name, m.overrides, identity(dump(p.job))) for m, p in runs]
    outcomes: list[Submitted | Asked] = []
    with _undoing(outcomes):
        for each in found.values():
            outcomes.append(_asked(each))
        sweeps.record(sweep.root, sweep.grid.name, entries)
    return _launch(outcomes)


def resume_all(
    runs: Sequence[RunRoot],
    *,
    cluster: str | None = None,
    new_code: bool = False,
    take_over: bool = False,
    all_nodes: bool = False,
) -> Launched:
    """Continue several runs, each as `resume` would; one that cannot be resumed keeps no other from it."""
    decided = partial(decide_resume, cluster=cluster, new_code=new_code, take_over=take_over, all_nodes=all_nodes)
    outcomes: list[Submitted | Asked] = []
    failed: dict[str, GmmlError] = {}
    with _undoing(outcomes):
        for run in runs:
            try:
                outcomes.append(_asked(decided(run)))
            except GmmlError as error:
                failed[run.name] = error
    launched = _launch(outcomes)
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


def _overrides_of(member: SweepMember, overrides: Sequence[str], method: str) -> list[str]:
    """What makes a run of the job: overrides of all runs and its own.

    Another method than the job's replaces the whole section, as options of one mean nothing to another. Options that
    the command gives to all runs are laid on top, so they are kept, or refused by name.
    """
    name = next((text.removeprefix(_METHOD) for text in member.overrides if text.startswith(_METHOD)), method)
    if name == method:
        return [*overrides, *member.overrides]
    options = [text for text in overrides if text.startswith("method.")]
    others = [text for text in overrides if text not in options]
    own = [text for text in member.overrides if not text.startswith(_METHOD)]
    return [*others, f"method={{name: {name}}}", *options, *own]


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


@contextmanager
def _undoing(outcomes: Sequence[Submitted | Asked]) -> Iterator[None]:
    """Where what follows fails, or is interrupted, no log is left with a `submit` that nobody carries out."""
    try:
        yield
    except BaseException as error:
        for outcome in outcomes:
            if isinstance(outcome, Asked):
                _undo(outcome, error)
        raise


def _launch(outcomes: Sequence[Submitted | Asked]) -> Launched:
    """Hand all jobs over, by one call a launcher, and append each `queued`."""
    of_launcher: dict[str, list[Asked]] = defaultdict(list)
    for outcome in outcomes:
        if isinstance(outcome, Asked):
            of_launcher[outcome.submission.profile.launcher].append(outcome)
    waiting = [asked for group in of_launcher.values() for asked in group]
    recorded: dict[str, Submitted | GmmlError] = {}
    with _undoing(waiting):
        for group in of_launcher.values():
            answers = group[0].launcher.submit_all([asked.submission for asked in group])
            del waiting[: len(group)]  # what came of these is known: an interrupt from here on takes none of them back
            for asked, answer in zip(group, answers, strict=True):
                recorded[asked.submission.token] = _recorded(asked, answer)
    found = [each if isinstance(each, Submitted) else recorded[each.submission.token] for each in outcomes]
    failed = {
        outcome.run.name: each for outcome, each in zip(outcomes, found, strict=True) if isinstance(each, GmmlError)
    }
    return Launched(tuple(each for each in found if isinstance(each, Submitted)), failed)


def _asked(found: Submitted | Ready) -> Submitted | Asked:
    """What is left to do once the `submit` is appended."""
    if isinstance(found, Submitted):
        return found
    try:
        return ask(found)
    except AlreadyExists:  # another first submission of this run came in between
        again = _decided(found.prepared, take_over=False)
        return again if isinstance(again, Submitted) else ask(again)


def _undo(asked: Asked, error: BaseException) -> None:
    """Record that the start failed, and remove a run that this submission created."""
    with suppress(GmmlError):
        message = f"{type(error).__name__}: {error}"
        protocol.start_failed(asked.run.log, asked.submission.token, message=message)
        take_back(asked)


def _recorded(asked: Asked, answer: str | GmmlError) -> Submitted | GmmlError:
    """What came of it: `queued` or the failed start is in the log, and a new run whose job was not taken is removed."""

    def take() -> str:
        if isinstance(answer, GmmlError):
            raise answer
        return answer

    try:
        return asked.taken(record_job(asked.run, asked.launcher, asked.submission, take))
    except BaseException as error:
        take_back(asked)
        if isinstance(error, GmmlError):
            return error
        raise
