"""`gmml cancel`: a run saves and stops."""

import click

from gmml_cluster.cli import options


@click.command("cancel")
@options.run
@options.root
def command(run: str, root: str | None) -> None:
    """Ask RUN to save and stop; `gmml resume RUN` lifts it."""
    from gmml_cluster.launch.cancel import cancel
    from gmml_cluster.launch.find import find

    found = find(run, root)
    click.echo(f"{found.name}: {cancel(found)}")
