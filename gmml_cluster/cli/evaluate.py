"""`gmml eval`: what a run has learnt."""

import click

from gmml_cluster.cli import options
from gmml_cluster.cli.compute import run_module


@click.command("eval")
@options.run
@click.option(
    "--with", "scores", default="knn", show_default=True, metavar="LIST", help="Scores: knn, linear, or both."
)
@click.option("--bank", metavar="URL", help="Labelled shards that are learnt from; the run's first corpus by default.")
@click.option("--corpus", metavar="URL", help="Labelled shards that are scored; a tenth of the bank by default.")
@click.option(
    "--feature",
    "features",
    multiple=True,
    type=click.Choice(["class", "mean", "taps"]),
    help="What is read of the encoder; may be given again; all by default.",
)
@click.option("--untrained", is_flag=True, help="Score the network before its first step, made from the seed.")
@options.root
@options.as_json
def command(
    run: str,
    scores: str,
    bank: str | None,
    corpus: str | None,
    features: tuple[str, ...],
    untrained: bool,
    root: str | None,
    as_json: bool,
) -> int:
    """Score the encoder of RUN's youngest checkpoint by nearest neighbours or a linear probe, in one process."""
    from gmml_cluster.launch.find import find

    found = find(run, root)
    given = [("--bank", bank), ("--corpus", corpus), *(("--feature", feature) for feature in features)]
    arguments = ["--root", found.root, "--run", found.name, "--with", scores]
    arguments += [word for name, value in given if value is not None for word in (name, value)]
    arguments += [name for name, is_set in (("--untrained", untrained), ("--json", as_json)) if is_set]
    return run_module("gmml_cluster.evaluate", arguments, needs="torch")
