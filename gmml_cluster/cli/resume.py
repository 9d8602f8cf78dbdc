"""`gmml resume`: a run continues from its latest checkpoint, or all of this machine's that were interrupted do."""

import sys
from typing import TYPE_CHECKING

import click

from gmml_cluster.cli import candidates, options
from gmml_cluster.cli.documents import emit
from gmml_cluster.outputs.base import error_document

if TYPE_CHECKING:
    from gmml_cluster.launch.submit import Submitted


@click.command("resume")
@click.argument("run", required=False, shell_complete=candidates.runs)
@click.option(
    "--all", "every", is_flag=True, help="All of this machine's runs that were interrupted: after a reboot, from cron."
)
@options.cluster
@click.option("--code", is_flag=True, help="Run the code that is installed here instead of the run's own.")
@click.option("--all-nodes", is_flag=True, help="Use nodes again that the run avoids because they failed.")
@options.take_over
@options.follow
@options.root
@options.as_json
def command(
    run: str | None,
    every: bool,
    cluster: str | None,
    code: bool,
    all_nodes: bool,
    take_over: bool,
    follow: bool,
    root: str | None,
    as_json: bool,
) -> int:
    """Continue RUN from its latest checkpoint; lifts a cancel. The profile is the last submission's by default.

    The name of a sweep, or a pattern such as 'vit-*', stands for its runs.
    """
    from gmml_cluster import api
    from gmml_cluster.cli import sweep_report
    from gmml_cluster.cli.submit_report import report

    if every == (run is not None):
        raise click.UsageError("name one run, or all with --all")
    if run is None:
        if cluster is not None or code or all_nodes or take_over or follow:
            raise click.UsageError("--all resumes each run as it was submitted; it takes --root and --json alone")
        return _resume_all(root, as_json)
    named = api.Selection.of(run, root)
    if named.is_group:
        if follow:
            raise click.UsageError("--follow shows one run; gmml status shows those of a sweep")
        return sweep_report.resume(
            named.runs, cluster=cluster, new_code=code, take_over=take_over, all_nodes=all_nodes, as_json=as_json
        )
    resumed = named.runs[0].resume(cluster, new_code=code, take_over=take_over, all_nodes=all_nodes)
    report(resumed, as_json=as_json, follow=follow)
    return 0


def _resume_all(root: str | None, as_json: bool) -> int:
    """Resume what was interrupted; a run that cannot be resumed keeps no other from it. The first fault's exit code."""
    from gmml_cluster import api
    from gmml_cluster.cli.submit_report import document, sentence
    from gmml_cluster.errors import GmmlError
    from gmml_cluster.launch.after.come_back import interrupted

    found = interrupted([each.location for each in api.runs(root)])
    faults: list[GmmlError] = list(found.faults)
    resumed: list[Submitted] = []
    for location in found.runs:
        try:
            submitted = api.Run(location).resume().submitted
        except GmmlError as fault:
            faults.append(fault)
            continue
        assert submitted is not None
        resumed.append(submitted)
        if not as_json:
            click.echo(sentence(submitted))
    for line in [*found.notes, *faults]:
        print(line, file=sys.stderr)
    if as_json:
        emit([*map(document, resumed), *map(error_document, faults)])
    elif not resumed:
        click.echo("no run of this machine was interrupted; nothing was done" if not faults else "nothing was resumed")
    return faults[0].exit_code if faults else 0
