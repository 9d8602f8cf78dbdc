"""`gmml log`: the entries of a run's log."""

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from gmml_cluster.cli import options
from gmml_cluster.cli.documents import emit
from gmml_cluster.outputs.run import LogCheckOutput
from gmml_cluster.progress import progress

if TYPE_CHECKING:
    from gmml_cluster.run.entries import Entry
    from gmml_cluster.run.log import Log

VERSION = 1
_LONG = ("sum", "layout", "topology", "traceback")


@click.command("log")
@options.run
@click.option(
    "--check", is_flag=True, help="Fold from the first slot and compare with every sum; exit with 3 on a difference."
)
@options.root
@options.as_json
def command(run: str, check: bool, root: str | None, as_json: bool) -> int:
    """Print the entries of RUN's log, oldest first: one JSON document a line with --json, one sentence otherwise."""
    from gmml_cluster.launch.runs.find import find

    log = find(run, root).log
    if check:
        return _check(log, as_json=as_json)
    for entry in log.read():
        if as_json:
            emit({"version": VERSION, **entry.document()})
        else:
            click.echo(sentence(entry))
    return 0


def _check(log: "Log", *, as_json: bool) -> int:
    from gmml_cluster.errors import CheckpointError
    from gmml_cluster.run.log import check as faults_of

    with progress("checking the log"):
        faults = faults_of(log)
    if as_json:
        document: LogCheckOutput = {"version": 1, "faults": faults}
        emit(document)
    elif faults:
        click.echo("\n".join(faults), err=True)
    else:
        click.echo("every sum equals the fold of the slots before it")
    return CheckpointError.exit_code if faults else 0


def sentence(entry: "Entry") -> str:
    """An entry as one line for people: slot, time, attempt, kind and the short fields."""
    when = datetime.fromtimestamp(entry.time, UTC).strftime("%Y-%m-%d %H:%M:%S")
    who = "-" if entry.attempt is None else str(entry.attempt)
    said = {**entry.fields, "scores": _scores(entry.fields["scores"])} if entry.kind == "score" else entry.fields
    fields = " ".join(f"{name}={_short(value)}" for name, value in said.items() if name not in _LONG)
    return f"{entry.slot:>4}  {when}  {who:>3}  {entry.kind:<7} {fields}".rstrip()


def _scores(found: Iterable[Mapping[str, Any]]) -> str:
    return ", ".join(f"{each['score']} {each['accuracy']:.1f} % by {each['feature']}" for each in found)


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    first = text.split("\n")[0]
    return first if len(first) <= 60 else f"{first[:57]}..."
