"""`gmml wait`: returns when runs have ended, with what became of them in its exit code. Imports no pydantic."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from gmml_cluster.cli import options
from gmml_cluster.cli.documents import emit
from gmml_cluster.errors import RunFailed
from gmml_cluster.outputs.submission import Outcome, WaitedOutput, WaitOutput

if TYPE_CHECKING:
    from gmml_cluster.run.root import RunRoot

AT_WORK = 6
"""Exit code where the time was over first."""
LOOK_S = 5.0
_WORDS = {"finished": "finished", "at_work": "still at work", "ended": "ended without finishing: {problem}"}


@click.command("wait")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("--timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="Give up after so long.")
@options.root
@options.as_json
def command(runs: tuple[str, ...], timeout: float | None, root: str | None, as_json: bool) -> int:
    """Return when nothing works on any RUN any more; may be interrupted and repeated.

    The name of a sweep, or a pattern such as 'vit-*', stands for its runs. Exits with 0 where all have finished, with 5
    where one has ended without finishing, with 6 where one was still at work after --timeout.
    """
    from gmml_cluster.launch.runs.select import select_all

    chosen = select_all(runs, root)
    found = waited(chosen, _left_at_work(chosen, timeout))
    if as_json:
        document: WaitOutput = {"version": 1, "runs": found}
        emit(document)
    else:
        for each in found:
            click.echo(f"{each['run']}: {_WORDS[each['outcome']].format(problem=each['problem'])}")
    outcomes = {each["outcome"] for each in found}
    return AT_WORK if "at_work" in outcomes else RunFailed.exit_code if "ended" in outcomes else 0


def _left_at_work(runs: "Sequence[RunRoot]", timeout_s: float | None) -> "list[RunRoot]":
    """Wait until none is at work or the time is over; those that still are."""
    from gmml_cluster.launch.runs.follow import at_work

    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    left = at_work(runs)
    while left and (deadline is None or time.monotonic() < deadline):
        time.sleep(LOOK_S if deadline is None else max(0.0, min(LOOK_S, deadline - time.monotonic())))
        left = at_work(left)
    return left


def waited(runs: "Sequence[RunRoot]", left: "Sequence[RunRoot]") -> list[WaitedOutput]:
    """What became of each run.

    Args:
        runs: that were waited for.
        left: those of them that are still at work.
    """
    from gmml_cluster.launch.runs.follow import ended_without_finishing

    found: list[WaitedOutput] = []
    for run in runs:
        is_left = run in left
        problem = "" if is_left else ended_without_finishing(run)
        outcome: Outcome = "at_work" if is_left else "ended" if problem else "finished"
        found.append({"run": run.name, "url": run.url, "outcome": outcome, "problem": problem})
    return found
