"""The batch script's question after the ranks: `python -m gmml_cluster.launch.slurm.restart RUNROOT ...`.

Imports neither torch nor pydantic nor submitit.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from gmml_cluster.errors import GmmlError
from gmml_cluster.launch.evidence import Evidence
from gmml_cluster.launch.restart import JobStart, record_end
from gmml_cluster.launch.slurm.evidence import examine
from gmml_cluster.run.log import Log
from gmml_cluster.store.open import open_store


def main(arguments: Sequence[str] | None = None) -> int:
    """Print `requeue`, followed by the nodes to exclude, or `nothing`.

    Where the log cannot be reached print no verdict: the caller then decides by its own rule.
    """
    given = _parser().parse_args(arguments)
    evidence = Evidence()
    if given.errors is not None:
        evidence = examine(given.scheduler_job, given.nodes, given.errors, seen=given.seen, notice_s=given.notice)
    start = JobStart(given.submit, given.job, given.restart)
    try:
        again = record_end(Log(open_store(given.run_root)), start, given.rc, evidence)
    except GmmlError as fault:
        print(f"gmml: {fault}; the exit code decides", file=sys.stderr)
        return fault.exit_code
    print(" ".join(["requeue", *evidence.bad_nodes]) if again else "nothing")
    return 0


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
    return parser


if __name__ == "__main__":
    sys.exit(main())
