"""The demo's picture: originals, what the encoder saw, what it made of it; and the loss over the run.

`python -m gmml_cluster.evaluate.demo.picture --root ROOT --run RUN OUT.png`.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import matplotlib as mpl

mpl.use("agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from gmml_cluster.data.eval_reader import Samples
from gmml_cluster.errors import GmmlError
from gmml_cluster.evaluate.reconstruction import Reconstruction, choose, first_images, reconstruct
from gmml_cluster.run.root import run_root
from gmml_cluster.run.uploads import metric_lines
from gmml_cluster.train.checkpoints.load_trained import Trained, load_trained

COLUMNS = 10
ROWS = ("original", "corrupted", "reconstructed")
Curve = Sequence[tuple[int, float]]


def smooth(losses: Sequence[float], span: int) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """Running mean over `span` steps; shorter by span - 1."""
    return np.convolve(np.asarray(losses, np.float64), np.ones(span) / span, mode="valid")


def draw(shown: Sequence[Reconstruction], curve: Curve, title: str) -> Figure:
    """Three rows of images, one block a kind of corruption, over the loss curve."""
    figure = plt.figure(figsize=(11, 7.2), dpi=120, layout="constrained")
    figure.suptitle(title, fontsize=13, fontweight="bold")
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=(1.5, 1))[:, 0]
    kinds = list(dict.fromkeys(one.kind for one in shown))
    for block, kind in zip(above.subfigures(1, len(kinds), squeeze=False, wspace=0.03)[0], kinds, strict=True):
        _draw_images(block, [one for one in shown if one.kind == kind], kind)
    _draw_curve(below.subplots(), curve)
    return figure


def _draw_images(figure: SubFigure, shown: Sequence[Reconstruction], title: str) -> None:
    figure.suptitle(title, fontsize=11)
    grid = figure.subplots(len(ROWS), len(shown), squeeze=False)
    for row, name in enumerate(ROWS):
        for axes, one in zip(grid[row], shown, strict=True):
            axes.imshow(getattr(one, name).numpy(), interpolation="nearest")
            axes.set(xticks=[], yticks=[])
        grid[row][0].set_ylabel(name)


def _draw_curve(axes: Axes, curve: Curve) -> None:
    steps, losses = [step for step, _ in curve], [loss for _, loss in curve]
    span = max(1, len(steps) // 40)
    axes.plot(steps, losses, color="#9db8d2", linewidth=0.6, label="each step")
    middle = steps[span // 2 : span // 2 + len(steps) - span + 1]
    axes.plot(middle, smooth(losses, span), color="#1f4e79", linewidth=1.8, label=f"mean of {span} steps")
    axes.set(xlabel="step", ylabel="loss", title="Loss on the hidden pixels")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)


def title_of(trained: Trained, run: str, accuracies: tuple[float, float] | None) -> str:
    """Run, method and step; with accuracies, what kNN said before and after."""
    said = f"{run}: {trained.job.method.name.upper()}, {trained.step + 1} steps of {trained.job.batch.size} images"
    if accuracies is None:
        return said
    return f"{said}\nkNN accuracy {accuracies[0]:.1f} % before, {accuracies[1]:.1f} % after pre-training without labels"


def lines_of(root: str, run: str) -> list[dict[str, Any]]:
    """The run's metric lines, one a step."""
    found = run_root(root, run)
    return metric_lines(found.store, found.log.refresh())


def make(
    root: str, run: str, out: Path, *, corpus: str | None = None, accuracies: tuple[float, float] | None = None
) -> None:
    """Write the picture of a run's latest checkpoint; images come from `corpus`, else from the run's first."""
    trained = load_trained(root, run)
    first = trained.job.data.corpora[0]
    shown = reconstruct(trained, first_images(trained, Samples(corpus or first.url, image=first.image)))
    figure = draw(
        choose(shown, COLUMNS),
        [(line["step"], line["loss"]) for line in lines_of(root, run)],
        title_of(trained, run, accuracies),
    )
    figure.savefig(out)
    plt.close(figure)


@click.command("python -m gmml_cluster.evaluate.demo.picture")
@click.option("--root", required=True, help="Folder or URL under which the run lies.")
@click.option("--run", required=True, help="Name of the run.")
@click.option("--corpus", help="Where the images come from; the run's first corpus by default.")
@click.option("--accuracies", type=(float, float), help="kNN before and after in percent, for the title.")
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
def main(root: str, run: str, out: Path, corpus: str | None, accuracies: tuple[float, float] | None) -> None:
    """Draw what a run's network reconstructs, and its loss."""
    try:
        make(root, run, out, corpus=corpus, accuracies=accuracies)
    except GmmlError as error:
        click.echo(str(error), err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
