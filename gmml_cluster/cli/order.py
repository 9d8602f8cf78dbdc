"""`gmml order`: which image each sample number is, and which rank reads it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from gmml_cluster.cli import candidates, options
from gmml_cluster.cli.documents import emit

if TYPE_CHECKING:
    from gmml_cluster.ordered import Ordered

VERSION = 1
_COLUMNS = ("n", "rank", "micro_batch", "corpus", "epoch", "index", "member", "shard")


@click.command("order")
@click.argument("job_or_run", shell_complete=candidates.jobs_or_runs)
@options.overrides
@click.option(
    "--samples", type=options.SAMPLES, default="0..15", show_default=True, help="Sample numbers, both ends included."
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

    found = _ordered(job_or_run, overrides, root)

    def lines() -> Iterator[dict[str, Any]]:
        micro = _recorded(found).get(ranks) or _micro_batch(found, ranks)
        yield from order_lines(found.layout, found.pin, samples, ranks=ranks, micro=micro)

    for index, line in enumerate(_named(lines(), f"--ranks {ranks}")):
        if index == 0 and not as_json:
            click.echo("  ".join(_COLUMNS))
        if as_json:
            emit({"version": VERSION, **line})
        else:
            click.echo("  ".join(str(line[name]) for name in _COLUMNS))


def _micro_batch(found: "Ordered", ranks: int) -> int:
    """Images a rank holds at once, where each has a GPU of this machine's kind, or none where it has none."""
    from gmml_cluster.plan.engine_choice import with_engine_chosen
    from gmml_cluster.plan.machine import this_machine
    from gmml_cluster.plan.shares import micro_batch

    gpu_bytes = this_machine().gpu_bytes
    return micro_batch(with_engine_chosen(found.job, ranks, gpu_bytes), found.layout, ranks, gpu_bytes)


def _named(lines: Iterator[dict[str, Any]], option: str) -> Iterator[dict[str, Any]]:
    """The lines; what is refused on the way is the option's fault, as job and run were judged before."""
    from gmml_cluster.errors import Fault, SpecError

    try:
        yield from lines
    except SpecError as error:
        raise SpecError([Fault(option, fault.problem, fault.hint) for fault in error.faults]) from error


def _ordered(job_or_run: str, overrides: Sequence[str], root: str | None) -> "Ordered":
    from gmml_cluster import ordered

    if options.is_job(job_or_run, overrides):
        return ordered.of_job(job_or_run, overrides, root)
    from gmml_cluster.launch.runs.find import find

    return ordered.of_run(find(job_or_run, root))


def _recorded(found: "Ordered") -> Mapping[int, int]:
    """Images a rank held at once, by the number of ranks, where attempts of a run recorded them."""
    attempts = [] if found.run is None else found.run.log.refresh().attempts
    topologies = [attempt.topology for attempt in attempts]
    return {each["ranks"]: each["micro"] for each in topologies if isinstance(each.get("micro"), int)}
