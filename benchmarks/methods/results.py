"""What finished runs and kept evaluations say of each trial."""

import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import fmean, stdev

from benchmarks.methods.trials import Trial
from gmml_cluster.run.results.evaluations import kept
from gmml_cluster.run.root import run_root

SCORES = ("finetune", "attentive", "linear", "knn")


@dataclass(frozen=True)
class Scored:
    """An accuracy and its standard error of sampling, in percent."""

    accuracy: float
    error: float


@dataclass(frozen=True)
class Result:
    """What is known of one trial.

    Attributes:
        finished: whether its encoder is trained.
        scores: by name.
        machine: on which it was trained; empty if it is not.
    """

    trial: Trial
    finished: bool
    scores: dict[str, Scored] = field(default_factory=dict)
    machine: str = ""

    @property
    def missing(self) -> list[str]:
        """What is not measured yet, a phrase each."""
        if not self.finished:
            return [self.trial.name]
        wanted = {"knn", "linear", *self.trial.heads}
        return [f"{self.trial.name}: {score}" for score in SCORES if score in wanted - self.scores.keys()]


def scores_of(root: str, trial: Trial) -> dict[str, Scored]:
    """Main scores that are kept of a trial's encoder; of heads those of this budget alone."""
    found: dict[str, Scored] = {}
    heads = {name: f" {trial.head_name(name)}," for name in trial.heads}
    for document in kept(run_root(root, trial.name)):
        for score in document["scores"]:
            name = score["score"]
            if score["main"] and (name not in SCORES[:2] or heads.get(name, "\0") in document["protocol"]):
                found[name] = Scored(score["accuracy"], score["error"])
    return found


def result(root: str, trial: Trial) -> Result:
    """What lies under the root of a trial.

    Raises:
        StorageError: a file is damaged.
    """
    run = run_root(root, trial.name)
    if not run.log.refresh().finished:
        return Result(trial, finished=False)
    return Result(trial, True, scores_of(root, trial), machine())


def machine() -> str:
    """This machine, as the report names it."""
    return f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"


def mean_and_spread(values: Iterable[float]) -> tuple[float, float | None]:
    """Mean, and the standard deviation over seeds; None for one value."""
    known = list(values)
    return fmean(known), stdev(known) if len(known) > 1 else None
