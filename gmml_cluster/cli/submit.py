"""`gmml-submit JOB.yaml`: one file, one command."""

from typing import NoReturn

import click

from gmml_cluster.cli import candidates, options, run_command


@click.command("gmml-submit", context_settings=options.CONTEXT)
@click.version_option(package_name="gmml-cluster")
@click.argument("job", shell_complete=candidates.jobs)
@options.overrides
@options.cluster
@click.option(
    "--sweep",
    "swept",
    multiple=True,
    metavar="FIELD=VALUE,VALUE",
    help="A run for each value; several make all combinations.",
    shell_complete=candidates.overrides,
)
@click.option(
    "--parallel",
    type=click.IntRange(min=1),
    metavar="K",
    help="Runs of the sweep at work at once; one by default on this machine, elsewhere as many as there is room for.",
)
@click.option("--dry-run", is_flag=True, help="Print the whole plan and the script, and touch nothing.")
@options.follow
@options.take_over
@options.as_json
def command(
    job: str,
    overrides: tuple[str, ...],
    cluster: str | None,
    swept: tuple[str, ...],
    parallel: int | None,
    dry_run: bool,
    follow: bool,
    take_over: bool,
    as_json: bool,
) -> int:
    """Pre-train what JOB describes, on this machine or where --cluster says.

    JOB is a YAML file, or the name of a job that comes with the package, such as quickstart.

    KEY=VALUE overrides a field, as in batch.size=512. The same run submitted again continues where it stopped. The runs
    of a sweep are named by what differs; its name stands for all of them.
    """
    from gmml_cluster import api
    from gmml_cluster.cli.submit_report import report
    from gmml_cluster.launch.prepare import prepare
    from gmml_cluster.spec.loading.validate import job_path

    if str(file := job_path(job)) != job:
        click.echo(f"{job}: the job of the package, {file}", err=True)
    if swept:
        from gmml_cluster.cli import sweep_report

        if follow:
            raise click.UsageError("--follow shows one run; gmml status shows those of a sweep")
        sweep = sweep_report.prepared(job, swept, _named(cluster), overrides, parallel, take_counts=dry_run)
        if dry_run:
            from gmml_cluster.cli import dry_run as planned

            planned.report_sweep(sweep, as_json=as_json)
            return 0
        return sweep_report.submit(sweep, take_over=take_over, as_json=as_json)
    if parallel is not None:
        raise click.UsageError("--parallel is of a sweep; name its values by --sweep")
    if dry_run:
        from gmml_cluster.cli import dry_run as planned

        prepared = prepare(job, cluster=_named(cluster), overrides=overrides, take_counts=True)
        planned.report(prepared, as_json=as_json)
        return 0
    report(api.submit(job, _named(cluster), overrides, take_over=take_over), as_json=as_json, follow=follow)
    return 0


def _named(cluster: str | None) -> str:
    """The profile; an empty name is most likely a shell variable that is not set, and would train on a login node."""
    if cluster == "":
        raise click.BadParameter("is empty; name a profile, or leave --cluster out to run here", param_hint="--cluster")
    return cluster or "local"


def main() -> NoReturn:
    """Entry of the command `gmml-submit`."""
    run_command.run(command)


if __name__ == "__main__":
    main()
