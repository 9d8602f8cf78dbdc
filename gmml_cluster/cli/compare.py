"""`gmml compare`: what evaluations found of several runs, in one table. Imports no pydantic and no torch."""

import sys

import click

from gmml_cluster.cli import candidates, options
from gmml_cluster.cli.documents import emit
from gmml_cluster.outputs.runs import CompareOutput, ScoreOfRunOutput


@click.command("compare")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", shell_complete=candidates.runs)
@options.root
@options.as_json
def command(runs: tuple[str, ...], root: str | None, as_json: bool) -> None:
    """One table of what `gmml eval` has kept of each RUN, of each the latest of a kind.

    The name of a sweep, or a pattern such as 'vit-*', stands for its runs. A run without scores, or with none that
    another run has under the same protocol, is named below the table.
    """
    from gmml_cluster.launch.runs.select import select_all
    from gmml_cluster.run.results.score_columns import latest, not_compared

    compared = select_all(runs, root)
    rows: list[ScoreOfRunOutput] = [{**row, "run": found.name} for found in compared for row in latest(found)]
    missing = not_compared([found.name for found in compared], rows)
    if as_json:
        document: CompareOutput = {"version": 1, "scores": rows, "not_compared": missing}
        emit(document)
        return
    if rows:
        _print(rows)
    for each in missing:
        click.echo(f"{each['run']}: {each['reason']}")


def _print(rows: list[ScoreOfRunOutput]) -> None:
    """Runs down, kinds of scores across: accuracies that must not be compared are never in one column."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from gmml_cluster.run.results.score_columns import headings, kind_of

    kinds = list(dict.fromkeys(kind_of(row) for row in rows))
    titles = headings(kinds)
    shown = Table("RUN", "STEP", *map(escape, titles.values()), box=None, pad_edge=False)
    for name in dict.fromkeys(row["run"] for row in rows):
        own = {kind_of(row): row for row in rows if row["run"] == name}
        steps = sorted({"untrained" if row["step"] is None else str(row["step"]) for row in own.values()})
        cells = [f"{own[kind]['accuracy']:.1f} ± {own[kind]['error']:.1f}" if kind in own else "-" for kind in kinds]
        shown.add_row(name, ", ".join(steps), *cells)
    Console(width=None if sys.stdout.isatty() else 200).print(shown)
    of_kind = {kind_of(row): row for row in rows}
    for said in dict.fromkeys(_protocol(titles[kind], of_kind[kind]) for kind in kinds):
        click.echo(said)
    click.echo("± is one standard error of sampling, not the spread of seeds")


def _protocol(heading: str, row: ScoreOfRunOutput) -> str:
    """What a column's scores were made with, named where another column has the same score."""
    from gmml_cluster.run.results.score_columns import protocol_of

    return f"{heading if heading.endswith(']') else row['score']}: {protocol_of(row)}"
