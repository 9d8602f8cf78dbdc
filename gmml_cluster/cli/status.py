"""`gmml status`: the ledgers of runs. Imports no pydantic, and asks each scheduler once."""

import json
import sys
from typing import Any

import click

from gmml_cluster.cli import options

_COLUMNS = ("RUN", "STATE", "STEP", "SAVED", "ATTEMPTS", "LAST CAUSE", "CODE", "JOB")


@click.command("status")
@click.argument("run", required=False)
@options.root
@options.as_json
def command(run: str | None, root: str | None, as_json: bool) -> None:
    """What RUN is doing, or all runs under the known roots: state, last step, last checkpoint, causes, code, job."""
    ledgers = _ledgers(run, root)
    if as_json:
        click.echo(json.dumps(ledgers[0] if run else ledgers, indent=2))
    elif ledgers:
        _print(ledgers)
        for ledger in ledgers:
            _print_trouble(ledger)
    else:
        click.echo("no runs; gmml-submit JOB.yaml starts one")


def _ledgers(run: str | None, root: str | None) -> list[dict[str, Any]]:
    """Of the run, or of all that can be read; one that cannot is told of on stderr."""
    from gmml_cluster.errors import StorageError
    from gmml_cluster.launch.find import every, find
    from gmml_cluster.launch.jobs import poll
    from gmml_cluster.run.ledger import status

    histories = {}
    runs = [find(run, root)] if run else every(root)
    for found in runs:
        try:
            histories[found.url] = found.log.refresh()
        except StorageError as fault:
            if run is not None:
                raise
            print(fault, file=sys.stderr)
    runs = [found for found in runs if found.url in histories]
    jobs = poll(histories)
    return [
        {"run": found.name, "root": found.root, **status(histories[found.url], jobs[found.url].states)}
        for found in runs
    ]


def _print(ledgers: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*_COLUMNS, box=None, pad_edge=False)
    for ledger in ledgers:
        table.add_row(*row(ledger))
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def row(ledger: dict[str, Any]) -> list[str]:
    """A run's line: step and saved step as they stand in the log, the cause of the last attempt that ended."""
    attempts = ledger["attempts"]
    causes = [attempt["cause"] for attempt in attempts if attempt["cause"]]
    code = ledger["code"][-1]["code"][:8] if ledger["code"] else "-"
    numbers = [
        _number(ledger["step"]),
        _number(ledger["committed_step"]),
        str(attempts[-1]["attempt"] if attempts else 0),
    ]
    return [ledger["run"], ledger["state"], *numbers, causes[-1] if causes else "-", code, ledger["job"] or "-"]


def _number(step: int | None) -> str:
    return "-" if step is None else str(step)


def _print_trouble(ledger: dict[str, Any]) -> None:
    """What went wrong last, and the command that goes on."""
    if ledger["state"] in ("failed", "interrupted"):
        click.echo(f"{ledger['run']}: {_trouble(ledger).splitlines()[0]}; gmml resume {ledger['run']} goes on")
    if ledger["state"] == "empty":
        click.echo(f"{ledger['run']}: its submission was cut off, or is under way; gmml rm {ledger['run']} deletes it")


def _trouble(ledger: dict[str, Any]) -> str:
    if ledger["start_failed"]:
        return str(ledger["start_failed"])
    if not ledger["attempts"]:
        return "nothing works on it"
    last = ledger["attempts"][-1]
    return last.get("told", {}).get("message") or f"attempt {last['attempt']} ended with {last['cause']}"
