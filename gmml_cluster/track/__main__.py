"""`python -m gmml_cluster.track RUNROOT`: passes what a run uploads on to the trackers that its job names.

Started by rank 0, whose pipe is its standard input and whose end it outlives by one last look; or by `gmml track`,
without a pipe, for one look. How far each tracker is lies in the run root, so whoever comes next goes on from there.
"""

import argparse
import json
import logging
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gmml_cluster.errors import GmmlError
from gmml_cluster.outputs.leave import leave
from gmml_cluster.outputs.run import TrackerOutput, TrackOutput
from gmml_cluster.run.progress import total_steps
from gmml_cluster.run.root import RunRoot, run_root
from gmml_cluster.spec.loading.validate import dump
from gmml_cluster.store.open import scheme_of
from gmml_cluster.store.protocol import NotFound
from gmml_cluster.track.lines import Place, new_figures
from gmml_cluster.track.protocol import Tracked, Tracker

if TYPE_CHECKING:
    from gmml_cluster.spec import metrics

LOOK_S = 10.0
_STATE = "tracked.json"
_NICE = 10

_log = logging.getLogger(__name__)


class Way:
    """A tracker, how far it is, and whether it works."""

    def __init__(self, name: str, make: Callable[[int], Tracker], place: Place) -> None:
        self.name, self.place, self.failed = name, place, False
        self._make = make
        self._tracker: Tracker | None = None
        self._said = ""

    def look(self, run: RunRoot, keep: Callable[[], None]) -> None:
        """Pass on what is new; a tracker that fails is tried again at the next look, and named once."""
        try:
            for lines, place in new_figures(run.store, run.log, self.place):
                if lines:
                    self._open().send(lines)
                self.place, self.failed = place, False
                keep()
        except Exception as error:  # whatever a tracker's library raises: the others go on
            self._warn(error)

    def close(self, *, finished: bool) -> None:
        """Give the tracker the time that it takes."""
        if self._tracker is None:
            return
        try:
            self._tracker.close(finished=finished)
        except Exception as error:
            self._warn(error)

    def _open(self) -> Tracker:
        if self._tracker is None:
            self._tracker = self._make(self.place.step + 1)
        return self._tracker

    def _warn(self, error: Exception) -> None:
        self.failed = True
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        if isinstance(error, ImportError):
            said = f"{error.name} cannot be imported; pip install 'gmml-cluster[{self.name}]' where the ranks run"
        if said != self._said:
            self._said = said
            _log.warning("metrics.%s: %s; tried again", self.name, said)


def ways(run: RunRoot) -> list[Way]:
    """The trackers that the job names, each from where it is.

    Raises:
        SpecError: the job cannot be read.
    """
    history = run.log.refresh()
    job = run.job(history.submit.changed if history.submit else {})
    tracked = Tracked(run.name, history.run, run.url, _folder(run), dump(job))
    places = _places(run)
    return [Way(name, make, Place(**places.get(name, {}))) for name, make in _asked(job.metrics, tracked)]


def _asked(given: "metrics.Metrics", tracked: Tracked) -> Iterator[tuple[str, Callable[[int], Tracker]]]:
    """Name of each tracker that the job asks for, and what makes it for the step that comes next."""
    folder = f"{tracked.folder}/tensorboard" if tracked.folder else None
    options: dict[str, Any] = {
        **dict(given),
        "tensorboard": folder if given.tensorboard == "auto" else given.tensorboard,
    }
    for name, make in _MAKERS.items():
        if options[name] is not None:
            yield name, partial(make, options[name], tracked)


# A tracker's library is imported when it is first needed, so that one that is missing or broken concerns no other.


def _tensorboard(folder: str, tracked: Tracked, first: int) -> Tracker:
    from gmml_cluster.track.tensorboard import TensorBoard

    return TensorBoard(Path(folder), first)


def _mlflow(asked: "metrics.MlflowSpec", tracked: Tracked, first: int) -> Tracker:
    from gmml_cluster.track.mlflow import Mlflow

    return Mlflow(asked.uri, asked.experiment, tracked)


def _wandb(asked: "metrics.WandbSpec", tracked: Tracked, first: int) -> Tracker:
    from gmml_cluster.track.wandb import Wandb

    return Wandb(asked.project, asked.entity, asked.mode, tracked)


def _trackio(asked: "metrics.TrackioSpec", tracked: Tracked, first: int) -> Tracker:
    from gmml_cluster.track.trackio import Trackio

    return Trackio(asked.project, asked.space, tracked)


def _prometheus(port: int, tracked: Tracked, first: int) -> Tracker:
    from gmml_cluster.track.prometheus import Prometheus

    return Prometheus(port, tracked)


_MAKERS: Mapping[str, Callable[[Any, Tracked, int], Tracker]] = {
    "tensorboard": _tensorboard,
    "mlflow": _mlflow,
    "wandb": _wandb,
    "trackio": _trackio,
    "prometheus": _prometheus,
}


def _folder(run: RunRoot) -> str:
    return "" if scheme_of(run.root) == "s3" else run.url.removeprefix("file://")


def _places(run: RunRoot) -> dict[str, dict[str, int]]:
    try:
        found: dict[str, dict[str, int]] = json.loads(run.store.get(_STATE))
    except NotFound:
        return {}
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Look until the pipe is closed, and once more."""
    parser = argparse.ArgumentParser(prog="python -m gmml_cluster.track")
    parser.add_argument("run_root")
    parser.add_argument("--follow", action="store_true", help="go on until standard input ends")
    parser.add_argument("--json", action="store_true", help="print at the end how far each tracker is")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="gmml: %(message)s")
    for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # a notice is for the ranks; this process leaves behind rank 0
    os.nice(_NICE)
    root, _, name = given.run_root.rstrip("/").rpartition("/")
    run = run_root(root, name)
    try:
        found = ways(run)
    except GmmlError as fault:
        if given.json:
            leave(fault, as_json=True)
        print(f"gmml: {fault}", file=sys.stderr)
        return fault.exit_code

    def keep() -> None:
        run.store.put(_STATE, json.dumps({way.name: asdict(way.place) for way in found}).encode())

    open_still = given.follow
    while open_still:
        for way in found:
            way.look(run, keep)
        open_still = not select.select([sys.stdin], [], [], LOOK_S)[0]
    for way in found:
        way.look(run, keep)
    steps = total_steps(run.log.refresh())
    for way in found:
        way.close(finished=steps is not None and way.place.step + 1 >= steps)
    if given.json:
        print(json.dumps(document(run, found)))
    return int(any(way.failed for way in found))


def document(run: RunRoot, found: Sequence[Way]) -> TrackOutput:
    """How far each tracker is, for programs."""
    trackers: list[TrackerOutput] = [
        {"tracker": way.name, "step": way.place.step, "failed": way.failed} for way in found
    ]
    return {"version": 1, "run": run.name, "trackers": trackers}


if __name__ == "__main__":
    sys.exit(main())
