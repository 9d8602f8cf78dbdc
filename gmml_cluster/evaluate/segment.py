"""`python -m gmml_cluster.evaluate.segment`: the mIoU of a trained head, kept with the run of its encoder."""

from collections.abc import Iterable, Sequence
from typing import cast

import click
import torch
from torch import Tensor

from gmml_cluster.data.corpus.listing import indexes_below
from gmml_cluster.errors import Fault, SpecError
from gmml_cluster.evaluate.classify import head_report
from gmml_cluster.evaluate.masked import (
    AT_ONCE,
    Confusion,
    MaskedCorpus,
    MaskScore,
    Pair,
    dense_settings,
    read_masked,
    squeezed,
)
from gmml_cluster.evaluate.report import EvalReport, publish
from gmml_cluster.evaluate.scoring import demand_apart
from gmml_cluster.evaluate.windows import slid
from gmml_cluster.methods.segmentation import Segmenter
from gmml_cluster.progress import progress
from gmml_cluster.spec.methods.segmentation import SegmentationOptions
from gmml_cluster.train.checkpoints.load_trained import Trained, full_precision, load_trained

MOMENTS_OF = 4096
"""Images of the bank, evenly spread, whose patches' moments stand for those of a frozen encoder's groups."""


@torch.inference_mode()
def score_head(trained: Trained, bank: MaskedCorpus, corpus: MaskedCorpus, *, sliding: bool = False) -> MaskScore:
    """Score a run's head; images are squeezed to its square, logits upsampled to each mask.

    Args:
        trained: the run.
        bank: what it was trained on.
        corpus: what is scored.
        sliding: whether images keep their shape instead, and windows slide over them.

    Raises:
        SpecError: the run has no such head.
    """
    job, options = trained.job, trained.job.method
    if not isinstance(options, SegmentationOptions):
        problem = f"{options.name} has no head that classifies pixels"
        raise SpecError(Fault(job.name, problem, "name a run of segmentation"))
    full_precision()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module = cast(Segmenter, trained.method.module.to(device).eval())
    moments = _moments(trained, module, bank, device) if options.frozen else None
    counted, read = Confusion(options.classes), (job.data.image_size, job.data.normalise, device)

    def logits(images: Tensor) -> Tensor:
        return cast(Tensor, module(images, None, moments))

    def maps(pairs: Sequence[Pair]) -> Iterable[Tensor]:
        return (slid(logits, image, *read) for image, _ in pairs) if sliding else logits(squeezed(pairs, *read))

    with progress(f"reading {corpus.url}", len(corpus.indices)) as advance:
        for indices in torch.split(corpus.indices, AT_ONCE):
            pairs = corpus.pairs(indices.tolist())
            for maps_KGG, (_, mask) in zip(maps(pairs), pairs, strict=True):
                counted.add(maps_KGG, mask)
            advance(len(indices))
    settings = dense_settings(options.classes, job.data.image_size, zero_ignored=options.zero_ignored)
    settings |= {"sliding": 1} if sliding else {}
    settings |= {"epochs": job.run.epochs} if job.run.epochs else {}
    return counted.score("segmentation", f"mIoU {'frozen' if options.frozen else 'trained'}", settings)


def _moments(trained: Trained, module: Segmenter, bank: MaskedCorpus, device: torch.device) -> Tensor:
    """Mean and variance (2, D) of the bank's patch tokens, in float64 between batches."""
    data, count = trained.job.data, 0
    sums = torch.zeros(2, module.classifier.in_features, dtype=torch.float64)
    for indices in torch.split(bank.indices[:: max(1, len(bank.indices) // MOMENTS_OF)], AT_ONCE):
        images = squeezed(bank.pairs(indices.tolist()), data.image_size, data.normalise, device)
        x_MD = module.patches(images).flatten(0, 1).cpu().double()
        sums, count = sums + torch.stack([x_MD.sum(0), x_MD.square().sum(0)]), count + len(x_MD)
    mean_D, square_D = sums / count
    return torch.stack([mean_D, square_D - mean_D.square()]).float().to(device)


@click.command("gmml eval")
@click.option("--root", required=True, help="Folder or URL under which the run with the head lies.")
@click.option("--run", required=True, help="Its name.")
@click.option("--of-root", required=True, help="Folder or URL under which the evaluated run lies.")
@click.option("--of", required=True, help="Name of the run that is evaluated.")
@click.option("--corpus", required=True, help="Corpus with masks that is scored.")
@click.option("--sliding", is_flag=True, help="Windows slide over images that keep their shape.")
@click.option("--code", default="", help="Digest of the code in use, for the report.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of a table.")
def main(root: str, run: str, of_root: str, of: str, corpus: str, sliding: bool, code: str, as_json: bool) -> None:
    """Score the segmentation that a run has trained on another run's encoder."""

    def report() -> EvalReport:
        trained = load_trained(root, run)
        job, indexes = trained.job, indexes_below(root)
        first, table = job.data.corpora[0], getattr(job.method, "mask_table", ())
        bank, scored = (read_masked(url, table, indexes, first.image) for url in (first.url, corpus))
        demand_apart(bank, scored)
        found = score_head(trained, bank, scored, sliding=sliding)
        how = "windows slid over images of their own shape" if sliding else "images squeezed to a square, whole"
        how = f"{how}, unaugmented; scored at the masks' own size"
        return head_report(trained, found, run=run, of=of, bank=bank, scored=scored, code=code, how=how, metric="mIoU")

    publish(report, of_root, of, as_json=as_json)


if __name__ == "__main__":
    main()
