"""`gmml drill`: what a job would lose on a cluster, found out before it matters."""

from typing import TYPE_CHECKING

import click

from gmml_cluster.cli import candidates, options
from gmml_cluster.cli.documents import emit
from gmml_cluster.run.drills import KINDS, WHAT, Kind

if TYPE_CHECKING:
    from gmml_cluster.launch.drill import Drilled

LOST = 1
_ROW = "{:<24}  {:<20}  {:>10}  {:>9}  {}"


@click.command("drill")
@click.argument("job", shell_complete=candidates.jobs)
@options.overrides
@options.cluster
@click.option("--only", "only", type=click.Choice(KINDS), multiple=True, help="Make this drill alone; may be repeated.")
@options.as_json
def command(job: str, overrides: tuple[str, ...], cluster: str | None, only: tuple[Kind, ...], as_json: bool) -> int:
    """Rehearse on a cluster what may befall JOB: short runs of it, disturbed once each, beside an undisturbed one.

    Notice, kill -9 of a rank, a rank that stands still, a full disk, a store that is cut off. Prints the steps and
    seconds that each cost. Exits with 1 where a run did not come back by itself or its losses differ.
    """
    from gmml_cluster.launch.drill import document, drill

    def show(line: str) -> None:
        click.echo(line, err=True)

    failed = False
    if not as_json:
        click.echo(_ROW.format("what", "attempts ended with", "steps lost", "s lost", "losses"))
    for found in drill(job, cluster=cluster or "local", overrides=overrides, kinds=only or KINDS, show=show):
        failed |= bool(found.problem) or found.equal is False
        if as_json:
            emit(document(found))
        else:
            click.echo(line(found))
    return LOST if failed else 0


def line(found: "Drilled") -> str:
    """A row for people."""
    what = "undisturbed" if found.kind is None else WHAT[found.kind]
    lost = "-" if found.lost_s is None else f"{found.lost_s:.0f}"
    said = {None: "", True: "equal", False: "DIFFER"}[found.equal]
    row = _ROW.format(what, ", ".join(found.causes), found.steps_lost, lost, said).rstrip()
    return f"{row}\n  {found.problem}" if found.problem else row
