"""`gmml resume`: a run goes on from its youngest checkpoint."""

import click

from gmml_cluster.cli import options


@click.command("resume")
@options.run
@options.cluster
@click.option("--code", is_flag=True, help="Run the code that is installed here instead of the run's own.")
@options.take_over
@options.follow
@options.root
@options.as_json
def command(
    run: str, cluster: str | None, code: bool, take_over: bool, follow: bool, root: str | None, as_json: bool
) -> None:
    """Go on with RUN from its youngest checkpoint; lifts a cancel. The profile is the last submission's by default."""
    from gmml_cluster.cli.submit_report import tell
    from gmml_cluster.launch.find import find
    from gmml_cluster.launch.submit import resume

    outcome = resume(find(run, root), cluster=cluster, new_code=code, take_over=take_over)
    tell(outcome, as_json=as_json, follow=follow)
