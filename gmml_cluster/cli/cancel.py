"""`gmml cancel`: runs save and stop."""

import sys

import click

from gmml_cluster.cli import candidates, options


@click.command("cancel")
@click.argument("runs", nargs=-1, metavar="[RUN]...", shell_complete=candidates.runs)
@click.option("--all", "every", is_flag=True, help="All runs under --root, or under the known roots, that are at work.")
@options.root
def command(runs: tuple[str, ...], every: bool, root: str | None) -> int:
    """Ask each RUN to save and stop; `gmml resume RUN` lifts it.

    The name of a sweep, or a pattern such as 'vit-*', stands for those of its runs that are at work.
    """
    from gmml_cluster import api
    from gmml_cluster.errors import GmmlError
    from gmml_cluster.launch.follow import is_at_work

    if every == bool(runs):
        raise click.UsageError("name runs, or all with --all")
    named = [] if every else [api.Selection.of(text, root) for text in runs]
    groups = [api.runs(root)] if every else [each.runs for each in named if each.is_group]
    chosen = [run for each in named if not each.is_group for run in each.runs]
    chosen += [run for group in groups for run in group if is_at_work(run.location)]
    faults = []
    for run in {run.url: run for run in chosen}.values():
        try:
            click.echo(f"{run.name}: {run.cancel()}")
        except GmmlError as fault:
            print(fault, file=sys.stderr)
            faults.append(fault)
    if not chosen:
        click.echo("no run is at work; nothing was done")
    return faults[0].exit_code if faults else 0
