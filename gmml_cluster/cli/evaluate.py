"""`gmml eval`: scores of a run's encoder on a labelled corpus."""

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
    type=click.Choice(["class", "mean", "taps", "pixels"]),
    help="What is scored; may be given again; all but pixels by default.",
)
@click.option("--step", type=click.IntRange(min=0), help="Checkpoint to read; the latest by default.")
@click.option("--image", metavar="FIELD", help="Field of the images, such as left.jpg; the run's own by default.")
@click.option("--untrained", is_flag=True, help="Score the network before its first step, made from the seed.")
@options.root
@options.as_json
def command(
    run: str,
    scores: str,
    bank: str | None,
    corpus: str | None,
    features: tuple[str, ...],
    step: int | None,
    image: str | None,
    untrained: bool,
    root: str | None,
    as_json: bool,
) -> int:
    """Score the encoder of a checkpoint of RUN by nearest neighbours or a linear probe, in one process."""
    from gmml_cluster.launch.code import installed_code
    from gmml_cluster.launch.find import find

    found = find(run, root)
    given = [
        ("--bank", bank),
        ("--corpus", corpus),
        ("--step", None if step is None else str(step)),
        ("--image", image),
        *(("--feature", feature) for feature in features),
    ]
    code = installed_code(found.job({}).method.name).digest
    arguments = ["--root", found.root, "--run", found.name, "--with", scores, "--code", code]
    arguments += [word for name, value in given if value is not None for word in (name, value)]
    arguments += [name for name, is_set in (("--untrained", untrained), ("--json", as_json)) if is_set]
    return run_module("gmml_cluster.evaluate", arguments, needs="torch")
