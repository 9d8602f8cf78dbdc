"""What the scores between two steps cost, by arithmetic."""

from dataclasses import dataclass, replace

from gmml_cluster.spec.evaluate import Evaluate
from gmml_cluster.spec.job import JobSpec
from gmml_cluster.spec.methods.counts import encoder_stack
from gmml_cluster.spec.methods.encoder_kind import EncoderKind, kind_of
from gmml_cluster.spec.rules import view_size

_AT_ONCE = 128
"""Images of a forward pass, `evaluate.features.BATCH`, which stands on torch."""
_HELD_OUT = 10
"""One image in so many of the bank is scored where no corpus is named."""


@dataclass(frozen=True)
class LabelledCounts:
    """Images with a class in the bank and in the corpus that is scored; None where that is not known."""

    bank: int | None = None
    corpus: int | None = None


@dataclass(frozen=True)
class EvaluationPlan:
    """Scores between two steps. None: known only after indexing."""

    scores: tuple[str, ...]
    """Their names."""
    features: tuple[str, ...]
    """What they read."""
    every_steps: int | None
    """Steps between two evaluations."""
    times: int | None
    """Evaluations of the whole run, that after its last step among them."""
    images: int | None
    """Read in one evaluation, at most."""
    flops: int | None
    """FLOP of one evaluation's forward passes, over all ranks."""
    share: float | None
    """Of these in the run's arithmetic, 0 to 1, by the time that either takes at its peak: features are read in fp32,
    which on GPUs takes several times as long as bf16."""


def evaluation_plan(
    job: JobSpec,
    *,
    steps: int | None,
    epoch_steps: float | None,
    run_flops: int | None,
    labelled: LabelledCounts,
    slower: float = 1.0,
) -> EvaluationPlan | None:
    """The cost of a job's `evaluate`; None where it has none.

    Args:
        job: the job.
        steps: of the run.
        epoch_steps: steps an epoch of the first corpus takes.
        run_flops: FLOP of all its steps and passes; None where `steps` is.
        labelled: images that there are to be scored.
        slower: time of a FLOP in fp32 over that of one in the job's precision.
    """
    asked = job.evaluate
    if asked is None:
        return None
    known = asked.every.epochs is None or epoch_steps is not None
    every = max(1, asked.every.in_steps(batch=job.batch.size, epoch_steps=epoch_steps or 0.0)) if known else None
    times = None if every is None or steps is None else -(-steps // every)
    images = _images(asked, labelled)
    flops = None if images is None else images * _forward_flops(job, asked)
    share = None
    if times is not None and run_flops is not None and flops is not None:
        spent = times * flops * slower
        share = spent / (spent + run_flops)
    features = tuple(dict.fromkeys(asked.features))
    return EvaluationPlan(tuple(dict.fromkeys(asked.scores)), features, every, times, images, flops, share)


def scoring_bytes(job: JobSpec) -> int:
    """Bytes of a rank's device that scores between two steps need; 0 where there are none.

    A copy of the encoder in fp32, and a batch of `_AT_ONCE` images in it: the images, and a block's values for each
    token, of which a pass without gradients holds no other block's.
    """
    if job.evaluate is None:
        return 0
    patches, kind = (view_size(job) // job.model.patch_size) ** 2, kind_of(job.method) or EncoderKind()
    block = replace(kind.stack(job.model, patches), blocks=1).activation_bytes("fp32", checkpointing=False)
    image = 3 * 4 * patches * job.model.patch_size**2
    return 4 * kind.parameters(job.model, patches) + _AT_ONCE * (block + image)


def _images(asked: Evaluate, labelled: LabelledCounts) -> int | None:
    """Images of one evaluation, or the limits where the corpora are not known."""
    bank, corpus = labelled.bank, labelled.corpus
    if asked.corpus is None and bank is not None:
        bank, corpus = bank - bank // _HELD_OUT, bank // _HELD_OUT
    counts = []
    for held, most in ((bank, asked.bank_images), (corpus, asked.corpus_images)):
        if held is None and most is None:
            return None
        counts.append(min(each for each in (held, most) if each is not None))
    return sum(counts)


def _forward_flops(job: JobSpec, asked: Evaluate) -> int:
    """FLOP of one image: a pass of the encoder over all patches and a class token, and another for tapped blocks."""
    patches = (view_size(job) // job.model.patch_size) ** 2
    one = encoder_stack(job.model, patches + 1).flops + 2 * patches * 3 * job.model.patch_size**2 * job.model.width
    return one * len({feature == "taps" for feature in asked.features})
