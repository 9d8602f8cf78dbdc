"""What `gmml-submit --dry-run` prints: the plan and the script of a run, or of all runs of a sweep."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import click
from pydantic import GetPydanticSchema
from typing_extensions import TypedDict

from gmml_cluster.cli.documents import emit
from gmml_cluster.launch.prepare import Prepared
from gmml_cluster.launch.sweep import PreparedSweep
from gmml_cluster.outputs.base import FirstVersion
from gmml_cluster.plan.describe import describe
from gmml_cluster.plan.gpu_time import Cost
from gmml_cluster.plan.plan import Plan
from gmml_cluster.spec.loading.validate import dump
from gmml_cluster.wording import counted

PlanOutput = Annotated[dict[str, Any], GetPydanticSchema(lambda _source, handler: handler.generate_schema(Plan))]
CostOutput = Annotated[dict[str, Any], GetPydanticSchema(lambda _source, handler: handler.generate_schema(Cost))]


class DryRunOutput(FirstVersion):
    """A run as it would be submitted."""

    spec: dict[str, Any]
    """The job with every field, as `gmml schema job` describes it."""
    cluster: str
    """Profile."""
    root: str
    """Folder or URL under which the run would lie."""
    code: str
    """Digest of the code that would run."""
    plan: PlanOutput
    """What it would do and take."""
    script: str
    """What would be handed over, the token as `<token>`."""


class PlannedOutput(TypedDict):
    """A run of a sweep as it would be."""

    run: str
    """Name."""
    overrides: list[str]
    """What makes it, `FIELD=VALUE` each."""
    spec: dict[str, Any]
    """The job with every field, as `gmml schema job` describes it."""
    plan: PlanOutput
    """What it would do and take."""


class SweepDryRunOutput(FirstVersion):
    """A sweep as it would be submitted."""

    sweep: str
    """Name, which stands for all its runs."""
    root: str
    """Folder or URL under which its runs would lie."""
    parallel: int | None
    """Runs at work at once; null for as many as the launcher starts by itself, on this machine one."""
    script: str
    """What would be handed over for the first run, the token as `<token>`."""
    gpu_hours: float | None
    """Of all runs together; null where one's are not known: on CPUs, or before indexing."""
    cost: CostOutput | None
    """Of these GPU hours; null where they are not known, or the profile has no `price_per_gpu_hour`."""
    runs: list[PlannedOutput]
    """Its runs."""


def report(prepared: Prepared, *, as_json: bool) -> None:
    """A dry run of one run."""
    if as_json:
        emit(document(prepared))
    else:
        click.echo(text(prepared))


def document(prepared: Prepared) -> DryRunOutput:
    """A dry run for programs."""
    return {
        "version": 1,
        "spec": dump(prepared.job),
        "cluster": prepared.cluster,
        "root": prepared.submission.root,
        "code": prepared.submission.code.digest,
        "plan": prepared.plan.to_json(),
        "script": prepared.script,
    }


def text(prepared: Prepared) -> str:
    """A dry run for people: the plan, a line each, then the script to the byte."""
    head = f"{prepared.job.name} on {prepared.cluster}, in {prepared.submission.run_root}"
    return "\n".join([head, *(f"  {line}" for line in describe(prepared.plan)), "", "script:", prepared.script])


def report_sweep(sweep: PreparedSweep, *, as_json: bool) -> None:
    """A dry run of a sweep: what the runs are, and for people the plan and script of the first."""
    if as_json:
        emit(sweep_document(sweep))
        return
    first = sweep.prepared[0]
    click.echo(f"{sweep.grid.name}: {counted(len(sweep.prepared), 'run')}{sweep.at_once}, under {sweep.root}")
    for member in sweep.grid.members:
        click.echo(f"  {member.name}: {' '.join(member.overrides)}")
    hours, cost = totals([each.plan for each in sweep.prepared])
    if hours is not None:
        click.echo(f"GPU time of all: {hours:,.3g} hours{f', {cost}' if cost else ''}")
    click.echo("\n".join([f"plan of {first.job.name}:", *(f"  {line}" for line in describe(first.plan))]))
    click.echo(f"\nits script:\n{first.script}")


def sweep_document(sweep: PreparedSweep) -> SweepDryRunOutput:
    """A dry run of a sweep for programs."""
    runs: list[PlannedOutput] = [
        {"run": member.name, "overrides": list(member.overrides), "spec": dump(each.job), "plan": each.plan.to_json()}
        for member, each in zip(sweep.grid.members, sweep.prepared, strict=True)
    ]
    hours, cost = totals([each.plan for each in sweep.prepared])
    return {
        "version": 1,
        "sweep": sweep.grid.name,
        "root": sweep.root,
        "parallel": sweep.parallel,
        "script": sweep.prepared[0].script,
        "gpu_hours": hours,
        "cost": None if cost is None else asdict(cost),
        "runs": runs,
    }


def totals(plans: Sequence[Plan]) -> tuple[float | None, Cost | None]:
    """GPU hours of all runs, and what they cost; None where those of one are not known."""
    hours = [plan.gpu_time.hours for plan in plans if plan.gpu_time is not None]
    costs = [plan.cost for plan in plans if plan.cost is not None]
    whole = sum(hours) if len(hours) == len(plans) else None
    # one profile has one currency
    cost = Cost(sum(each.amount for each in costs), costs[0].currency) if len(costs) == len(plans) else None
    return whole, cost
