"""`gmml order`: which image each sample number is, and which rank reads it."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from gmml_cluster.cli import candidates, options
from gmml_cluster.cli.documents import emit

if TYPE_CHECKING:
    from gmml_cluster.data.corpus.pin import Pin
    from gmml_cluster.plan.sample_layout import SampleLayout
    from gmml_cluster.spec.job import JobSpec

VERSION = 1
_LAST = 10**17
_COLUMNS = ("n", "rank", "micro_batch", "corpus", "epoch", "index", "member", "shard")


class _Range(click.ParamType[range]):
    name = "A..B"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> range:
        found = re.fullmatch(r"(\d+)(?:\.\.(\d+))?", str(value))
        if found is None:
            self.fail(f"{value!r} is not a range of sample numbers; write 0..9999, both ends included", param, ctx)
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first:
            self.fail(f"{value!r} runs backwards; the smaller number comes first; write {last}..{first}", param, ctx)
        if last > _LAST:
            self.fail(f"{value!r} is too large; sample numbers go up to {_LAST:,}; write less", param, ctx)
        return range(first, last + 1)


@click.command("order")
@click.argument("job_or_run", shell_complete=candidates.jobs_or_runs)
@options.overrides
@click.option(
    "--samples", type=_Range(), default="0..15", show_default=True, help="Sample numbers, both ends included."
)
@click.option("--ranks", type=click.IntRange(min=1), default=1, show_default=True, help="Number of ranks.")
@options.root
@options.as_json
def command(
    job_or_run: str, overrides: tuple[str, ...], samples: range, ranks: int, root: str | None, as_json: bool
) -> None:
    """Print, for each sample number of a job file or a run, its image and who reads it; --json: a document a line.

    KEY=VALUE overrides a field of a job file, as in batch.size=512.
    """
    from gmml_cluster.cli.compute import demand

    demand("numpy")
    from gmml_cluster.data.eval_reader import order_lines

    is_job = job_or_run.endswith((".yaml", ".yml"))
    if overrides and not is_job:
        raise click.UsageError(f"{overrides[0]}: a run's fields are fixed; name a job file (.yaml) to override some")
    found = _of_job(job_or_run, overrides, root) if is_job else _of_run(job_or_run, root)

    def lines() -> Iterator[dict[str, Any]]:
        micro = found.micro_batches.get(ranks) or _micro_batch(found, ranks)
        yield from order_lines(found.layout, found.pin, samples, ranks=ranks, micro=micro)

    for index, line in enumerate(_named(lines(), f"--ranks {ranks}")):
        if index == 0 and not as_json:
            click.echo("  ".join(_COLUMNS))
        if as_json:
            emit({"version": VERSION, **line})
        else:
            click.echo("  ".join(str(line[name]) for name in _COLUMNS))


@dataclass(frozen=True)
class _Ordered:
    """What is ordered.

    Attributes:
        micro_batches: images a rank held at once, by the number of ranks, where attempts of a run recorded them.
    """

    job: "JobSpec"
    layout: "SampleLayout"
    pin: "Pin"
    micro_batches: Mapping[int, int]


def _micro_batch(found: _Ordered, ranks: int) -> int:
    """Images a rank holds at once, where each has a GPU of this machine's kind, or none where it has none."""
    from gmml_cluster.plan.machine import this_machine
    from gmml_cluster.plan.shares import micro_batch

    return micro_batch(found.job, found.layout, ranks, this_machine().gpu_bytes)


def _named(lines: Iterator[dict[str, Any]], option: str) -> Iterator[dict[str, Any]]:
    """The lines; what is refused on the way is the option's fault, as job and run were judged before."""
    from gmml_cluster.errors import Fault, SpecError

    try:
        yield from lines
    except SpecError as error:
        raise SpecError([Fault(option, fault.problem, fault.hint) for fault in error.faults]) from error


def _of_job(path: str, overrides: Sequence[str], root: str | None) -> _Ordered:
    """Indexes are looked for below the root that a submission takes where no cluster is named; none is left there."""
    from gmml_cluster.data.corpus.listing import indexes_below
    from gmml_cluster.data.corpus.pin import pin
    from gmml_cluster.plan.steps import layout_of
    from gmml_cluster.run.root import absolute
    from gmml_cluster.spec.loading.locations import Locations
    from gmml_cluster.spec.loading.validate import load_profile, read_job

    job, tree = read_job(path, overrides)
    with Locations(tree).located_faults():
        pinned = pin(job.data.corpora, indexes_below(absolute(root or load_profile("local").root)), checked=False)
        layout = layout_of(job, pinned.shapes)
    return _Ordered(job, layout, pinned, {})


def _of_run(run: str, root: str | None) -> _Ordered:
    from gmml_cluster.data.corpus.listing import indexes_below
    from gmml_cluster.data.corpus.pin import Pin
    from gmml_cluster.errors import Fault, SpecError
    from gmml_cluster.launch.find import find
    from gmml_cluster.plan.sample_layout import SampleLayout

    found = find(run, root)
    history = found.log.refresh()
    pinned, submit = history.pin, history.submit
    if pinned is None:
        problem = "its first attempt has not pinned the corpora yet; wait for it, or name the job file"
        raise SpecError(Fault(found.url, problem))
    corpora = found.corpora(pinned["corpora"])
    job = found.job(submit.changed if submit else {})
    pin = Pin.from_bytes(corpora, indexes_below(found.root))
    topologies = [attempt.topology for attempt in history.attempts]
    recorded = {each["ranks"]: each["micro"] for each in topologies if isinstance(each.get("micro"), int)}
    return _Ordered(job, SampleLayout.from_json(pinned["layout"], pin.shapes), pin, recorded)
