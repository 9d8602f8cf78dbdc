"""Corpora without checksums get them while a run uses them, and are checked from then on."""

import pytest

from gmml_cluster.data.corpus import index
from gmml_cluster.data.corpus.background_checksums import make_checksums
from gmml_cluster.data.corpus.pin import Pin, pin
from gmml_cluster.data.reader.fetch import Fetcher, Wanted
from gmml_cluster.spec.job import CorpusSpec
from gmml_cluster.store.posix import PosixStore


@pytest.fixture
def pinned(digit_shards, tmp_path):
    return pin([CorpusSpec(url=str(digit_shards))], PosixStore(tmp_path / "indexes"))


def checked(pinned):
    """Of each sample whether its bytes are checked; shards hold 5, 0, 17 and 1."""
    fetcher = Fetcher(pinned)
    return [fetcher.is_checked(Wanted(0, y)) for y in range(23)]


def test_each_rank_makes_checksums_of_its_shards_and_uses_them_at_once(pinned):
    assert not any(checked(pinned))
    make_checksums(pinned, 2, 0, pause=0)
    assert checked(pinned) == [True] * 22 + [False]
    assert pinned.locate(0, 9).crc is not None


def test_the_next_attempt_has_the_checksums_of_all_ranks_and_makes_none(pinned, tmp_path, monkeypatch):
    for rank in range(2):
        make_checksums(Pin.from_bytes(pinned.to_bytes(), PosixStore(tmp_path / "indexes")), 2, rank, pause=0)
    later = Pin.from_bytes(pinned.to_bytes(), PosixStore(tmp_path / "indexes"))
    assert all(checked(later))
    monkeypatch.setattr(index, "build", None)
    make_checksums(later, 1, 0, pause=0)


def test_shards_that_have_checksums_are_not_read_again(bucket, tmp_path):
    corpus = pin([CorpusSpec(url="s3://bucket/digits")], PosixStore(tmp_path / "indexes"))
    bucket.reads.clear()
    make_checksums(corpus, 1, 0)
    assert bucket.reads == []


def test_damaged_shard_is_named_and_the_others_get_checksums(pinned, digit_shards, caplog):
    with open(digit_shards / "train-000.tar", "r+b") as shard:
        shard.write(bytes(512))
    make_checksums(pinned, 1, 0, pause=0)
    assert "train-000.tar" in caplog.text
    assert all(pinned.locate(0, y).crc is not None for y in range(5, 23))
