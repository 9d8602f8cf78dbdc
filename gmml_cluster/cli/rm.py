"""`gmml rm`: a run and all that belongs to it is deleted."""

import click

from gmml_cluster.cli import options
from gmml_cluster.cli.documents import emit
from gmml_cluster.outputs.submission import RemovedOutput
from gmml_cluster.progress import progress


@click.command("rm")
@options.run
@click.option("--yes", is_flag=True, help="Do not ask.")
@options.root
@options.as_json
def command(run: str, yes: bool, root: str | None, as_json: bool) -> None:
    """Delete RUN with its checkpoints, its log last; refused while a job of it is queued or an attempt lives."""
    from gmml_cluster.launch.runs.cancel import remove
    from gmml_cluster.launch.runs.find import find

    if as_json and not yes:
        raise click.UsageError("--json asks nothing; say --yes too")
    found = find(run, root)
    if not yes:
        click.confirm(f"Delete {found.url} with all its checkpoints?", abort=True)
    with progress("deleting"):
        remove(found)
    if as_json:
        document: RemovedOutput = {"version": 1, "run": found.name, "url": found.url}
        emit(document)
    else:
        click.echo(f"{found.url} is deleted")
