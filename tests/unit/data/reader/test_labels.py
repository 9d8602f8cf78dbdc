"""Batches carry the class of the very sample whose image they carry."""

import numpy as np
import pytest

from gmml_cluster.data.corpus.checksums import index_checked
from gmml_cluster.data.corpus.classes import class_faults
from gmml_cluster.data.corpus.listing import list_shards
from gmml_cluster.data.corpus.pin import pin
from gmml_cluster.data.reader.order import Order
from gmml_cluster.data.reader.stream import Stream
from gmml_cluster.errors import DataError
from gmml_cluster.plan.sample_layout import make_layout
from gmml_cluster.spec.job import CorpusSpec, Data
from tests.unit.data.conftest import png, write_tar
from tests.unit.methods.jobs import job

COUNT = 23
BAD = {3, 4, 11, 22}


def labelled(folder, *, bad=frozenset(), unlabelled=frozenset()):
    """Two shards of images whose grey level is their number, and whose class is 1000 less it."""
    folder.mkdir()
    for name, samples in (("a", range(9)), ("b", range(9, COUNT))):
        members = []
        for y in samples:
            image = b"no image" if y in bad else png(np.full((8, 8), y, np.uint8))
            members += [(f"{y:03d}.png", image)]
            members += [] if y in unlabelled else [(f"{y:03d}.cls", str(1000 - y).encode())]
        write_tar(folder / f"{name}.tar", members)
    return folder


def batches(folder, steps, *, labels=True, **options):
    data = Data.model_validate({"corpora": [{"url": str(folder)}], "image_size": 8, "augment": "none", "max_bad": 0.9})
    pinned = pin([CorpusSpec(url=str(folder))])
    layout = make_layout(seed=7, batch=16, group=2, lanes=4, window=4, spans=2, corpora=pinned.shapes)
    given = {"ranks": 1, "rank": 0, "first_step": 0, **options}
    stream = Stream(Order(layout), pinned, data, seed=7, views=1, labels=labels, **given)
    try:
        return Order(layout), [stream.next() for _ in range(steps)]
    finally:
        stream.close()


def by_number(found):
    return {n: label for batch in found for n, label in zip(batch.numbers.tolist(), batch.labels.tolist(), strict=True)}


@pytest.mark.parametrize("bad", [set(), BAD])
def test_a_label_is_that_of_the_image_also_where_it_replaces_a_bad_one(tmp_path, bad):
    order, found = batches(labelled(tmp_path / "c", bad=bad), 6)
    for batch in found:
        assert batch.labels.dtype == np.int64
        assert batch.labels.tolist() == [1000 - int(image[0, 0, 0, 0]) for image in batch.images]
    for n, label in by_number(found).items():
        y = int(order.locate(np.array([n])).y[0])
        while y in bad:
            y = (y + 1) % COUNT
        assert label == 1000 - y


@pytest.mark.parametrize("ranks", [2, 4])
def test_labels_are_the_same_over_ranks_threads_and_a_resume(tmp_path, ranks):
    folder = labelled(tmp_path / "c", bad=BAD)
    whole = by_number(batches(folder, 6, threads=1)[1])
    parts = [batches(folder, 3, ranks=ranks, rank=rank, first_step=3, threads=3)[1] for rank in range(ranks)]
    assert {n: label for part in parts for n, label in by_number(part).items()} == {
        n: label for n, label in whole.items() if n >= 48
    }


def test_a_method_that_wants_none_gets_none(tmp_path):
    assert {batch.labels is None for batch in batches(labelled(tmp_path / "c"), 2, labels=False)[1]} == {True}


def test_classes_of_a_shard_that_was_rewritten_since_its_index_are_refused(tmp_path):
    folder = labelled(tmp_path / "c")

    for shard in list_shards(str(folder)):
        index_checked(shard, None)
    swapped = (folder / "a.tar").read_bytes().replace(b"1000", b"1003")
    (folder / "a.tar").write_bytes(swapped)
    with pytest.raises(DataError, match="other samples or classes than its index"):
        batches(folder, 1)


SUPERVISED = {"name": "supervised", "classes": 1001}


@pytest.mark.parametrize(
    ("method", "unlabelled", "expected"),
    [
        (SUPERVISED, set(), []),
        (
            SUPERVISED,
            {2, 5},
            ["data.corpora.0.url: {url} has no class for 2 of its 23 samples; supervised learns from"],
        ),
        ({**SUPERVISED, "classes": 10}, set(), ["method.classes: 10, but {url} has classes 978 to 1000; write 1001"]),
        ({"name": "gmml"}, {2}, []),
    ],
)
def test_a_method_that_learns_from_classes_needs_a_corpus_that_has_them(tmp_path, method, unlabelled, expected):
    url = str(labelled(tmp_path / "c", unlabelled=unlabelled))
    spec = job(method)
    data = spec.data.model_copy(update={"corpora": (CorpusSpec(url=url),)})
    faults = class_faults(spec.model_copy(update={"data": data}), pin([CorpusSpec(url=url)]).summaries)
    assert len(faults) == len(expected)
    for fault, start in zip(faults, expected, strict=True):
        assert str(fault).startswith(start.format(url=url))
