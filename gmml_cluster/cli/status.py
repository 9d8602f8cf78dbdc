"""`gmml status`: what runs are doing. Imports no pydantic, and asks each scheduler once."""

import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from gmml_cluster.cli import candidates, options
from gmml_cluster.cli.documents import emit
from gmml_cluster.cli.evaluation_lines import evaluation_lines
from gmml_cluster.cli.moments import moment
from gmml_cluster.outputs.base import error_document
from gmml_cluster.outputs.status import AttemptOutput, GoodputOutput, StatusOutput
from gmml_cluster.run.ends.failures import lines as lines_of
from gmml_cluster.run.ledger import change_in_words
from gmml_cluster.wording import counted

_COLUMNS = ("RUN", "STATE", "STEP", "DONE", "LOSS", "IMG/S", "WAIT", "LEFT", "SAVED", "STARTED", "LAST")
_SHOWN_CHANGES = 5


@click.command("status")
@click.argument("run", required=False, shell_complete=candidates.runs)
@options.root
@options.as_json
def command(run: str | None, root: str | None, as_json: bool) -> None:
    """All runs under the known roots, a line each, or a page on RUN; of a sweep, or a pattern, its runs.

    Steps are counted from 0, as in metrics and checkpoints; DONE is their share of the run.
    """
    from gmml_cluster import api

    named = None if run is None else api.Selection.of(run, root)
    is_page = named is not None and not named.is_group
    found = api.status_of(api.runs(root) if named is None else named.runs, evaluations=is_page)
    if is_page and found.faults:
        raise found.faults[0]
    for fault in found.faults:
        print(fault, file=sys.stderr)
    if as_json:
        emit(found.documents[0] if is_page else [*found.documents, *map(error_document, found.faults)])
    elif is_page:
        click.echo("\n".join(page(found.documents[0])))
    elif found.documents:
        _print_table(_COLUMNS, map(row, found.documents))
        for document in found.documents:
            for line in notes(document):
                click.echo(f"{document['run']}: {line}")
    else:
        click.echo("no runs; gmml-submit JOB.yaml starts one")


def _print_table(columns: Iterable[str], rows: Iterable[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=None, pad_edge=False)
    for cells in rows:
        table.add_row(*cells)
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def row(document: StatusOutput) -> list[str]:
    """A run's line."""
    progress: Mapping[str, Any] = document["progress"] or {}
    return [
        document["run"],
        document["state"],
        _number(document["step"]),
        _share(document["step"], document["steps"]),
        _figure(progress.get("loss"), ".4g"),
        _figure(progress.get("samples_per_s"), ",.0f"),
        _percent(progress.get("data_wait_share")),
        _duration(progress.get("left_s")),
        _number(document["committed_step"]),
        moment(document["attempts"][-1]["started"] if document["attempts"] else None),
        latest_event(document),
    ]


def latest_event(document: StatusOutput) -> str:
    """The latest event of the ledger: a cause, a start that failed, or the attempt that works."""
    if document["start_failed"]:
        return "start_failed"
    if not document["attempts"]:
        return "-"
    last = document["attempts"][-1]
    return last["cause"] or f"attempt {last['attempt']}"


def notes(document: StatusOutput) -> list[str]:
    """What a reader should know or do, a sentence each: why it waits, what went wrong, and the command that helps."""
    name, state = document["run"], document["state"]
    found = [text for text in (document["misplaced"], document["lacks_room"]) if text]
    if document["queue_reason"] or document["expected_start"]:
        expected = f"; expected to start {moment(document['expected_start'])}" if document["expected_start"] else ""
        found.append(f"{state}: {document['queue_reason'] or 'no reason given'}{expected}")
    if state in ("failed", "interrupted"):
        tried = f"; gave up: {document['stopped']}" if document["gave_up"] else ""
        # of a run that is not where its log says, `misplaced` has the cure: by its name the original might be meant
        cure = "" if document["misplaced"] else f"; gmml resume {name} continues it"
        found.append(f"{_problem(document).splitlines()[0]}{tried}{cure}")
    found += document["short_notices"]
    if state == "empty":
        found.append(f"its submission was cut off, or is under way; gmml rm {name} deletes it")
    return found


def _problem(document: StatusOutput) -> str:
    if document["start_failed"]:
        return str(document["start_failed"])
    if document["not_requeued"]:
        return str(document["not_requeued"])
    if not document["attempts"]:
        return "nothing works on it"
    last = document["attempts"][-1]
    return last["reason"] or f"attempt {last['attempt']} ended with {last['cause']}"


def page(document: StatusOutput) -> list[str]:
    """Everything about one run, a line each: figures, attempts, checkpoints, goodput, files."""
    progress, goodput = document["progress"], document["goodput"]
    lines = [f"{document['run']}: {document['state']}", *(f"  {line}" for line in notes(document))]
    lines += [f"    {line}" for line in lines_of(document["errors"] or [])]
    if document["step"] is not None:
        total = f" of {document['steps']}" if document["steps"] else ""
        lines.append(f"  step         {document['step']}{total} ({_share(document['step'], document['steps'])} done)")
    if progress is not None:
        lines += [
            f"  loss         {_figure(progress['loss'], '.6g')}",
            f"  rate         {progress['samples_per_s']:,.0f} images/s",
            f"  data wait    {_percent(progress['data_wait_share'])} of the time",
            f"  time left    {_duration(progress['left_s'])}",
            *([f"  slow         {_slow(progress['slow_ranks'])}"] if progress["slow_ranks"] else []),
        ]
    if document["map_pass"] is not None:
        maps = document["map_pass"]
        lines.append(f"  maps         block {maps['made']} of {maps['blocks']}; step {maps['step']} waits for them")
    if document["committed_step"] is not None:
        lines.append(f"  checkpoint   step {document['committed_step']}, {document['url']}/{document['checkpoint']}")
    if goodput["share"] is not None:
        made = counted(goodput["steps_made"], "step")
        lines.append(f"  goodput      {100 * goodput['share']:.1f} % of {made} made were kept")
    if goodput["evaluation_s"]:
        lines.append(f"  evaluation   {_duration(goodput['evaluation_s'])}{_share_of_time(document)}, between steps")
    lines += time_of_ranks(goodput)
    lines += [f"  code         {each['code'][:12]} from step {each['first_step']} on" for each in document["code"]]
    lines += [
        f"  platform     from attempt {each['attempt']} on {change_in_words(each)}"
        for each in document["platform_changes"][-_SHOWN_CHANGES:]
    ]
    lines += [
        f"  job          {document['job'] or '-'} ({document['launcher'] or '-'})",
        f"  files        {document['url']}: log/, checkpoints/, attempts/ (logs and metrics of the ranks)",
    ]
    lines += tries(document)
    lines += [f"  attempts before these: {_counted(document['older_attempts'])}"] if document["older_attempts"] else []
    reported = {_problem(document).splitlines()[0]}
    for attempt in document["attempts"]:
        lines.append(f"  {_attempt_line(attempt)}")
        message = attempt["reason"].partition("\n")[0]
        if message and message not in reported:  # attempts that failed alike are reported once
            lines.append(f"               {message}")
            reported.add(message)
    return [*lines, *evaluation_lines(document["evaluations"])] if document["evaluations"] else lines


def tries(document: StatusOutput) -> list[str]:
    """What of the job's `retries` is spent, and the nodes that the run avoids."""
    spent = [
        f"{used} of {most} {name if most != 1 else name[:-1]}"
        for name, (used, most) in document["retries"].items()
        if used
    ]
    lines = [f"  retries      {', '.join(spent)} since the last checkpoint"] if spent else []
    return [*lines, *(f"  avoids       {node}: {reason}" for node, reason in document["excluded"].items())]


def _slow(ranks: list[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}; its log names the host"


def time_of_ranks(goodput: GoodputOutput) -> list[str]:
    """Where the time of the ranks went, a line a kind that took any, with its share of all."""
    total_s = sum(goodput["rank_s"].values())
    if not total_s:
        return []
    spent = [(kind, seconds) for kind, seconds in goodput["rank_s"].items() if seconds]
    lines = [
        f"    {kind.replace('_', ' '):<17} {100 * seconds / total_s:5.1f} %  {_duration(seconds)}"
        for kind, seconds in spent
    ]
    return [f"  rank time    {_duration(total_s)}, of all ranks together", *lines]


def _share_of_time(document: StatusOutput) -> str:
    """Share of evaluations in the time of the attempts, of which one at work has lasted until now."""
    now = datetime.now(UTC).timestamp()
    spent = sum((attempt["ended"] or now) - attempt["started"] for attempt in document["attempts"])
    return f", {100 * document['goodput']['evaluation_s'] / spent:.1f} % of the attempts' time" if spent > 0 else ""


def _attempt_line(attempt: AttemptOutput) -> str:
    topology = attempt["topology"]
    ranks = counted(topology["ranks"], "rank") if "ranks" in topology else "ranks unknown"
    nodes = (
        f" on {attempt['nodes'] or '?'} node{'' if attempt['nodes'] == 1 else 's'} from {attempt['host']}"
        if attempt["host"]
        else ""
    )
    first, last = attempt["first_step"], attempt["last_step"]
    steps = "no step" if first is None else f"from step {first}" if last is None else f"steps {first}-{last}"
    ended = f"{attempt['cause']} {moment(attempt['ended'])}" if attempt["cause"] else "at work"
    return f"attempt {attempt['attempt']:<4} {moment(attempt['started'])}  {steps}  {ranks}{nodes}  {ended}"


def _counted(causes: dict[str, int]) -> str:
    return ", ".join(f"{count} x {cause}" for cause, count in sorted(causes.items()))


def _number(step: int | None) -> str:
    return "-" if step is None else str(step)


def _figure(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"


def _share(step: int | None, steps: int | None) -> str:
    return "-" if step is None or not steps else f"{100 * (step + 1) / steps:.0f} %"


def _duration(seconds: float | None) -> str:
    return "-" if seconds is None else str(timedelta(seconds=round(seconds)))
