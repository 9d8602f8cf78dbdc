"""`python -m gmml_cluster.evaluate.demo DST`: digits, a pre-training run, what it learnt, a picture. `make demo`."""

import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from gmml_cluster.errors import GmmlError, RunFailed
from gmml_cluster.evaluate.demo.digits import pack_digits
from gmml_cluster.spec.loading.validate import load_profile

JOB = "jobs/quickstart.yaml"
RUN = "quickstart"
FEATURE = "taps"
LEAST_GAIN = 25.0


def command(name: str, *arguments: str, capture: bool = False) -> str:
    """Run one of our commands as a user would, saying so; its output, if captured.

    Raises:
        RunFailed: it left with another code than 0.
    """
    click.secho(f"\n$ {name} {shlex.join(arguments)}", bold=True)
    program = str(Path(sys.executable).parent / name)
    done = subprocess.run([program, *arguments], check=False, text=True, stdout=subprocess.PIPE if capture else None)
    if done.returncode:
        raise RunFailed(
            f"demo: {name} left with {done.returncode}; what it says above is the reason; mend it and go on"
        )
    return done.stdout or ""


def accuracy(root: str, corpus: Path, *untrained: str) -> float:
    """KNN accuracy in percent at k = 20 on the held-out digits."""
    arguments = ["--root", root, "--with", "knn", "--feature", FEATURE, "--corpus", str(corpus), *untrained, "--json"]
    report: dict[str, Any] = json.loads(command("gmml", "eval", RUN, *arguments, capture=True))
    main = next(score for score in report["scores"] if score["main"])
    click.echo(
        f"kNN, k = {main['k']}: {main['accuracy']:.1f} ± {main['error']:.1f} % of {main['samples']} held-out digits"
    )
    return float(main["accuracy"])


def show(destination: Path) -> None:
    """The whole demo.

    Raises:
        RunFailed: a command failed, or the encoder learnt too little.
    """
    digits, picture = destination / "digits", destination / "quickstart.png"
    root = str(Path(load_profile("local").root).expanduser().absolute())
    if not digits.exists():
        _pack(digits)
    command("gmml-submit", JOB, "--follow")
    before, after = accuracy(root, digits / "test", "--untrained"), accuracy(root, digits / "test")
    from gmml_cluster.evaluate.demo.picture import lines_of, make

    trained_s = sum(line["step_s"] for line in lines_of(root, RUN))
    make(root, RUN, picture, corpus=str(digits / "test"), accuracies=(before, after))
    _close(before, after, picture, trained_s)


def _pack(digits: Path) -> None:
    """All of the digits appear at once, so that an interrupted packing leaves nothing to trip over."""
    click.echo(f"packing scikit-learn's digits into {digits}")
    digits.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".digits-", dir=digits.parent) as work:
        pack_digits(Path(work) / digits.name)
        (Path(work) / digits.name).rename(digits)


def _close(before: float, after: float, picture: Path, trained_s: float) -> None:
    click.secho(
        f"\nkNN accuracy {before:.1f} % -> {after:.1f} % after {trained_s:.0f} s without labels; {picture}", bold=True
    )
    if after - before < LEAST_GAIN:
        raise RunFailed(
            f"demo: kNN rose by {after - before:.1f} points; at least {LEAST_GAIN:.0f} are expected; "
            f"see `gmml metrics {RUN}` and `gmml logs {RUN}`"
        )
    click.echo(
        "The encoder learnt; raw pixels alone reach 98 % here, so this shows learning, not good features.\n"
        f"Next: gmml status {RUN}; gmml metrics {RUN}; gmml log {RUN}; gmml-submit {JOB} --dry-run; "
        f"gmml rm {RUN} to train again."
    )


@click.command("python -m gmml_cluster.evaluate.demo")
@click.argument("destination", metavar="DST", type=click.Path(file_okay=False, path_type=Path))
def main(destination: Path) -> None:
    """Pre-train on handwritten digits on this machine and show what the encoder learnt."""
    try:
        show(destination)
    except GmmlError as error:
        click.echo(str(error), err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
