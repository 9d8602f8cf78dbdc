"""`gmml logs`: what a rank printed."""

from typing import TYPE_CHECKING

import click

from gmml_cluster.cli import options
from gmml_cluster.cli.documents import emit

if TYPE_CHECKING:
    from gmml_cluster.outputs.run import LogsOutput
    from gmml_cluster.run.history import Attempt, History
    from gmml_cluster.run.root import RunRoot


@click.command("logs")
@options.run
@click.option("-f", "--follow", is_flag=True, help="Print over all attempts until nothing works on the run.")
@click.option("--tail", type=click.IntRange(min=0), metavar="N", help="The last N lines alone.")
@click.option("--rank", type=click.IntRange(min=0), help="Rank; by default the one that failed first, else 0.")
@click.option("--attempt", type=click.IntRange(min=1), help="Attempt, with -f the first; the latest by default.")
@options.root
@options.as_json
def command(
    run: str,
    follow: bool,
    tail: int | None,
    rank: int | None,
    attempt: int | None,
    root: str | None,
    as_json: bool,
) -> None:
    """Print what a rank of an attempt of RUN printed, under the attempt's first error."""
    from gmml_cluster.launch.runs.find import find
    from gmml_cluster.launch.runs.follow import follow as follow_output
    from gmml_cluster.run.ends import failures

    if follow and as_json:
        raise click.UsageError("--json is for what was printed already; leave it out with -f, or wait by gmml wait")
    if follow and tail is not None:
        raise click.UsageError("--tail is for what was printed already; leave it out with -f")
    found = find(run, root)
    history = found.log.refresh()
    chosen = _attempt(found, history, attempt)
    if chosen is not None:
        _check_rank(chosen, rank)
    if follow:
        for text in follow_output(found, rank or 0, first=attempt):
            click.echo(text, nl=False)
        return
    document = _document(found, history, chosen, rank, tail)
    if as_json:
        emit(document)
        return
    if chosen is None:
        click.echo(f"{found.name}: no attempt has begun; {_start(history)}", err=True)
    if document["ended"] is not None:
        click.echo(document["ended"], err=True)
        for line in failures.lines(document["errors"]):
            click.echo(f"  {line}", err=True)
    click.echo(document["text"], nl=False)


def _document(
    run: "RunRoot", history: "History", attempt: "Attempt | None", rank: int | None, tail: int | None
) -> "LogsOutput":
    """What is printed, for programs."""
    from gmml_cluster.launch.runs.follow import Tail, headline, output_of_start
    from gmml_cluster.run.ends import failures

    document: LogsOutput = {
        "version": 1,
        "run": run.name,
        "url": run.url,
        "attempt": attempt.number if attempt else None,
        "rank": _rank(attempt, rank) if attempt else rank or 0,
        "ended": None,
        "errors": [],
        "text": "",
    }
    if attempt is None:
        document["text"] = _last(output_of_start(history, document["rank"]), tail)
        return document
    if attempt.details.get("message") or attempt.resolved:
        document["ended"], document["errors"] = headline(attempt), failures.read(run.store, attempt.number)
    document["text"] = _last(Tail(run, attempt, document["rank"]).new(), tail)
    return document


def _last(text: str, lines: int | None) -> str:
    if lines is None:
        return text
    return "".join(text.splitlines(keepends=True)[-lines:]) if lines else ""


def _attempt(run: "RunRoot", history: "History", number: int | None) -> "Attempt | None":
    if number is None:
        return history.attempts[-1] if history.attempts else None
    found = history.attempt(number) or _older(run, number)
    if found is None:
        known = f"1 to {history.last_attempt}" if history.last_attempt else "none"
        raise click.BadParameter(f"{run.name} has no attempt {number}; known are {known}", param_hint="--attempt")
    return found


def _older(run: "RunRoot", number: int) -> "Attempt | None":
    """An attempt that the log's sums no longer hold: the whole log is read up to its end."""
    from gmml_cluster.run.fold import fold
    from gmml_cluster.run.history import History

    history = History()
    for entry in run.log.read():
        history = fold(history, entry)
        found = history.attempt(number)
        if found is not None and found.ended is not None:
            return found
    return None


def _check_rank(attempt: "Attempt", rank: int | None) -> None:
    ranks = attempt.topology.get("ranks")
    if rank is not None and ranks is not None and rank >= ranks:
        problem = f"attempt {attempt.number} has no rank {rank}; it has {ranks}, counted from 0"
        raise click.BadParameter(problem, param_hint="--rank")


def _start(history: "History") -> str:
    return history.submit.failed if history.submit and history.submit.failed else "see gmml status"


def _rank(attempt: "Attempt", rank: int | None) -> int:
    return rank if rank is not None else int(attempt.details.get("rank", 0))
