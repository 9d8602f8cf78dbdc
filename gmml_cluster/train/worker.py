"""Entry of a rank: `python -m gmml_cluster.train.worker`. Handles signals before anything heavy is imported."""

import argparse
import faulthandler
import logging
import os
import sys
import time
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from gmml_cluster.run.codes import UNMET
from gmml_cluster.running_time import running_time
from gmml_cluster.train.ranks.signals import SignalThread

if TYPE_CHECKING:
    from gmml_cluster.train.evaluation import Evaluation, Scored

LINE = "%(asctime)s %(levelname).1s %(message)s"
"""Short enough that a line of progress fits 80 columns; what is uploaded has the year and the rank."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one rank of one attempt; exits with a code of `run/codes.py`."""
    began = time.monotonic()
    parser = argparse.ArgumentParser(prog="python -m gmml_cluster.train.worker", description=__doc__)
    for name in ("root", "run", "submit", "job"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--restart", type=int, required=True)
    parser.add_argument("--until", type=int, help="last step to make, of a replay")
    given = parser.parse_args(arguments)
    faulthandler.enable()  # a crash of native code leaves its stack in the rank's output
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format=LINE, datefmt="%m-%d %H:%M:%S")
    signals = SignalThread()
    try:
        signals.install(_pipe())
        running_time.start()

        # here, because torch takes seconds to import, in which a notice must not be lost
        from gmml_cluster.train.attempt import run_attempt
        from gmml_cluster.train.ranks.agreement import StartInfo
        from gmml_cluster.train.ranks.watchdog import watchdog

        watchdog.guard()
        signals.pause, signals.go_on = watchdog.pause, watchdog.go_on

        start = StartInfo(given.root, given.run, given.submit, given.job, given.restart, given.until, began)
        run_attempt(start, signals, _evaluation)
    except BaseException:
        # A rank that has met its peers leaves through `ranks/shutdown.py`. One that has not can inform nobody: its own
        # error is the last it prints, for the launcher quotes that line.
        signals.silence()
        sys.stderr.write(traceback.format_exc())
        sys.stderr.flush()
        os._exit(UNMET)


def _evaluation(scored: "Scored") -> "Evaluation":
    """What scores the weights; imported here, as most jobs ask for no scores while they train."""
    from gmml_cluster.evaluate.in_training import InTraining

    return InTraining(scored)


def _pipe() -> int | None:
    """The supervisor's pipe, where there is a supervisor."""
    number = os.environ.pop("GMML_PIPE", None)
    return None if number is None else int(number)


if __name__ == "__main__":
    main()
