"""The Python interface: submit jobs, find runs, follow, stop and resume them. The commands are built on it.

Nothing here imports torch, and listing or asking runs imports no pydantic. `import gmml_cluster` offers these names.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gmml_cluster.errors import Fault, GmmlError, RunFailed
from gmml_cluster.launch.runs import cancel as ending
from gmml_cluster.launch.runs import find as finding
from gmml_cluster.launch.runs import select as selecting
from gmml_cluster.launch.runs.follow import Tail, ended_without_finishing, follow, is_at_work, output_of_start
from gmml_cluster.launch.runs.status import Statuses, statuses
from gmml_cluster.outputs.status import StatusOutput
from gmml_cluster.run.results.evaluations import kept, with_scores
from gmml_cluster.run.root import RunRoot
from gmml_cluster.run.uploads import metric_lines

if TYPE_CHECKING:
    from gmml_cluster.launch.submit import Submitted
    from gmml_cluster.launch.sweep import Launched

WAIT_S = 5.0


@dataclass(frozen=True)
class Run:
    """A run where it was found: a spec, its log and what its attempts left.

    Attributes:
        location: its root and name, store and log.
        submitted: what the call that returned this object did; None for a run that was only looked up.
    """

    location: RunRoot = field(repr=False)
    submitted: "Submitted | None" = field(default=None, repr=False, compare=False)

    @property
    def name(self) -> str:
        """Its name, unique under its root."""
        return self.location.name

    @property
    def url(self) -> str:
        """Its folder, or its URL in an object store."""
        return self.location.url

    def __repr__(self) -> str:
        return f"Run({self.url!r})"

    def status(self) -> StatusOutput:
        """State, step, loss, rate, causes, checkpoints: the document of `gmml status RUN --json` (docs/outputs.md).

        Raises:
            StorageError: the run cannot be read.
        """
        found = statuses([self.location], evaluations=True)
        if found.faults:
            raise found.faults[0]
        return found.documents[0]

    def wait(self, timeout_s: float | None = None) -> None:
        """Return when the run has finished.

        Args:
            timeout_s: seconds after which to give up; None waits as long as it takes.

        Raises:
            RunFailed: nothing works on it any more and it has not finished; says why.
            TimeoutError: it is still at work.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while is_at_work(self.location):
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(f"{self.url}: still at work after {timeout_s:g} s")
            time.sleep(WAIT_S if deadline is None else max(0.0, min(WAIT_S, deadline - time.monotonic())))
        problem = ended_without_finishing(self.location)
        if problem:
            raise RunFailed(Fault(self.url, problem))

    def metrics(self) -> list[dict[str, Any]]:
        """One mapping a step, in order: loss, norms, rates, waits, and scores where it has some (docs/outputs.md)."""
        lines = metric_lines(self.location.store, self.location.log.refresh())
        return with_scores(lines, kept(self.location))

    def logs(self, rank: int = 0, attempt: int | None = None) -> str:
        """What a rank printed, up to now.

        Args:
            rank: of the attempt.
            attempt: by number; the latest by default, or the start that has not claimed yet.

        Raises:
            LookupError: the run has no such attempt.
        """
        history = self.location.log.refresh()
        number = attempt if attempt is not None else history.last_attempt
        if not number:
            return output_of_start(history, rank)
        chosen = history.attempt(number)
        if chosen is None:
            raise LookupError(f"{self.url}: no attempt {number} among the latest; the last is {history.last_attempt}")
        return Tail(self.location, chosen, rank).new()

    def follow(self, rank: int = 0) -> Iterator[str]:
        """What a rank prints, as it appears, over all attempts, until nothing works on the run any more."""
        return follow(self.location, rank)

    def log(self) -> list[dict[str, Any]]:
        """The entries of its log, oldest first (docs/log.md)."""
        return [entry.document() for entry in self.location.log.read()]

    def cancel(self) -> str:
        """Ask it to save and stop, and return what was done; may be repeated. `resume` lifts it.

        Raises:
            LaunchError: the scheduler is out of reach; a running attempt learns of the stop from the log all the same.
        """
        return ending.cancel(self.location).done

    def resume(
        self,
        cluster: str | None = None,
        *,
        new_code: bool = False,
        take_over: bool = False,
        all_nodes: bool = False,
    ) -> "Run":
        """Continue from the latest checkpoint; lifts a cancel.

        Args:
            cluster: profile; the last submission's by default.
            new_code: run the code that is installed here instead of the run's own.
            take_over: submit again although a job of it is queued or lives; that one is fenced.
            all_nodes: use nodes again that it avoids because they failed.

        Raises:
            SpecError: it does not fit the cluster, or lies elsewhere than its log records.
            PreflightError: all that would stop it.
            LaunchError: the scheduler refused, or is out of reach.
        """
        from gmml_cluster.launch.submit import resume

        done = resume(self.location, cluster=cluster, new_code=new_code, take_over=take_over, all_nodes=all_nodes)
        return Run(done.run, done)


@dataclass(frozen=True)
class Selection:
    """The runs that a word means.

    Attributes:
        runs: at least one.
        is_group: whether it named a sweep or is a pattern, be it of a single run.
    """

    runs: list[Run]
    is_group: bool

    @classmethod
    def of(cls, text: str, root: str | None = None) -> "Selection":
        """The run of a name, unique prefix, folder or URL; those of a sweep's name; or those that a pattern fits.

        Raises:
            SpecError: it means nothing, or is a prefix of several names.
        """
        found = selecting.select(text, root)
        return cls([Run(each) for each in found.runs], found.is_group)


@dataclass(frozen=True)
class Sweep:
    """Several runs that were submitted or resumed together.

    Attributes:
        runs: those that a launcher took, or that needed nothing; each says which in `submitted`.
        failed: run -> why it was not taken.
    """

    runs: list[Run]
    failed: Mapping[str, GmmlError]

    @classmethod
    def of(cls, launched: "Launched") -> "Sweep":
        """What came of it."""
        return cls([Run(done.run, done) for done in launched.done], launched.failed)


def submit(
    job: str | Path,
    cluster: str | None = None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    take_over: bool = False,
) -> Run:
    """Submit a job file: a new run, or the next attempt of the run of that name and identity.

    Args:
        job: a YAML file, or the name of a packaged job.
        cluster: a profile's name or file; this machine by default.
        overrides: `["batch.size=512"]`, or `{"batch.size": 512}`.
        take_over: submit again although a job of the run is queued or lives; that one is fenced.

    Raises:
        SpecError: all faults of the job, the profile and the plan, or another run has the name.
        PreflightError: all that would stop the run.
        LaunchError: the scheduler refused, or is out of reach.
    """
    from gmml_cluster.launch.prepare import prepare
    from gmml_cluster.launch.submit import submit as submit_prepared

    prepared = prepare(str(job), cluster=cluster or "local", overrides=written(overrides))
    done = submit_prepared(prepared, take_over=take_over)
    return Run(done.run, done)


def submit_sweep(
    job: str | Path,
    sweep: Mapping[str, Sequence[Any]],
    cluster: str | None = None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    parallel: int | None = None,
    take_over: bool = False,
) -> Sweep:
    """Submit a run for every combination of some fields' values; none if any of them is refused.

    Args:
        job: a YAML file, or the name of a packaged job.
        sweep: field -> its values, as in `{"optim.lr": ["1e-4", "3e-4"]}`.
        cluster: a profile's name or file; this machine by default.
        overrides: of all runs, as for `submit`.
        parallel: how many are at work at once; one by default on this machine, else as many as there is room for.
        take_over: submit runs again although jobs of theirs are queued or live; those are fenced.

    Raises:
        SpecError: all faults of all runs.
        PreflightError: all that would stop any of them.
        LaunchError: the scheduler is out of reach.
    """
    from gmml_cluster.launch.sweep import prepare_sweep
    from gmml_cluster.launch.sweep import submit_sweep as submit_prepared

    given = [f"{field}={','.join(map(_word, values))}" for field, values in sweep.items()]
    prepared = prepare_sweep(
        str(job), given, cluster=cluster or "local", overrides=written(overrides), parallel=parallel
    )
    return Sweep.of(submit_prepared(prepared, take_over=take_over))


def written(overrides: Sequence[str] | Mapping[str, Any]) -> list[str]:
    """Overrides as the command line takes them."""
    if not isinstance(overrides, Mapping):
        return list(overrides)
    return [f"{name}={_word(value)}" for name, value in overrides.items()]


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def find(name: str, root: str | None = None) -> Run:
    """The run of this name, unique prefix, folder or URL.

    Args:
        name: what is looked for.
        root: look under this folder or URL alone; by default under the roots of all known profiles and submissions.

    Raises:
        SpecError: there is none, or there are several; lists them.
    """
    return Run(finding.find(name, root))


def runs(root: str | None = None) -> list[Run]:
    """All runs under the known roots, or under one.

    Raises:
        SpecError: the root does not exist.
    """
    return [Run(found) for found in finding.every(root)]


def load_encoder(run: Run | str, step: int | None = None, image_size: int | None = None) -> Any:
    """The encoder of a run as a torch module on the CPU, in evaluation mode, with timm's parameter names.

    Its state loads strictly into timm's `VisionTransformer` of that size without a classifier (or `Beit`; CAPI's has no
    equal there); MAE's fixed positions are written out as `pos_embed`. Calling it on normalised images (B, 3, S, S)
    gives the normed tokens (B, T, D), the class token or registers first.

    Args:
        run: the run, or a name, unique prefix, folder or URL of one.
        step: which checkpoint, by its step from 0; the latest by default, also of a live run.
        image_size: S; the job's by default. Positions are brought to another grid (docs/job.md).

    Raises:
        CheckpointError: there is no such checkpoint, or it is damaged, or there are no positions for such images.
    """
    # by name: the commands import this module, and nothing that they import may import torch
    module = import_module("gmml_cluster.train.checkpoints.load_trained")
    return module.load_encoder((find(run) if isinstance(run, str) else run).location, step, image_size)


def status_of(asked: Sequence[Run], *, evaluations: bool = False) -> Statuses:
    """The status of many runs by one call to each scheduler; a run that cannot be read hides no other."""
    return statuses([run.location for run in asked], evaluations=evaluations)
