"""`gmml cancel`: runs save and stop."""

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click

from gmml_cluster.cli import candidates, options
from gmml_cluster.cli.documents import emit
from gmml_cluster.outputs.submission import CancelOutput, failures

if TYPE_CHECKING:
    from gmml_cluster.api import Run
    from gmml_cluster.errors import GmmlError
    from gmml_cluster.launch.runs.cancel import Cancelled


@click.command("cancel")
@click.argument("runs", nargs=-1, metavar="[RUN]...", shell_complete=candidates.runs)
@click.option("--all", "every", is_flag=True, help="All runs under --root, or under the known roots, that are at work.")
@options.root
@options.as_json
def command(runs: tuple[str, ...], every: bool, root: str | None, as_json: bool) -> int:
    """Ask each RUN to save and stop; `gmml resume RUN` lifts it.

    The name of a sweep, or a pattern such as 'vit-*', stands for those of its runs that are at work.
    """
    from gmml_cluster import api
    from gmml_cluster.errors import GmmlError
    from gmml_cluster.launch.runs.cancel import cancel
    from gmml_cluster.launch.runs.follow import is_at_work

    if every == bool(runs):
        raise click.UsageError("name runs, or all with --all")
    named = [] if every else [api.Selection.of(text, root) for text in runs]
    groups = [api.runs(root)] if every else [each.runs for each in named if each.is_group]
    chosen = [run for each in named if not each.is_group for run in each.runs]
    chosen += [run for group in groups for run in group if is_at_work(run.location)]
    done: list[tuple[Run, Cancelled]] = []
    failed: dict[str, GmmlError] = {}
    for run in {run.url: run for run in chosen}.values():
        try:
            done.append((run, cancel(run.location)))
        except GmmlError as fault:
            print(fault, file=sys.stderr)
            failed[run.name] = fault
            continue
        if not as_json:
            click.echo(f"{run.name}: {done[-1][1].done}")
    if as_json:
        emit(document(done, failed))
    elif not chosen:
        click.echo("no run is at work; nothing was done")
    return next((fault.exit_code for fault in failed.values()), 0)


def document(done: "Sequence[tuple[Run, Cancelled]]", failed: "Mapping[str, GmmlError]") -> CancelOutput:
    """What came of it, for programs."""
    return {
        "version": 1,
        "runs": [{"run": run.name, "url": run.url, "action": each.action, "done": each.done} for run, each in done],
        "failed": failures(failed),
    }
