"""`python -m gmml_cluster.evaluate`: scores of a run's encoder on a labelled corpus; `gmml eval` starts it."""

from typing import Any

import click

from gmml_cluster.data.corpus.listing import indexes_below
from gmml_cluster.evaluate.features import FEATURES
from gmml_cluster.evaluate.report import EvalReport, publish
from gmml_cluster.evaluate.scoring import SCORES, Request, evaluate
from gmml_cluster.train.checkpoints.load_trained import load_trained


def _names(_context: click.Context, _parameter: click.Parameter, given: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(given.split(",")))
    if unknown := [name for name in names if name not in SCORES]:
        raise click.BadParameter(f"{unknown[0]!r} is no score; known are {', '.join(SCORES)}")
    return names


@click.command("gmml eval")
@click.option("--root", required=True, help="Folder or URL under which the run lies.")
@click.option("--run", required=True, help="Name of the run.")
@click.option("--step", type=click.IntRange(min=0), help="Checkpoint to read; the latest by default.")
@click.option("--with", "names", default="knn", callback=_names, help="Scores: knn, linear, or both with a comma.")
@click.option("--bank", help="Labelled corpus that votes and trains the probe; the run's first corpus by default.")
@click.option("--corpus", help="Labelled corpus that is classified; a held-out tenth of the bank by default.")
@click.option(
    "--feature",
    "features",
    multiple=True,
    type=click.Choice(FEATURES),
    help="What is scored; all but pixels by default.",
)
@click.option("--image", help="Field of the images in both corpora; that of the run's first corpus by default.")
@click.option("--image-size", type=click.IntRange(min=1), help="Side of the images to read; the run's by default.")
@click.option("--untrained", is_flag=True, help="Score the network before its first step.")
@click.option("--code", default="", help="Digest of the code in use, for the report.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of a table.")
def main(root: str, step: int | None, as_json: bool, **request: Any) -> None:
    """Score a run's encoder on a labelled corpus, in one process."""
    asked = Request(**request)

    def report() -> EvalReport:
        trained = load_trained(root, asked.run, step=step, untrained=asked.untrained)
        return evaluate(trained, asked, indexes_below(root))

    publish(report, root, asked.run, as_json=as_json)


if __name__ == "__main__":
    main()
