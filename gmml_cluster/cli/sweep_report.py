"""What came of a sweep's submission or resumption, for people and for programs."""

import sys
from collections.abc import Sequence

import click

from gmml_cluster.api import Run, Sweep
from gmml_cluster.cli import submit_report
from gmml_cluster.cli.documents import emit
from gmml_cluster.errors import GmmlError
from gmml_cluster.launch import sweep as sweeps
from gmml_cluster.outputs.submission import ResumedOutput, SweepOutput, failures
from gmml_cluster.wording import counted

_WORDS = {
    "submitted": "submitted",
    "resumed": "resumed",
    "already": "queued or running already; nothing was done",
    "stopping": "still stopping; nothing was done",
    "finished": "finished already; nothing was done",
}


def prepared(
    job: str,
    swept: Sequence[str],
    cluster: str,
    overrides: Sequence[str],
    parallel: int | None,
    *,
    take_counts: bool,
) -> sweeps.PreparedSweep:
    """The sweep, every run of it validated and planned."""
    return sweeps.prepare_sweep(
        job, swept, cluster=cluster, overrides=overrides, parallel=parallel, take_counts=take_counts
    )


def submit(sweep: sweeps.PreparedSweep, *, take_over: bool, as_json: bool) -> int:
    """Submit its runs and print what came of each; the first failure's exit code, else 0."""
    done = Sweep.of(sweeps.submit_sweep(sweep, take_over=take_over))
    name = sweep.grid.name
    if as_json:
        overrides = {member.name: list(member.overrides) for member in sweep.grid.members}
        submitted: SweepOutput = {**document(done, overrides), "sweep": name, "root": sweep.root}
        emit(submitted)
    else:
        click.echo(f"{name}: {counted(len(sweep.prepared), 'run')}{sweep.at_once}, under {sweep.root}")
        _print(done)
        click.echo(f"  gmml status {name}\n  gmml cancel {name}\n  gmml compare {name}")
    return _code(done)


def resume(
    runs: Sequence[Run],
    *,
    cluster: str | None,
    new_code: bool,
    take_over: bool,
    all_nodes: bool,
    as_json: bool,
) -> int:
    """Resume several runs and print what came of each; the first failure's exit code, else 0."""
    locations = [run.location for run in runs]
    done = Sweep.of(
        sweeps.resume_all(locations, cluster=cluster, new_code=new_code, take_over=take_over, all_nodes=all_nodes)
    )
    if as_json:
        emit(document(done, {}))
    else:
        _print(done)
    return _code(done)


def document(done: Sweep, overrides: dict[str, list[str]]) -> ResumedOutput:
    """What came of each run, for programs."""
    return {
        "version": 1,
        "runs": [
            {**submit_report.document(run.submitted), "overrides": overrides.get(run.name, [])}
            for run in done.runs
            if run.submitted is not None
        ],
        "failed": failures(done.failed),
    }


def _print(done: Sweep) -> None:
    for run in done.runs:
        submitted = run.submitted
        assert submitted is not None
        job = f" as job {submitted.job}" if submitted.action in ("submitted", "resumed") else ""
        click.echo(f"  {run.name}: {_WORDS[submitted.action]}{job}")
    for name, error in done.failed.items():
        print(f"{name}: {error}", file=sys.stderr)


def _code(done: Sweep) -> int:
    failed: list[GmmlError] = list(done.failed.values())
    return failed[0].exit_code if failed else 0
