"""`gmml cancel`: a run saves and stops."""

import click

from gmml_cluster.cli import options


@click.command("cancel")
@click.argument("run", required=False)
@click.option("--all", "every", is_flag=True, help="All runs under --root, or under the known roots, that are at work.")
@options.root
def command(run: str | None, every: bool, root: str | None) -> None:
    """Ask RUN to save and stop; `gmml resume RUN` lifts it."""
    from gmml_cluster import api
    from gmml_cluster.launch.follow import is_at_work

    if every == (run is not None):
        raise click.UsageError("name one run, or all with --all")
    chosen = [api.find(run, root)] if run else [each for each in api.runs(root) if is_at_work(each.location)]
    for each in chosen:
        click.echo(f"{each.name}: {each.cancel()}")
    if not chosen:
        click.echo("no run is at work; nothing was done")
