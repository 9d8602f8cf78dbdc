"""What is measured: rows, corpora, seeds and budgets, and the names of their runs."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

IMAGES = 100_000
"""Images of pre-training of the whole table."""
FINETUNE_SHARE, ATTENTIVE_SHARE = 0.16, 0.64
"""Images of fine-tuning and of the attentive probe for each of pre-training: 250 steps each in the whole table."""
SCRATCH = "scratch"


@dataclass(frozen=True)
class Recipe:
    """How a method is pre-trained.

    Attributes:
        job: file under `jobs/`.
        overrides: what differs from it here, by dotted name.
        share: images of pre-training for each of the budget's.
        seeded: whether several seeds are measured on the first corpus, and one on the others.
    """

    job: str
    overrides: Mapping[str, Any]
    share: float = 1.0
    seeded: bool = False


_BY_32 = {"batch.size": 64, "data.group": 32}
"""Two groups a step, so that both ranks of a machine without GPU have one."""
METHODS = {
    "mae": Recipe("cifar10_vit_tiny.yaml", {}, seeded=True),
    "amt": Recipe(
        "cifar10_amt.yaml",
        {"method.amt.start": "3 epochs", "method.amt.interval": "3 epochs", "data.corpora.0.samples": "null"},
    ),
    "gmml": Recipe("cifar10_gmml.yaml", {}, share=3.0, seeded=True),
    "simmim": Recipe("cifar10_simmim.yaml", {}),
    "conmim": Recipe("cifar10_conmim.yaml", _BY_32),
    "relvit": Recipe("cifar10_relvit.yaml", {}),
    "ijepa": Recipe("cifar10_ijepa.yaml", {}),
    "capi": Recipe(
        "cifar10_capi.yaml",
        {"model.depth": 6, "model.drop_path": 0, "method.clusters": 32, **_BY_32},
    ),
}


@dataclass(frozen=True)
class Corpus:
    """A corpus of the table; patches are an eighth of the images' side, so that all encoders see 64."""

    train: str
    test: str
    image_size: int


CORPORA = {
    "cifar10": Corpus("train-*.tar", "test-*.tar", 32),
    "tiny_imagenet_50": Corpus("train-*.tar", "heldout-*.tar", 64),
}


@dataclass(frozen=True)
class Trial:
    """One encoder that is scored: pre-trained, or as the method's seed draws it.

    Attributes:
        corpus: key of `CORPORA`.
        method: key of `METHODS`.
        seed: of pre-training, fine-tuning and the probe.
        images: the budget, from which all others follow.
        scratch: whether it is the start of the method, without any training.
    """

    corpus: str
    method: str
    seed: int
    images: int
    scratch: bool = False

    @property
    def recipe(self) -> Recipe:
        """How it is pre-trained."""
        return METHODS[self.method]

    @property
    def pretraining(self) -> int:
        """Images of pre-training; 0 for a start."""
        return 0 if self.scratch else round(self.images * self.recipe.share)

    @property
    def heads(self) -> dict[str, int]:
        """Methods that train a head on the encoder, and their images."""
        budget = {"attentive": ATTENTIVE_SHARE, "finetune": FINETUNE_SHARE}
        return {name: max(1, round(self.images * share)) for name, share in budget.items()}

    @property
    def name(self) -> str:
        """Name of the run of the encoder; a start is the same whatever the budget."""
        return f"{self.corpus}-{self.method}-{'start' if self.scratch else self.pretraining}-s{self.seed}"

    def head_name(self, head: str) -> str:
        """Name of the run that trains a head on the encoder."""
        return f"{self.name}-{head}-{self.heads[head]}"

    @property
    def row(self) -> str:
        """What the table calls it."""
        return f"scratch, start of {self.method}" if self.scratch else self.method


def trials(*, only: Collection[str], corpora: Collection[str], seeds: int, images: int) -> Iterator[Trial]:
    """Trials of the table: first seeds first, each method before its start, so that a table is soon of use.

    Args:
        only: methods, and `scratch` for their starts: of the methods named beside it, else of all.
        corpora: keys of `CORPORA`; on all but the first of these one seed is measured, of methods with several.
        seeds: of methods with several on the first corpus; the others have one.
        images: of pre-training.
    """
    methods = [name for name in METHODS if name in only or not set(only) & set(METHODS)]
    kinds = [scratch for scratch in (False, True) if not scratch or SCRATCH in only]
    if not set(only) & set(METHODS):
        kinds = [True]
    first = next(iter(CORPORA))
    for seed in range(seeds):
        for corpus in filter(corpora.__contains__, CORPORA):
            for method in methods:
                # another seed or another corpus is for those with several seeds; both at once is for none
                if (seed > 0) + (corpus != first) <= METHODS[method].seeded:
                    yield from (Trial(corpus, method, seed, images, scratch) for scratch in kinds)
