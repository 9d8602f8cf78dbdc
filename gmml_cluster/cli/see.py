"""`gmml see`: what sample numbers are, as pictures and as a table."""

from pathlib import Path

import click

from gmml_cluster.cli import candidates, options


@click.command("see")
@click.argument("job_or_run", shell_complete=candidates.jobs_or_runs)
@options.overrides
@click.option(
    "--samples",
    type=options.SAMPLES,
    default="0..7",
    show_default=True,
    help="Sample numbers, both ends included; at most 64.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The picture; see.png by default, and none where JSON is printed.",
)
@options.root
@options.as_json
def command(
    job_or_run: str,
    overrides: tuple[str, ...],
    samples: range,
    output: Path | None,
    root: str | None,
    as_json: bool,
) -> int:
    """Show what sample numbers of a job file or a run are: source, crops, augmented views, masks and corruption.

    Drawn from spec and shards by the code that trains, before or after training; no checkpoint is read. KEY=VALUE
    overrides a field of a job file, as in method.mask_ratio=0.6.
    """
    from gmml_cluster.cli.compute import demand, run_module

    demand("torch")
    arguments = ["--first", str(samples[0]), "--last", str(samples[-1]), *(["--json"] if as_json else [])]
    if options.is_job(job_or_run, overrides):
        arguments += ["--job", job_or_run, *(word for each in overrides for word in ("--override", each))]
        arguments += [] if root is None else ["--root", root]
    else:
        from gmml_cluster.launch.runs.find import find

        found = find(job_or_run, root)
        arguments += ["--root", found.root, "--run", found.name]
    picture = Path("see.png") if output is None and not as_json else output
    arguments += [] if picture is None else ["--output", str(picture)]
    return run_module("gmml_cluster.evaluate.see", arguments, needs="torch")
