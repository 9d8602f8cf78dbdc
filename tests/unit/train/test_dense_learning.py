"""Patches of an encoder that has learnt to tell digits apart say which digit their strokes belong to."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gmml_cluster.evaluate.masked import MaskedCorpus, read_masked, squeezed
from gmml_cluster.evaluate.patch_knn import patch_knn
from gmml_cluster.methods.build import build
from gmml_cluster.spec.methods.segmentation import mask_table
from tests.fixtures.ranks import run_ranks
from tests.fixtures.training import digits_job, train
from tests.unit.data.conftest import png, write_tar

sklearn = pytest.importorskip("sklearn.datasets")
DIGITS, STEPS = (0, 1, 7), 100
SUPERVISED = {"name": "supervised", "classes": 10, "smoothing": 0.0}
MODEL = {"width": 32, "depth": 2, "heads": 2, "patch_size": 4, "drop_path": 0.0}


def masked_digits(folder: Path, numbers: range) -> str:
    """Digits of 16 pixels; a stroke's class is its digit, from 1, and all else is 0."""
    found, members = sklearn.load_digits(), []
    chosen = np.flatnonzero(np.isin(found.target, DIGITS))
    for number in chosen[numbers.start : numbers.stop]:
        grey = np.kron((found.images[number] * 15.9).astype(np.uint8), np.ones((2, 2), np.uint8))
        mask = np.where(grey > 100, 1 + DIGITS.index(found.target[number]), 0).astype(np.uint8)
        members += [(f"{number:04d}.png", png(np.repeat(grey[..., None], 3, 2))), (f"{number:04d}.mask.png", png(mask))]
    folder.mkdir()
    write_tar(folder / "0.tar", members)
    return str(folder)


def untrained_and_trained(rank: int, ranks: int, folder: str, bank: str, corpus: str) -> tuple[float, float]:
    job = digits_job(folder, SUPERVISED, steps=STEPS, model=MODEL)
    table = mask_table(4, ignore=255, zero_ignored=False)
    corpora = read_masked(bank, table), read_masked(corpus, table)

    def score(encoder: Any) -> float:
        def read(source: MaskedCorpus, some: Any) -> Any:
            pairs = source.pairs(some)
            images = squeezed(pairs, 16, job.data.normalise, torch.device("cpu"))
            return encoder(images)[:, 1:].float(), [mask for _, mask in pairs]

        with torch.inference_mode():
            *_, main = patch_knn(*corpora, read, grid=4, patch=4, classes=4)
        return main.accuracy

    scores = [score(build(job).module.get_submodule("encoder").eval())]
    last = lambda step, method, engine: scores.append(score(method.module.encoder.eval()))  # noqa: E731
    train(job, range(STEPS), behind=lambda step, *of: last(step, *of) if step == STEPS - 1 else None)
    return scores[0], scores[1]


def test_a_trained_encoder_beats_an_untrained_one(digits_corpus: str, tmp_path: Path) -> None:
    corpora = masked_digits(tmp_path / "bank", range(200)), masked_digits(tmp_path / "test", range(200, 300))
    ((before, after),) = run_ranks(1, untrained_and_trained, digits_corpus, *corpora)
    assert after > before + 0.03
