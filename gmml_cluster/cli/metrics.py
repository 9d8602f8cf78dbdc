"""`gmml metrics`: one line a step."""

import json
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

import click

from gmml_cluster.cli import options
from gmml_cluster.cli.documents import emit

VERSION = 1
_SHOWN = ("step", "loss", "grad_norm", "lr", "samples_per_s", "data_wait_s", "attempt")
_SCORES = ("knn_", "linear_")


@click.command("metrics")
@options.run
@click.option(
    "--tensorboard",
    metavar="DIR",
    type=click.Path(file_okay=False),
    help="Write TensorBoard's event file into this folder instead.",
)
@options.root
@options.as_json
def command(run: str, tensorboard: str | None, root: str | None, as_json: bool) -> int:
    """Print RUN's metrics, one line a step: of the latest attempt that made the step; --json prints every figure."""
    from gmml_cluster import api

    lines = api.find(run, root).metrics()
    if tensorboard is not None:
        return _write_events(lines, tensorboard, as_json=as_json)
    if not as_json:
        click.echo("  ".join(f"{name:>13}" for name in _SHOWN))
    for line in lines:
        if as_json:
            emit({"version": VERSION, **line})
        else:
            click.echo(row(line))
    return 0


def row(line: dict[str, Any]) -> str:
    """The figures for people, in columns; scores behind them, where the step was scored."""
    scores = [f"{name} {line[name]:.1f} %" for name in line if name.startswith(_SCORES)]
    return "  ".join([*(f"{_shown(line.get(name)):>13}" for name in _SHOWN), *scores])


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _write_events(lines: Iterable[dict[str, Any]], folder: str, *, as_json: bool) -> int:
    from gmml_cluster.cli.compute import demand

    demand("tensorboard")
    text = "\n".join(map(json.dumps, lines))
    command = [sys.executable, "-m", "gmml_cluster.cli.tensorboard", folder, *(["--json"] if as_json else [])]
    return subprocess.run(command, input=text, text=True, check=False).returncode
