"""`gmml resume`: a run continues from its latest checkpoint."""

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
    """Continue RUN from its latest checkpoint; lifts a cancel. The profile is the last submission's by default."""
    from gmml_cluster import api
    from gmml_cluster.cli.submit_report import report

    resumed = api.find(run, root).resume(cluster, new_code=code, take_over=take_over)
    report(resumed, as_json=as_json, follow=follow)
