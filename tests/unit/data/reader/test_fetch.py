"""Bytes of samples: neighbours together, blocks of object stores once, CRCs always."""

import pytest

from gmml_cluster.data.corpus.pin import pin
from gmml_cluster.data.reader import fetch, reads
from gmml_cluster.data.reader.fetch import Fetcher, Wanted
from gmml_cluster.errors import ShardChanged, StorageError
from gmml_cluster.spec.job import CorpusSpec
from tests.unit.data.conftest import png


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(fetch, "_FIRST_PAUSE_S", 0.0)


def wanted(*ys):
    return [Wanted(0, y) for y in ys]


def test_bytes_come_in_the_order_asked_for(digit_shards, digits):
    fetcher = Fetcher(pin([CorpusSpec(url=str(digit_shards))]))
    ys = [22, 3, 3, 9, 0, 21]
    assert fetcher.fetch(wanted(*ys)) == [png(digits[y][0]) for y in ys]
    assert fetcher.fetch([]) == []
    assert not fetcher.is_checked(Wanted(0, 3))


def test_neighbours_are_read_together(bucket, digits):
    fetcher = Fetcher(pin([CorpusSpec(url="s3://bucket/digits")]))
    bucket.reads.clear()
    assert fetcher.fetch(wanted(*range(23))) == [png(image) for image, _ in digits[:23]]
    assert sorted(name for name, _, _ in bucket.reads) == ["train-000.tar", "train-002.tar", "train-003.tar"]
    assert fetcher.is_checked(Wanted(0, 3))


def test_distant_samples_are_read_apart(bucket, monkeypatch):
    monkeypatch.setattr(reads, "GAP_BYTES", 0)
    fetcher = Fetcher(pin([CorpusSpec(url="s3://bucket/digits")]))
    bucket.reads.clear()
    fetcher.fetch(wanted(0, 4))
    assert len(bucket.reads) == 2
    assert max(length for _, _, length in bucket.reads) < 512


def test_blocks_of_object_stores_are_read_once(bucket, digits, monkeypatch):
    monkeypatch.setattr(reads, "BLOCK_BYTES", 700)
    fetcher = Fetcher(pin([CorpusSpec(url="s3://bucket/digits")]), cache_bytes=2**21)
    bucket.reads.clear()
    for y in [7, 20, 7, 6, 5, 22, 8, 20]:
        assert fetcher.fetch(wanted(y)) == [png(digits[y][0])]
    assert len(set(bucket.reads)) == len(bucket.reads)


def test_blocks_stay_within_their_memory(bucket, monkeypatch):
    monkeypatch.setattr(reads, "BLOCK_BYTES", 700)
    fetcher = Fetcher(pin([CorpusSpec(url="s3://bucket/digits")]), cache_bytes=2000)
    for y in range(23):
        fetcher.fetch(wanted(y))
        assert sum(read.length for read in fetcher._blocks._held.values()) == fetcher._blocks.held_bytes <= 2000


@pytest.mark.parametrize("cache_bytes", [0, 2**21])
def test_spoilt_answers_are_asked_for_again(bucket, digits, cache_bytes):
    fetcher = Fetcher(pin([CorpusSpec(url="s3://bucket/digits")]), cache_bytes)
    fetcher.fetch(wanted(0))
    bucket.spoil = 2
    assert fetcher.fetch(wanted(9)) == [png(digits[9][0])]
    assert fetcher.fetch(wanted(10)) == [png(digits[10][0])]


def test_bytes_that_never_agree_name_shard_and_member(bucket):
    fetcher = Fetcher(pin([CorpusSpec(url="s3://bucket/digits")]))
    fetcher.fetch(wanted(0))
    bucket.spoil = 1000
    with pytest.raises(StorageError, match=r"s3://bucket/digits/train-002\.tar, member d0009\.png: the bytes disagree"):
        fetcher.fetch(wanted(9))


def test_bytes_that_never_agree_because_the_shard_changed_say_so(bucket):
    fetcher = Fetcher(pin([CorpusSpec(url="s3://bucket/digits")]))
    fetcher.fetch(wanted(9))
    bucket.spoil, bucket.version = 1000, "another"
    with pytest.raises(ShardChanged, match=r"train-002\.tar: .* version another, but"):
        fetcher.fetch(wanted(9))
