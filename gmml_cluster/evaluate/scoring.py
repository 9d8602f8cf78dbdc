"""From a trained run and a request to its scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch

from gmml_cluster.data.corpus.listing import shared_shards
from gmml_cluster.errors import Fault, SpecError
from gmml_cluster.evaluate.features import FEATURES, EvalCorpus, Feature, FeatureReader, Labelled, hold_out, read
from gmml_cluster.evaluate.knn import knn
from gmml_cluster.evaluate.linear import linear, shuffled
from gmml_cluster.evaluate.report import FROZEN, EvalReport
from gmml_cluster.evaluate.score import Score
from gmml_cluster.methods.protocol import Method, Setting, Summarises, exported_name
from gmml_cluster.models.encoders import AnyEncoder
from gmml_cluster.spec.job import JobSpec
from gmml_cluster.store.protocol import Store
from gmml_cluster.train.checkpoints.load_trained import Trained, encoder_at, full_precision
from gmml_cluster.wording import counted

SCORES = ("knn", "linear")
MOST_SHARED = 0.01
"""Share of a corpus that may be in the bank byte for byte: published splits share a few images."""
SUBSET = 67
"""Purpose of the draw of a part of a corpus; its seed is 0, so that every run is scored on the same images."""


@dataclass(frozen=True)
class Request:
    """What is to be scored.

    Attributes:
        run: name of the run, for the report.
        corpus: URL of the labelled corpus that is classified; None holds a tenth of the bank out.
        names: of SCORES.
        features: what is read; empty takes the encoder's that differ.
        bank: URL of the labelled corpus that votes and trains the probe; None takes the run's first.
        untrained: whether the network is the one before the first step.
        image: field of the images in both corpora; None takes that of the run's first corpus.
        code: digest of the code that scores, for the report.
        image_size: side of the images that the encoder reads; None for the run's.
        bank_images: most images of the bank; None takes all. `corpus_images` likewise.
    """

    run: str
    corpus: str | None
    names: Sequence[str]
    features: Sequence[Feature] = ()
    bank: str | None = None
    untrained: bool = False
    image: str | None = None
    code: str = ""
    image_size: int | None = None
    bank_images: int | None = None
    corpus_images: int | None = None


def reader_of(trained: Trained, image_size: int | None = None) -> FeatureReader:
    """The run's encoder, frozen, on the GPU where there is one; for images of another size where one is given.

    Raises:
        CheckpointError: the encoder cannot be brought to that size.
    """
    full_precision()
    encoder = _encoder_of(trained)
    if image_size is not None:
        encoder = encoder_at(Setting.of(trained.job), encoder, image_size)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trained.method.module.to(device).eval().requires_grad_(False)
    reader = reader_with(encoder.to(device).eval().requires_grad_(False), trained.job, trained.method, device)
    summary = trained.method.summary if isinstance(trained.method, Summarises) else None
    return replace(reader, image_size=image_size or reader.image_size, summary=summary)


def reader_with(encoder: AnyEncoder, job: JobSpec, method: Method, device: torch.device) -> FeatureReader:
    """Reads features with an encoder of the job's method, which is frozen and on the device."""
    return FeatureReader(encoder, job.data.image_size, job.data.normalise, method.taps, device)


def features_of(trained: Trained) -> list[Feature]:
    """All features of the encoder: `class` where it has such a token, `taps` only where it differs from `mean`."""
    left_out = {"pixels"}
    if tuple(trained.method.taps) == (trained.job.model.depth,):
        left_out.add("taps")
    if _encoder_of(trained).cls_token is None:
        left_out.add("class")
    if not isinstance(trained.method, Summarises):
        left_out.add("global")
    return [name for name in FEATURES if name not in left_out]


def _encoder_of(trained: Trained) -> AnyEncoder:
    return cast(AnyEncoder, trained.method.module.get_submodule(exported_name(trained.method)))


def demand_class_token(encoder: AnyEncoder, names: Sequence[Feature], method: str) -> None:
    """Refuse the feature `class` of an encoder without a class token.

    Raises:
        SpecError: it has none.
    """
    if "class" in names and encoder.cls_token is None:
        problem = f"class; the encoder of {method} has no class token"
        raise SpecError(Fault("--feature", problem, "read mean"))


def evaluate(trained: Trained, request: Request, indexes: Store | None = None) -> EvalReport:
    """Read both corpora and score the encoder, feature by feature; `indexes` may hold those of their shards.

    Raises:
        SpecError: bank and corpus share shards, or the encoder lacks a feature that is asked for.
        DataError: one of them has no labels.
        CheckpointError: a feature is not finite.
    """
    names = request.features or features_of(trained)
    demand_class_token(_encoder_of(trained), names, trained.job.method.name)
    _demand_summary(trained, request)
    bank, corpus = corpora_of(trained.job, request, indexes)
    reader = reader_of(trained, request.image_size)
    features = reader.features(bank, names), reader.features(corpus, names)
    found = scores_of(*features, request.names, seed=trained.job.seed)
    if reader.image_size != trained.job.data.image_size:  # else `gmml compare` would show both sizes in one column
        found = [replace(score, settings={**score.settings, "image_size": reader.image_size}) for score in found]
    return report_of(request, bank, corpus, found, step=trained.step)


def _demand_summary(trained: Trained, request: Request) -> None:
    """Refuse the feature `global` of a method that has none.

    Raises:
        SpecError: it is asked for so.
    """
    if "global" not in request.features:
        return
    if not isinstance(trained.method, Summarises):
        problem = f"global; {trained.job.method.name} has no feature of whole images of its own"
        raise SpecError(Fault("--feature", problem, "read mean"))


def corpora_of(job: JobSpec, request: Request, indexes: Store | None) -> tuple[EvalCorpus, EvalCorpus]:
    """The bank and the corpus of a request, of each no more images than it asks for.

    Raises:
        SpecError: they share shards.
        DataError: one of them has no labels.
    """
    first = job.data.corpora[0]
    image = request.image or first.image
    bank = read(request.bank or first.url, indexes, image)
    bank, corpus = hold_out(bank) if request.corpus is None else (bank, read(request.corpus, indexes, image))
    if request.corpus is not None:
        demand_apart(bank, corpus)
    return _part(bank, request.bank_images), _part(corpus, request.corpus_images)


def _part(corpus: EvalCorpus, most: int | None) -> EvalCorpus:
    """At most so many of its images, drawn by number: the same ones at each call."""
    if most is None or len(corpus.labels) <= most:
        return corpus
    chosen = torch.zeros(len(corpus.labels), dtype=torch.bool)
    chosen[shuffled(len(corpus.labels), 0, SUBSET)[:most]] = True
    return corpus.part(f"{most} drawn", chosen)


def scores_of(
    of_bank: Mapping[Feature, Labelled], of_corpus: Mapping[Feature, Labelled], names: Sequence[str], *, seed: int
) -> list[Score]:
    """The named scores of each feature, in the order of the features.

    Raises:
        DataError: the bank is too small for a probe.
    """
    found: list[Score] = []
    for feature, bank in of_bank.items():
        if "knn" in names:
            found += knn(bank, of_corpus[feature], feature=feature)
        if "linear" in names:
            found += linear(bank, of_corpus[feature], feature=feature, seed=seed)
    return found


def report_of(
    request: Request, bank: EvalCorpus, corpus: EvalCorpus, scores: Sequence[Score], *, step: int
) -> EvalReport:
    """What an evaluation says of the weights behind a step."""
    return EvalReport(
        run=request.run,
        step=step,
        untrained=request.untrained,
        bank=_source(bank),
        corpus=_source(corpus),
        scores=tuple(scores),
        digests=(bank.identity, corpus.identity),
        code=request.code,
        protocol=FROZEN if request.image_size is None else f"{FROZEN}; read at {request.image_size} pixels",
    )


def demand_apart(bank: EvalCorpus, corpus: EvalCorpus) -> None:
    """Refuse a corpus of which images are in the bank, in the same shards or packed again.

    Raises:
        SpecError: there are such images; a copy of a shard without checksums is not recognised.
    """
    if shared := shared_with(corpus, bank, "the bank"):
        rule = "every image there is its own nearest neighbour"
        raise SpecError(Fault(corpus.url, f"{shared}; {rule}", "name another --bank, or leave --corpus out"))


def shared_with(corpus: EvalCorpus, other: EvalCorpus, name: str) -> str:
    """What a corpus has in common with another, to be read after its name, as `shares 1 shard of 3 with the bank`.

    Empty where that is nothing, or a few images only.
    """
    shared, images = shared_shards(corpus.shards, other.shards, name), other.contents & corpus.contents
    if shared or len(images) <= MOST_SHARED * len(corpus.contents):
        return shared
    return f"shares {counted(len(images), 'image')} of {len(corpus.contents)} with {name}, byte for byte"


def _source(corpus: EvalCorpus) -> tuple[str, int]:
    return corpus.url, len(corpus.labels)
