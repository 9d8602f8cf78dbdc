"""Bad samples end a run at the same step whatever ranks it has and however often it was resumed."""

from dataclasses import replace

import numpy as np
import pytest

from gmml_cluster.data.corpus.pin import pin
from gmml_cluster.data.reader.bad_samples import Limit
from gmml_cluster.data.reader.order import Order
from gmml_cluster.data.reader.stream import Stream
from gmml_cluster.errors import DataError
from gmml_cluster.plan.sample_layout import MicroBatches, groups_of_rank, make_layout
from gmml_cluster.spec.job import CorpusSpec
from gmml_cluster.train.ranks.rendezvous import RankInfo
from tests.unit.data.conftest import png, write_tar
from tests.unit.train.test_loop import BATCH, GROUP, Engine, job, stepper

LANES = 6


@pytest.fixture
def corpora(tmp_path):
    """Two corpora of 24 and 48 images; every fourth member of each is no image: 6 and 12."""
    for name, count in (("few", 24), ("many", 48)):
        (tmp_path / name).mkdir()
        members = [
            (f"d{y:03d}.png", b"no image" if y % 4 == 0 else png(np.full((8, 8), y, np.uint8))) for y in range(count)
        ]
        write_tar(tmp_path / name / "s.tar", members)
    return pin([CorpusSpec(url=str(tmp_path / name)) for name in ("few", "many")])


class Attempt:
    """All ranks of an attempt, with the sum of their vectors taken by hand."""

    def __init__(self, corpora, ranks, *, first=0, max_bad=0.0, bad=()):
        layout = make_layout(seed=7, batch=BATCH, group=GROUP, lanes=LANES, corpora=corpora.shapes)
        data = job().data.model_copy(update={"max_bad": max_bad})
        self.streams = [
            Stream(Order(layout), corpora, data, seed=7, views=1, ranks=ranks, rank=rank, first_step=first)
            for rank in range(ranks)
        ]
        self.steppers = [
            replace(
                stepper(Engine(), micro=MicroBatches(groups_of_rank(layout, ranks, rank), 1, 0.0)),
                batches=self.streams[rank],
                groups=groups_of_rank(layout, ranks, rank),
                rank_info=RankInfo(rank, ranks, rank, ranks),
                limit=Limit(corpora, max_bad),
                bad=list(bad),
            )
            for rank in range(ranks)
        ]

    def verdicts(self, steps):
        """What each rank says of each step: the counts so far, or the fault that ends the run."""
        try:
            for step in steps:
                pending = [stepper.enqueue(step) for stepper in self.steppers]
                vector = sum(one.vector for one in pending)
                for stepper, one in zip(self.steppers, pending, strict=True):
                    yield step, self.verdict_of(stepper, replace(one, vector=vector))
        finally:
            for stream in self.streams:
                stream.close()

    @staticmethod
    def verdict_of(stepper, pending):
        try:
            stepper.read_step(pending)
        except DataError as error:
            return str(error)
        return tuple(stepper.state()["bad"])

    def until_fault(self, steps):
        """Step and text of the fault, the same on all ranks; None where there is none."""
        faults = [(step, message) for step, message in self.verdicts(steps) if isinstance(message, str)]
        first = [message for step, message in faults if step == faults[0][0]]
        assert len(set(first)) <= 1
        assert len(first) in (0, len(self.steppers))
        return faults[0] if faults else None


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_the_verdict_falls_at_the_same_step_at_any_number_of_ranks(corpora, ranks):
    step, message = Attempt(corpora, 1).until_fault(range(12))
    assert Attempt(corpora, ranks).until_fault(range(12))[0] == step
    assert "many/s.tar, member d0" in message
    assert " among the corpus' 48; 8 are tolerated (data.max_bad)" in message


@pytest.mark.parametrize("ranks", [1, 3])
def test_counts_travel_over_a_resume_on_another_number_of_ranks(corpora, ranks):
    step, _ = Attempt(corpora, 1).until_fault(range(12))
    *_, (_, bad) = Attempt(corpora, 2).verdicts(range(step))
    assert sum(bad) > 0
    assert Attempt(corpora, ranks, first=step, bad=bad).until_fault(range(step, 12))[0] == step


def test_each_bad_sample_counts_once_over_many_epochs(corpora):
    *_, (_, bad) = Attempt(corpora, 2, max_bad=0.5).verdicts(range(30))
    assert bad == (6, 12)
