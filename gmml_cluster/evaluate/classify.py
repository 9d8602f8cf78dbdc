"""`python -m gmml_cluster.evaluate.classify`: the accuracy of a trained head, kept with the run of its encoder."""

from typing import cast

import click
import torch
from torch import Tensor, nn

from gmml_cluster.data.corpus.listing import indexes_below
from gmml_cluster.errors import DataError, Fault, SpecError
from gmml_cluster.evaluate.features import BATCH, EvalCorpus, normalised, read
from gmml_cluster.evaluate.report import EvalReport, publish
from gmml_cluster.evaluate.score import Score
from gmml_cluster.evaluate.scoring import demand_apart, shared_with
from gmml_cluster.methods.probe import Probed
from gmml_cluster.methods.protocol import Method, exported_name
from gmml_cluster.progress import progress
from gmml_cluster.train.checkpoints.load_trained import Trained, full_precision, load_trained
from gmml_cluster.wording import counted

CLASSIFIERS = {"attentive": "patches", "linear": "token", "finetune": "pool", "supervised": "pool"}
"""Methods whose module gives the logits of single images, and what their head reads."""


MOMENTS_OF = 4096
"""Images of the bank, evenly spread, whose features' moments stand for those of a probe's groups."""


def _images_of(trained: Trained, corpus: EvalCorpus, indices: Tensor) -> Tensor:
    data, device = trained.job.data, next(trained.method.module.parameters()).device
    return normalised(corpus.images(indices.tolist()), data.image_size, data.normalise, device)


def _moments(trained: Trained, bank: EvalCorpus) -> Tensor:
    """Mean and variance (2, D) of a probe's features over the bank, in float64 between batches."""
    module = cast(Probed, trained.method.module)
    chosen = bank.indices[:: max(1, len(bank.indices) // MOMENTS_OF)]
    sums = torch.zeros(2, module.width, dtype=torch.float64)
    for indices in torch.split(chosen, BATCH):
        x_nD = module.features(module.tokens(_images_of(trained, bank, indices))).cpu().double()
        sums += torch.stack([x_nD.sum(0), x_nD.square().sum(0)])
    mean_D, square_D = sums / len(chosen)
    return torch.stack([mean_D, square_D - mean_D.square()]).float().to(next(module.parameters()).device)


def _classifier(method: Method) -> nn.Module:
    """What gives the logits: the method's module, or what has the encoder that is exported, an average of it."""
    return method.module.get_submodule(exported_name(method).rpartition("encoder")[0].removesuffix("."))


@torch.inference_mode()
def hits(trained: Trained, corpus: EvalCorpus, bank: EvalCorpus) -> list[int]:
    """For each head, the images of a corpus whose class has the greatest logit; images are unaugmented.

    A probe of a frozen encoder norms features by their moments over the bank, which are constants of the encoder: its
    training used those of each group.

    Raises:
        SpecError: the run has no head that classifies single images.
        DataError: the corpus has a class that it does not know.
    """
    job = trained.job
    if job.method.name not in CLASSIFIERS:
        problem = f"{job.method.name} has no head that classifies single images"
        raise SpecError(Fault(job.name, problem, f"it takes one of {', '.join(CLASSIFIERS)}"))
    if int(corpus.labels.max()) >= job.method.classes:  # type: ignore[union-attr]
        problem = f"has the class {int(corpus.labels.max())}, but the bank had {job.method.classes}"  # type: ignore[union-attr]
        raise DataError(Fault(corpus.url, problem, "name a corpus of the same classes"))
    full_precision()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trained.method.module.to(device).eval()
    module = _classifier(trained.method)
    classes = job.method.classes  # type: ignore[union-attr]
    moments = (_moments(trained, bank),) if isinstance(module, Probed) else ()
    found: list[Tensor] = []
    with progress(f"reading {corpus.url}", len(corpus.indices)) as advance:
        for indices, labels in zip(
            *(torch.split(each, BATCH) for each in (corpus.indices, corpus.labels)), strict=True
        ):
            logits_nRK = module(_images_of(trained, corpus, indices), *moments).view(len(indices), -1, classes)
            found.append((logits_nRK.argmax(2).cpu() == labels[:, None]).sum(0))
            advance(len(indices))
    return [int(count) for count in torch.stack(found).sum(0)]


def _demand_held_out(held_out: EvalCorpus, bank: EvalCorpus, scored: EvalCorpus) -> None:
    """Refuse to choose a head on images that it was trained on, or that it is scored on.

    Raises:
        SpecError: there are such images.
    """
    for other, name in ((bank, "what the run is trained on"), (scored, "--corpus")):
        if shared := shared_with(held_out, other, name):
            raise SpecError(Fault("--choose-on", f"{held_out.url} {shared}", "name shards that are in neither"))


def _choice(trained: Trained, held_out: EvalCorpus | None, bank: EvalCorpus) -> tuple[int, str]:
    """Number of the head with most hits on what was held out, of equals that of the least rate; and how it was chosen.

    Raises:
        SpecError: there are several heads and nothing to choose on, or the reverse.
    """
    rates = getattr(trained.job.method, "rates", (1.0,))
    if held_out is None:
        if len(rates) > 1:
            problem = f"absent, but the run has {len(rates)} heads"
            raise SpecError(Fault("--choose-on", problem, "name labelled shards that it was not trained on"))
        return 0, ""
    if len(rates) == 1:
        raise SpecError(Fault("--choose-on", "given, but the run has 1 head", "leave it out"))
    found = hits(trained, held_out, bank)
    chosen = max(range(len(rates)), key=lambda head: (found[head], -rates[head]))
    share = f"{found[chosen]} of {counted(len(held_out.labels), 'image')}"
    return chosen, f"; the best of {len(rates)} learning rates on {held_out.url} ({share})"


def classify(root: str, run: str, *, of: str, corpus: str, choose_on: str | None = None, code: str = "") -> EvalReport:
    """Score a run's head on a corpus that shares nothing with what it was trained on.

    Args:
        root: folder or URL under which the run with the head lies.
        run: its name.
        of: name of the run whose encoder it began from.
        corpus: URL of the labelled shards that are classified.
        choose_on: URL of labelled shards on which one of several heads is chosen, neither trained on nor scored.
        code: digest of the code that scores.

    Raises:
        SpecError: bank and corpus share shards or images.
        DataError: one of them has no labels.
        CheckpointError: there is no checkpoint, or it is damaged.
    """
    trained = load_trained(root, run)
    job, indexes = trained.job, indexes_below(root)
    first = job.data.corpora[0]
    bank, scored = read(first.url, indexes, first.image), read(corpus, indexes, first.image)
    demand_apart(bank, scored)
    held_out = None if choose_on is None else read(choose_on, indexes, first.image)
    if held_out is not None:
        _demand_held_out(held_out, bank, scored)
    head, how = _choice(trained, held_out, bank)
    settings: dict[str, float | int] = {"epochs": job.run.epochs} if job.run.epochs else {}
    settings |= {"lr": job.optim.peak_lr(job.batch.size), "batch": job.batch.size}
    if how:
        settings["lr"] = round(job.optim.peak_lr(job.batch.size) * job.method.rates[head], 6)  # type: ignore[union-attr]
    found = Score(
        job.method.name,
        CLASSIFIERS.get(job.method.name, ""),
        hits(trained, scored, bank)[head],
        len(scored.labels),
        settings,
    )
    how = f"images unaugmented, central square of 256/224{how}"
    return head_report(trained, found, run=run, of=of, bank=bank, scored=scored, code=code, how=how)


def head_report(
    trained: Trained,
    found: Score,
    *,
    run: str,
    of: str,
    bank: EvalCorpus,
    scored: EvalCorpus,
    code: str,
    how: str,
    metric: str = "top-1",
) -> EvalReport:
    """The report on a head, for the run whose encoder it was trained on.

    Args:
        trained: the head's run.
        found: its score.
        run: its name.
        of: name of the encoder's run.
        bank: what it was trained on.
        scored: what was scored.
        code: digest of the code in use.
        how: how images were read.
        metric: what the score is.
    """
    init = trained.job.init
    return EvalReport(
        run=of,
        step=trained.step if init is None or init.step is None else init.step,
        untrained=False,
        bank=(bank.url, len(bank.labels)),
        corpus=(scored.url, len(scored.labels)),
        scores=(found,),
        digests=(bank.identity, scored.identity),
        code=code,
        protocol=f"head of the run {run}, its last checkpoint; {how}",
        metric=metric,
    )


@click.command("gmml eval")
@click.option("--root", required=True, help="Folder or URL under which the run with the head lies.")
@click.option("--run", required=True, help="Its name.")
@click.option("--of-root", required=True, help="Folder or URL under which the evaluated run lies.")
@click.option("--of", required=True, help="Name of the run that is evaluated.")
@click.option("--corpus", required=True, help="Labelled corpus that is classified.")
@click.option("--choose-on", help="Labelled corpus on which one of several heads is chosen.")
@click.option("--code", default="", help="Digest of the code in use, for the report.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of a table.")
def main(
    root: str, run: str, of_root: str, of: str, corpus: str, choose_on: str | None, code: str, as_json: bool
) -> None:
    """Score the head that a run has trained on another run's encoder."""
    publish(
        lambda: classify(root, run, of=of, corpus=corpus, choose_on=choose_on, code=code), of_root, of, as_json=as_json
    )


if __name__ == "__main__":
    main()
