"""`python -m gmml_cluster.evaluate.demo DST`: two short pre-training runs on real digits, their scores, a picture."""

import json
import shlex
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from gmml_cluster.errors import Fault, GmmlError, RunFailed
from gmml_cluster.evaluate.demo.digits import pack_digits
from gmml_cluster.evaluate.demo.picture import lines_of, make
from gmml_cluster.spec.loading.validate import load_profile

GMML, MAE = "quickstart", "quickstart_mae"
SCORES = ("knn", "linear")


@dataclass(frozen=True)
class Gain:
    """What one run must show: a score on a feature, and the least rise in points."""

    run: str
    score: str
    feature: str
    least: float


GAINS = (Gain(GMML, "knn", "taps", 25.0), Gain(MAE, "knn", "mean", 15.0), Gain(MAE, "linear", "mean", 3.0))
FEATURES = {GMML: "taps", MAE: "mean"}
Accuracies = dict[str, tuple[float, float]]
"""Score -> accuracy and its standard error, in percent."""


def command(name: str, *arguments: str, capture: bool = False) -> str:
    """Run one of our commands as a user would and print it; its output, if captured.

    Raises:
        RunFailed: its exit code is not 0.
    """
    click.secho(f"\n$ {name} {shlex.join(arguments)}", bold=True)
    program = str(Path(sys.executable).parent / name)
    done = subprocess.run([program, *arguments], check=False, text=True, stdout=subprocess.PIPE if capture else None)
    if done.returncode:
        problem = f"{name} exited with {done.returncode}; the reason is printed above"
        raise RunFailed(Fault("demo", problem, "fix it and try again"))
    return done.stdout or ""


def accuracies(run: str, root: str, corpus: Path, feature: str, *untrained: str) -> Accuracies:
    """KNN and linear probe of one feature on the held-out digits."""
    options = ["--root", root, "--with", ",".join(SCORES), "--feature", feature, "--corpus", str(corpus)]
    report: dict[str, Any] = json.loads(command("gmml", "eval", run, *options, *untrained, "--json", capture=True))
    return {each["score"]: (each["accuracy"], each["error"]) for each in report["scores"] if each["main"]}


def show(destination: Path) -> None:
    """The whole demo.

    Raises:
        RunFailed: a command failed, or an encoder learnt too little.
    """
    digits, picture = destination / "digits", destination / "quickstart.png"
    root = str(Path(load_profile("local").root).expanduser().absolute())
    if not digits.exists():
        _pack(digits)
    for run in (GMML, MAE):
        command("gmml-submit", f"jobs/{run}.yaml", "--follow")
    test = digits / "test"
    pixels = accuracies(GMML, root, test, "pixels", "--untrained")
    before = {run: accuracies(run, root, test, feature, "--untrained") for run, feature in FEATURES.items()}
    after = {run: accuracies(run, root, test, feature) for run, feature in FEATURES.items()}
    make(root, GMML, picture, corpus=str(test), accuracies=(before[GMML]["knn"][0], after[GMML]["knn"][0]))
    seconds = {run: sum(line["step_s"] for line in lines_of(root, run)) for run in FEATURES}
    Console().print(_table(pixels, before, after, seconds))
    _check_gains(before, after)
    click.echo(
        f"{picture} shows what GMML reconstructs. Both encoders learnt without labels; see docs/evaluation.md for what "
        f"the figures mean.\nNext: gmml status {GMML}; gmml metrics {GMML}; gmml log {GMML}; "
        f"gmml-submit jobs/{GMML}.yaml --dry-run; gmml rm {GMML} to train again."
    )


def _pack(digits: Path) -> None:
    """Pack aside and rename: an interrupted packing leaves no half corpus that the next demo would train on."""
    click.echo(f"packing scikit-learn's digits into {digits}")
    digits.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".digits-", dir=digits.parent) as work:
        pack_digits(Path(work) / digits.name)
        (Path(work) / digits.name).rename(digits)


def _table(
    pixels: Accuracies, before: dict[str, Accuracies], after: dict[str, Accuracies], seconds: dict[str, float]
) -> Table:
    table = Table(title="Accuracy on held-out digits, percent ± one standard error of sampling")
    for name in ("run", "score", "untrained", "pre-trained", "raw pixels"):
        table.add_column(name, justify="left" if name in ("run", "score") else "right")
    for run, scores in after.items():
        for score, value in scores.items():
            cells = (before[run][score], value, pixels[score])
            table.add_row(
                f"{run} ({seconds[run]:.0f} s)", score, *(f"{mean:.1f} ± {error:.1f}" for mean, error in cells)
            )
    return table


def _check_gains(before: dict[str, Accuracies], after: dict[str, Accuracies]) -> None:
    """The demo fails where an encoder did not learn.

    Raises:
        RunFailed: a score rose by less than its least gain.
    """
    for gain in GAINS:
        rise = after[gain.run][gain.score][0] - before[gain.run][gain.score][0]
        if rise < gain.least:
            expected = f"at least {gain.least:.0f} are expected"
            problem = f"{gain.score} of {gain.run} rose by {rise:.1f} points; {expected}"
            raise RunFailed(Fault("demo", problem, f"see `gmml metrics {gain.run}` and `gmml logs {gain.run}`"))


@click.command("python -m gmml_cluster.evaluate.demo")
@click.argument("destination", metavar="DST", type=click.Path(file_okay=False, path_type=Path))
def main(destination: Path) -> None:
    """Pre-train two small encoders on handwritten digits on this machine and show what they learnt."""
    try:
        show(destination)
    except GmmlError as error:
        click.echo(str(error), err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
