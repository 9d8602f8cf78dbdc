"""The batch script's question after the ranks: `python -m gmml_cluster.launch.slurm.restart RUNROOT ...`.

Imports neither torch nor pydantic nor submitit.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from gmml_cluster.errors import GmmlError
from gmml_cluster.launch.after.evidence import Evidence
from gmml_cluster.launch.after.verdict import Allocation, Verdict, action
from gmml_cluster.launch.restart import JobStart, judge
from gmml_cluster.launch.slurm.evidence import allocation, examine
from gmml_cluster.run.log import Log
from gmml_cluster.store.open import open_store


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what is to be done: `here PAUSE NODES OUT BAD`, `requeue BAD`, `nothing`, or `nothing finished`.

    PAUSE is seconds before the ranks start, NODES how many nodes they start on, OUT the job's nodes to leave out or
    `-`, and BAD those that the job is to avoid from then on, missing where there are none; lists have commas. Where
    the log cannot be reached print no verdict: the caller then decides by its own rule.
    """
    given = _parser().parse_args(arguments)
    evidence, bad = Evidence(), tuple(filter(None, given.bad.split(",")))
    if given.errors is not None:
        evidence = examine(given.scheduler_job, given.nodes, given.errors, seen=given.seen, notice_s=given.notice)
    start = JobStart(given.submit, given.job, given.restart)
    try:
        verdict = judge(Log(open_store(given.run_root)), start, given.rc, evidence)
    except GmmlError as fault:
        print(f"gmml: {fault}; the exit code decides", file=sys.stderr)
        return fault.exit_code
    job, bad = given.scheduler_job, tuple(dict.fromkeys((*bad, *evidence.bad_nodes, *verdict.excluded)))
    left = allocation(job, given.nodes, bad, least=given.least, notice_s=given.notice)
    print(_answer(verdict, left, bad))
    return 0


def _answer(verdict: Verdict, left: Allocation, bad: Sequence[str]) -> str:
    done = action(verdict, left)
    if done == "here":
        return f"here {verdict.pause_s:g} {len(left.sound)} {','.join(left.bad) or '-'} {','.join(bad)}".rstrip()
    if done == "requeue":
        return f"requeue {','.join(bad)}".rstrip()
    return "nothing finished" if verdict.finished else "nothing"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m gmml_cluster.launch.slurm.restart")
    parser.add_argument("run_root")
    for name in ("submit", "job"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("restart", "rc"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--errors", type=Path, help="error file of the script and of rank 0")
    parser.add_argument("--seen", type=int, default=0, help="lines in it that earlier starts wrote")
    parser.add_argument("--notice", type=int, default=0, help="seconds before the time limit at which SLURM signals")
    parser.add_argument("--scheduler-job", default="", help="what `scontrol -o show job` prints")
    parser.add_argument("--nodes", default="", help="NAME=STATE of the job's nodes")
    parser.add_argument("--least", type=int, default=sys.maxsize, help="nodes that ranks may be started on again")
    parser.add_argument("--bad", default="", help="nodes whose devices failed in earlier starts, with commas")
    return parser


if __name__ == "__main__":
    sys.exit(main())
