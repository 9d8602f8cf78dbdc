"""What an evaluation says: one JSON document, or a table."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import click
from rich.console import Console
from rich.table import Table

from gmml_cluster.errors import GmmlError
from gmml_cluster.evaluate.score import Score
from gmml_cluster.outputs.leave import leave
from gmml_cluster.outputs.run import EvalOutput
from gmml_cluster.run.results.evaluations import keep
from gmml_cluster.run.root import run_root
from gmml_cluster.wording import counted

ERROR = "±: one standard error of sampling; the spread of seeds is not in it."
NOTES = f"""{ERROR}
Bold: the number to report; its lr was chosen on a held-out tenth of the bank. Features are read unaugmented."""


FROZEN = "features of the frozen encoder, images unaugmented, central square of 256/224"


@dataclass(frozen=True)
class EvalReport:
    """Scores of one run at one step.

    Attributes:
        step: last step whose update is in the weights; -1 for the network before its first.
        bank: URL of what votes and trains the probe, and its labelled samples.
        corpus: URL of what is classified, and its labelled samples.
        digests: identities of bank and corpus.
        code: digest of the code that scored; empty where that was not said.
        protocol: how images were read and what was trained, in one line.
        attempt: of the run, that scored its own weights between two steps; None for `gmml eval`.
        seconds: that it spent on it.
        metric: what the scores are.
    """

    run: str
    step: int
    untrained: bool
    bank: tuple[str, int]
    corpus: tuple[str, int]
    scores: tuple[Score, ...]
    digests: tuple[str, str] = ("", "")
    code: str = ""
    protocol: str = FROZEN
    attempt: int | None = None
    seconds: float | None = None
    metric: str = "top-1"

    def to_json(self) -> EvalOutput:
        """The document of `gmml eval --json`; accuracies in percent."""
        return {
            "version": 2,
            "run": self.run,
            "step": self.step,
            "untrained": self.untrained,
            "protocol": self.protocol,
            "code": self.code,
            "attempt": self.attempt,
            "seconds": self.seconds,
            "bank": {"url": self.bank[0], "samples": self.bank[1], "digest": self.digests[0]},
            "corpus": {"url": self.corpus[0], "samples": self.corpus[1], "digest": self.digests[1]},
            "scores": [score.to_json() for score in self.scores],
        }

    def show(self, console: Console) -> None:
        """Print the table; rows to be reported are bold."""
        state = "untrained" if self.untrained else f"step {self.step}"
        what = "accuracy" if self.metric == "top-1" else self.metric
        table = Table(title=f"{self.run}, {state}: {what} on {counted(self.corpus[1], 'image')} of {self.corpus[0]}")
        for name in ("score", "feature", "settings"):
            table.add_column(name)
        table.add_column(f"{self.metric}, percent", justify="right")
        for score in self.scores:
            value = f"{100 * score.accuracy:.1f} ± {100 * score.error:.1f}"
            table.add_row(
                score.name,
                score.feature,
                _written(score.settings.items()),
                value,
                style="bold" if score.main else "dim",
            )
        console.print(table)
        notes = NOTES if self.protocol == FROZEN else f"{ERROR}\n{self.protocol}"
        console.print(f"bank: {counted(self.bank[1], 'image')} of {self.bank[0]}\n{notes}")


def publish(make: Callable[[], EvalReport], root: str, run: str, *, as_json: bool) -> None:
    """Make a report, keep it with its run and print it; an error ends the process with its code."""
    try:
        report = make()
        keep(run_root(root, run), report.to_json())
    except GmmlError as error:
        leave(error, as_json=as_json)
    if as_json:
        click.echo(json.dumps(report.to_json()))
    else:
        report.show(Console())


def _written(settings: Iterable[tuple[str, float | int]]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in settings)
