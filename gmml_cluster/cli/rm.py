"""`gmml rm`: a run and all that belongs to it is deleted."""

import click

from gmml_cluster.cli import options


@click.command("rm")
@options.run
@click.option("--yes", is_flag=True, help="Do not ask.")
@options.root
def command(run: str, yes: bool, root: str | None) -> None:
    """Delete RUN with its checkpoints, its log last; refused while a job of it is queued or an attempt lives."""
    from gmml_cluster.launch.cancel import remove
    from gmml_cluster.launch.find import find

    found = find(run, root)
    if not yes:
        click.confirm(f"Delete {found.url} with all its checkpoints?", abort=True)
    remove(found)
    click.echo(f"{found.url} is deleted")
