"""A run on parquet files is, bit for bit, the run on tars of the same images in the same order."""

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("pyarrow")

from gmml_cluster.spec.loading.validate import parse_job
from tests.fixtures.ranks import run_ranks
from tests.fixtures.training import Training, digits_job, train
from tests.unit.data.conftest import png, write_tar
from tests.unit.data.parquets import DATASETS_2, DATASETS_5, write_rows

CLASSES = {"name": "supervised", "classes": 10, "mixup": 0, "cutmix": 0, "pool": "mean"}


def trained(rank: int, ranks: int, urls: list[str]) -> list[Training]:
    """Four steps of a supervised run on each of some corpora."""
    whole = digits_job("unused", CLASSES, steps=4).model_dump(mode="json", exclude_unset=True)
    jobs = [parse_job({**whole, "data": {**whole["data"], "lanes": 4, "corpora": [{"url": url}]}}) for url in urls]
    return [train(job, range(4), rank=rank, ranks=ranks) for job in jobs]


def test_a_run_on_parquet_files_is_the_run_on_tars_to_the_bit(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (300, 16, 16, 3), np.uint8)
    samples = [(png(image), y % 10) for y, image in enumerate(pixels)]
    kinds = {"tar": None, "snappy": DATASETS_2, "plain": DATASETS_5}
    for kind, options in kinds.items():
        (tmp_path / kind).mkdir()
        for number in range(3):
            images, labels = zip(*samples[100 * number : 100 * number + 100 - number], strict=True)
            path = tmp_path / kind / f"train-{number:05d}-of-00003"
            if options is None:
                pairs = enumerate(zip(images, labels, strict=True))
                write_tar(
                    path.with_suffix(".tar"),
                    [each for y, (data, c) in pairs for each in ((f"{y}.png", data), (f"{y}.cls", b"%d" % c))],
                )
            else:
                write_rows(path.with_suffix(".parquet"), images, labels, **options)
    for of_rank in run_ranks(2, trained, [str(tmp_path / kind) for kind in kinds]):
        tars, *others = of_rank
        assert any(line["loss"] for line in tars.lines)
        for other in others:
            assert [line["loss"] for line in other.lines] == [line["loss"] for line in tars.lines]
            assert other.state.keys() == tars.state.keys()
            assert all(torch.equal(value, other.state[at]) for at, value in tars.state.items())
