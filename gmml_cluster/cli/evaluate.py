"""`gmml eval`: scores of a run's encoder on a labelled corpus."""

import tempfile
from pathlib import Path
from typing import Any

import click

from gmml_cluster.cli import options
from gmml_cluster.cli.compute import absolute_url, run_module
from gmml_cluster.errors import Fault, SpecError

_TRAINED = ("attentive", "finetune", "segmentation")
_FROZEN = ("knn", "linear", "patch-knn")
_OF_PIXELS = ("segmentation", "patch-knn")


@click.command("eval")
@options.run
@click.option(
    "--with",
    "scores",
    default="knn",
    show_default=True,
    metavar="LIST",
    help="Scores: knn, linear, attentive, finetune, segmentation, patch-knn; several with commas.",
)
@click.option("--bank", metavar="URL", help="Labelled shards that are learnt from; the run's first corpus by default.")
@click.option("--corpus", metavar="URL", help="Labelled shards that are scored; a tenth of the bank by default.")
@click.option(
    "--feature",
    "features",
    multiple=True,
    type=click.Choice(["class", "mean", "taps", "global", "pixels"]),
    help="What is scored; may be given again; all but pixels by default.",
)
@click.option("--step", type=click.IntRange(min=0), help="Checkpoint to read; the latest by default.")
@click.option("--image", metavar="FIELD", help="Field of the images, such as left.jpg; the run's own by default.")
@click.option("--image-size", type=click.IntRange(min=1), help="Side of the images to read; the run's by default.")
@click.option("--untrained", is_flag=True, help="Score the network before its first step, made from the seed.")
@click.option(
    "--epochs", type=click.FloatRange(min=0, min_open=True), help="Of attentive and finetune: passes over the bank."
)
@click.option("--classes", type=click.IntRange(2, 254), help="Of segmentation and patch-knn: classes of the masks.")
@click.option("--zero-ignored", is_flag=True, help="Of masks: pixels of value 0 do not count, classes begin at 1.")
@click.option("--sliding", is_flag=True, help="Of segmentation: windows slide over images that keep their shape.")
@options.cluster
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
    image_size: int | None,
    untrained: bool,
    epochs: float | None,
    classes: int | None,
    zero_ignored: bool,
    sliding: bool,
    cluster: str | None,
    root: str | None,
    as_json: bool,
) -> int:
    """Score the encoder of a checkpoint of RUN, and keep what is found with the run.

    knn, linear and patch-knn read features once, in one process. attentive, finetune and segmentation train a run of
    their own on the bank, on the cluster, and are then scored on the corpus. What scores runs on a node where --cluster
    names a profile of SLURM or Ray, and waits for it in this terminal; else here.
    """
    from gmml_cluster.launch.runs.find import find

    trained, frozen = _asked(scores)
    _refuse_pixels([*trained, *frozen], classes, features, sliding=sliding)
    if trained and (corpus is None or untrained or features):
        problem = f"{', '.join(trained)}; a run is trained on the bank, so --corpus names what is scored"
        raise SpecError(Fault("--with", problem, "give --corpus, and neither --untrained nor --feature"))
    bank, corpus = (None if url is None else absolute_url(url) for url in (bank, corpus))
    found = find(run, root)
    for name in trained:
        asked: dict[str, Any] = {"step": step, "bank": bank, "image": image, "epochs": epochs, "image_size": image_size}
        if name in _OF_PIXELS:
            asked["masks"] = {"classes": classes, "zero_ignored": zero_ignored}
        said = [*(["--sliding"] if sliding and name == "segmentation" else []), *(["--json"] if as_json else [])]
        result = _train_and_score(found, name, asked, cluster=cluster, corpus=str(corpus), said=said)
        if result:
            return result
    arguments = _words(
        {"--bank": bank, "--corpus": corpus, "--step": step, "--image": image, "--image-size": image_size}
    )
    arguments += [word for feature in features for word in ("--feature", feature)]
    arguments += [name for name, is_set in (("--untrained", untrained), ("--json", as_json)) if is_set]
    masks = [*_words({"--classes": classes}), *(["--zero-ignored"] if zero_ignored else [])]
    return _score_frozen(found, frozen, arguments, masks, cluster)


def _asked(scores: str) -> tuple[list[str], list[str]]:
    """Scores that train a run of their own, and those that read features once."""
    names = list(dict.fromkeys(scores.split(",")))
    unknown = [name for name in names if name not in (*_FROZEN, *_TRAINED)]
    if unknown:
        hint = f"write {', '.join(_FROZEN + _TRAINED)}, or several with commas"
        raise SpecError(Fault("--with", f"{unknown[0]!r} is no score", hint))
    return [name for name in names if name in _TRAINED], [name for name in names if name in _FROZEN]


def _refuse_pixels(names: list[str], classes: int | None, features: tuple[str, ...], *, sliding: bool) -> None:
    of_pixels = [name for name in names if name in _OF_PIXELS]
    if of_pixels and (classes is None or features):
        problem = f"{', '.join(of_pixels)}; they read patch tokens and masks"
        raise SpecError(Fault("--with", problem, "give --classes, and no --feature"))
    if sliding and "segmentation" not in names:
        raise SpecError(Fault("--sliding", "windows slide for segmentation alone", "leave it out"))


def _words(given: dict[str, Any]) -> list[str]:
    """The options that were given, as words of a command line."""
    return [word for name, value in given.items() if value is not None for word in (name, str(value))]


def _score_frozen(run: Any, names: list[str], arguments: list[str], masks: list[str], cluster: str | None) -> int:
    """Score features of the run, those of patches first; the exit code."""
    from gmml_cluster.launch.code import installed_code

    if not names:
        return 0
    code = installed_code(run.job({}).method.name)
    of_run = ["--root", run.root, "--run", run.name, "--code", code.digest]
    of_images = [name for name in names if name not in _OF_PIXELS]
    calls = [("gmml_cluster.evaluate.patch_knn", masks)] if of_images != names else []
    calls += [("gmml_cluster.evaluate", ["--with", ",".join(of_images)])] if of_images else []
    for module, more in calls:
        words = [*of_run, *arguments, *more]
        result = run_module(module, words, needs="torch", cluster=cluster, code=code)
        if result:
            return result
    return 0


def _train_and_score(
    source: Any, name: str, asked: dict[str, Any], *, cluster: str | None, corpus: str, said: list[str]
) -> int:
    """Train one method from the run's encoder, wait for it, and score it on the corpus as said; the exit code."""
    from gmml_cluster import api
    from gmml_cluster.launch.code import installed_code
    from gmml_cluster.launch.probes import probe_job, refuse_corpus
    from gmml_cluster.spec.loading.validate import to_yaml

    job = probe_job(source, name, **asked)
    refuse_corpus(job, corpus, source.root)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{job.name}.yaml"
        path.write_text(to_yaml(job))
        made = api.submit(path, cluster)
    click.echo(f"{name}: the run {made.name} trains it; gmml logs {made.name} shows its progress", err=True)
    made.wait()
    arguments = ["--root", made.location.root, "--run", made.name, "--of-root", source.root, "--of", source.name]
    code = installed_code(name)
    arguments += ["--corpus", corpus, "--code", code.digest, *said]
    module = "segment" if name in _OF_PIXELS else "classify"
    return run_module(f"gmml_cluster.evaluate.{module}", arguments, needs="torch", cluster=cluster, code=code)
