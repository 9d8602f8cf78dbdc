"""Nearest neighbours of patches: what a frozen encoder's patch tokens say of pixels, without a trained head.

A patch of the bank votes with the shares of its pixels' classes, so a patch on an edge votes for both sides. Features
are standardised by the bank's moments, as masked-image tokens have a common mean that hides what differs.

Legend: M patches of the bank, Q queries, N patches of an image of G a row, D width, K classes, k neighbours.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import click
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gmml_cluster.data.corpus.listing import indexes_below
from gmml_cluster.data.reader.crop import resize_mask
from gmml_cluster.evaluate.features import hold_out
from gmml_cluster.evaluate.knn import TEMPERATURE, nearest
from gmml_cluster.evaluate.linear import shuffled
from gmml_cluster.evaluate.masked import (
    AT_ONCE,
    Confusion,
    MaskedCorpus,
    MaskScore,
    dense_settings,
    read_masked,
    squeezed,
)
from gmml_cluster.evaluate.report import EvalReport, publish
from gmml_cluster.evaluate.scoring import demand_apart, reader_of
from gmml_cluster.models.vit import EPS
from gmml_cluster.progress import progress
from gmml_cluster.spec.methods.segmentation import IGNORED, mask_table
from gmml_cluster.train.checkpoints.load_trained import load_trained

NEIGHBOURS = (1, 10, 30)
MAIN = 30
MOST = 2**16
"""Patches of the bank at most; of larger banks equally many patches an image are drawn."""
PATCHES = 68
"""Purpose of that draw; its seed is 0, so that every run has the same bank."""

_PROTOCOL = (
    "patch tokens of the frozen encoder, standardised; images squeezed to a square, whole, unaugmented; scored at the"
    " masks' own size"
)

Read = Callable[[MaskedCorpus, Sequence[int]], tuple[Tensor, list[NDArray[np.uint8]]]]
"""Patch tokens (B, N, D) of some samples, and their masks."""


@dataclass(frozen=True)
class Bank:
    """Patches that vote: features (M, D), and shares of the classes among their labelled pixels (M, K)."""

    features: Tensor
    shares: Tensor


def shares_of(mask: NDArray[np.uint8], grid: int, patch: int, classes: int) -> NDArray[np.float32]:
    """Pixels of each class in each patch of a mask that is squeezed like its image (N, K), over the labelled ones.

    All zeros for a patch without a labelled pixel.
    """
    square = np.empty((grid * patch, grid * patch), np.uint8)
    resize_mask(mask, np.array([0, 0, *mask.shape]), square)
    pixels_Np2 = square.reshape(grid, patch, grid, patch).swapaxes(1, 2).reshape(grid * grid, -1)
    counts_NK: NDArray[np.float32] = (pixels_Np2[:, :, None] == np.arange(classes)).sum(1, dtype=np.float32)
    shares_NK: NDArray[np.float32] = counts_NK / np.maximum(counts_NK.sum(1, keepdims=True), 1)
    return shares_NK


def make_bank(corpus: MaskedCorpus, read: Read, grid: int, patch: int, classes: int) -> Bank:
    """The bank's patches that have a labelled pixel, `MOST` at most."""
    features, shares, of_image = list[Tensor](), list[Tensor](), max(1, MOST // len(corpus.indices))
    with progress(f"reading {corpus.url}", len(corpus.indices)) as advance:
        for indices in torch.split(corpus.indices, AT_ONCE):
            x_BND, masks = read(corpus, indices.tolist())
            for number, x_ND, mask in zip(indices.tolist(), x_BND, masks, strict=True):
                own = torch.from_numpy(shares_of(mask, grid, patch, classes))
                chosen = shuffled(grid * grid, 0, PATCHES, number)[:of_image]
                chosen = chosen[own[chosen].sum(1) > 0]
                features.append(x_ND[chosen.to(x_ND.device)])
                shares.append(own[chosen])
            advance(len(indices))
    features_MD = torch.cat(features)
    return Bank(features_MD, torch.cat(shares).to(features_MD.device))


def votes(bank: Bank, query_QD: Tensor, ks: Sequence[int]) -> list[Tensor]:
    """For each k the shares of the classes (Q, K) among the k nearest, each weighted by exp(similarity / 0.07)."""
    similarity_Qk, index_Qk = nearest(bank.features, query_QD, max(ks))
    weight_Qk = torch.exp((similarity_Qk - similarity_Qk[:, :1]) / TEMPERATURE)
    found = []
    for k in ks:
        sums_QK = torch.einsum("qk,qkc->qc", weight_Qk[:, :k], bank.shares[index_Qk[:, :k]])
        found.append(sums_QK / weight_Qk[:, :k].sum(1, keepdim=True))
    return found


def patch_knn(
    bank: MaskedCorpus, corpus: MaskedCorpus, read: Read, *, grid: int, patch: int, classes: int
) -> list[MaskScore]:
    """The mIoU at k = 1, 10 and 30, as far as the bank reaches; k = 30 is the number to report."""
    voters = make_bank(bank, read, grid, patch, classes)
    variance_D, mean_D = torch.var_mean(voters.features, 0, correction=0)
    scale_D = (variance_D + EPS).sqrt()
    voters = Bank((voters.features - mean_D) / scale_D, voters.shares)
    ks = sorted({min(k, len(voters.features)) for k in NEIGHBOURS})
    counted = {k: Confusion(classes) for k in ks}
    with progress(f"reading {corpus.url}", len(corpus.indices)) as advance:
        for indices in torch.split(corpus.indices, AT_ONCE):
            x_BND, masks = read(corpus, indices.tolist())
            found = votes(voters, (x_BND.flatten(0, 1) - mean_D) / scale_D, ks)
            for k, shares_QK in zip(ks, found, strict=True):
                maps_BKGG = shares_QK.view(len(x_BND), grid, grid, classes).permute(0, 3, 1, 2)
                for maps_KGG, mask in zip(maps_BKGG, masks, strict=True):
                    counted[k].add(maps_KGG, mask)
            advance(len(indices))
    patches = len(voters.features)
    return [counted[k].score("patch-knn", "mIoU", {"k": k, "patches": patches}, main=k == ks[-1]) for k in ks]


@click.command("gmml eval")
@click.option("--root", required=True, help="Folder or URL under which the run lies.")
@click.option("--run", required=True, help="Name of the run.")
@click.option("--step", type=click.IntRange(min=0), help="Checkpoint to read; the latest by default.")
@click.option("--bank", help="Corpus with masks that votes; the run's first corpus by default.")
@click.option("--corpus", help="Corpus with masks that is scored; a held-out tenth of the bank by default.")
@click.option("--classes", type=click.IntRange(2, IGNORED - 1), required=True, help="Number of classes.")
@click.option("--zero-ignored", is_flag=True, help="Pixels of value 0 do not count; classes begin at 1.")
@click.option("--image", help="Field of the images; that of the run's first corpus by default.")
@click.option("--image-size", type=click.IntRange(min=1), help="Side of the images to read; the run's by default.")
@click.option("--untrained", is_flag=True, help="Score the network before its first step.")
@click.option("--code", default="", help="Digest of the code in use, for the report.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of a table.")
def main(
    root: str,
    run: str,
    step: int | None,
    bank: str | None,
    corpus: str | None,
    classes: int,
    zero_ignored: bool,
    image: str | None,
    image_size: int | None,
    untrained: bool,
    code: str,
    as_json: bool,
) -> None:
    """Score a run's patch tokens by their nearest neighbours in a corpus with masks, in one process."""

    @torch.inference_mode()
    def report() -> EvalReport:
        trained = load_trained(root, run, step=step, untrained=untrained)
        indexes, first = indexes_below(root), trained.job.data.corpora[0]
        table, field = mask_table(classes, ignore=IGNORED, zero_ignored=zero_ignored), image or first.image
        voting = read_masked(bank or first.url, table, indexes, field)
        voters, scored = hold_out(voting) if corpus is None else (voting, read_masked(corpus, table, indexes, field))
        if corpus is not None:
            demand_apart(voters, scored)
        reader = reader_of(trained, image_size)
        encoder = reader.encoder

        def read(source: MaskedCorpus, some: Sequence[int]) -> tuple[Tensor, list[NDArray[np.uint8]]]:
            pairs = source.pairs(some)
            images = squeezed(pairs, reader.image_size, reader.normalise, reader.device)
            return encoder(images)[:, encoder.prefix_tokens :].float(), [mask for _, mask in pairs]

        shape = {"grid": encoder.grid, "patch": trained.job.model.patch_size, "classes": classes}
        asked = dense_settings(classes, reader.image_size, zero_ignored=zero_ignored)
        found = patch_knn(voters, scored, read, **shape)  # type: ignore[arg-type]
        return EvalReport(
            run=run,
            step=trained.step,
            untrained=untrained,
            bank=(voters.url, len(voters.labels)),
            corpus=(scored.url, len(scored.labels)),
            scores=tuple(replace(score, settings={**score.settings, **asked}) for score in found),
            digests=(voters.identity, scored.identity),
            code=code,
            protocol=f"{_PROTOCOL}; zero {'ignored' if zero_ignored else 'counts'}",
            metric="mIoU",
        )

    publish(report, root, run, as_json=as_json)


if __name__ == "__main__":
    main()
