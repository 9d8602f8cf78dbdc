"""Indexes, pins, and what happens when shards change."""

import json
import os

import pytest

from gmml_cluster.data import index
from gmml_cluster.data.corpus import Pin, pin
from gmml_cluster.data.listing import list_shards
from gmml_cluster.errors import DataError, ShardChanged, SpecError
from gmml_cluster.spec.job import Corpus
from gmml_cluster.store.posix import PosixStore
from tests.unit.data.conftest import png, write_tar


def pinned(folder, indexes=None, **fields):
    return pin([Corpus(url=str(folder), **fields)], indexes)


def test_index_survives_its_file(digit_shards):
    shard = list_shards(str(digit_shards))[2]
    made = index.build(shard, checked=True)
    found = index.parse("I", made.to_bytes())
    assert found.header == made.header
    assert found.names == made.names == [f"d{y:04d}.png" for y in range(5, 22)]
    assert (found.records == made.records).all()


def test_index_from_headers_and_from_bytes_agree_on_places(digit_shards):
    for shard in list_shards(str(digit_shards)):
        quick, full = index.build(shard, checked=False), index.build(shard, checked=True)
        for field in ("offset", "length", "label"):
            assert quick.records[field].tolist() == full.records[field].tolist()
        assert quick.header.digest == full.header.digest


@pytest.mark.parametrize("spoil", [lambda data: b"", lambda data: data[:-200], lambda data: b"x" + data[1:]])
def test_damaged_index_is_refused(digit_shards, spoil):
    made = index.build(list_shards(str(digit_shards))[2], checked=True).to_bytes()
    with pytest.raises(DataError, match=r"^I: .*delete it"):
        index.parse("I", spoil(made))


def test_samples_are_located_with_their_labels(digit_shards, digits):
    corpus = pinned(digit_shards)
    assert corpus.shapes[0].shards == (5, 0, 17, 1)
    for y in range(23):
        found = corpus.locate(0, y)
        assert found.member == f"d{y:04d}.png"
        assert found.label == digits[y][1]
        assert found.crc is None
        with open(found.shard, "rb") as shard:
            shard.seek(found.offset)
            assert shard.read(found.length) == png(digits[y][0])
    assert (corpus.locate(0, 4).index, corpus.locate(0, 5).index, corpus.locate(0, 22).index) == (4, 0, 0)
    assert str(corpus.locate(0, 22)).endswith("train-003.tar, member d0022.png")


def test_pin_survives_json_and_finds_the_same_samples(digit_shards, tmp_path):
    first = pinned(digit_shards, PosixStore(tmp_path / "indexes"))
    again = Pin.from_json(json.loads(json.dumps(first.to_json())), PosixStore(tmp_path / "indexes"))
    assert (again.corpora, again.digest, again.shapes) == (first.corpora, first.digest, first.shapes)
    assert again.locate(0, 17) == first.locate(0, 17)


def test_index_is_made_once_and_found_in_the_store_of_indexes(digit_shards, tmp_path, monkeypatch):
    indexes = PosixStore(tmp_path / "indexes")
    pinned(digit_shards, indexes)
    monkeypatch.setattr(index, "build", None)
    assert pinned(digit_shards, indexes).locate(0, 10).member == "d0010.png"


def test_index_beside_its_shard_is_used_and_brings_crcs(digit_shards):
    for shard in list_shards(str(digit_shards)):
        made = index.build(shard, checked=True)
        (digit_shards / f"{shard.name}.index").write_bytes(made.to_bytes())
    assert pinned(digit_shards).locate(0, 6).crc == index.crc32c(png_of(digit_shards, 6))


def png_of(folder, y):
    found = pinned(folder).locate(0, y)
    with open(found.shard, "rb") as shard:
        shard.seek(found.offset)
        return shard.read(found.length)


def test_index_of_another_size_is_passed_over(digit_shards):
    shard = list_shards(str(digit_shards))[0]
    (digit_shards / f"{shard.name}.index").write_bytes(index.build(shard, checked=True).to_bytes())
    write_tar(digit_shards / shard.name, [(f"{i}.png", bytes(3000)) for i in range(9)])
    assert pinned(digit_shards).shapes[0].shards == (9, 0, 17, 1)


def test_shards_of_a_bucket_are_indexed_with_crcs_in_one_pass(bucket):
    corpus = pinned("s3://bucket/digits")
    assert corpus.locate(0, 9).crc is not None
    assert len(bucket.reads) == len(set(bucket.reads))


def test_identity_tells_content_and_not_the_place(digit_shards, tmp_path):
    before = pinned(digit_shards)
    moved = digit_shards.rename(tmp_path / "elsewhere")
    assert pinned(moved).corpora[0].identity == before.corpora[0].identity
    assert pinned(moved).digest != before.digest
    write_tar(moved / "train-003.tar", [("other.png", b"1")])
    assert pinned(moved).corpora[0].identity != before.corpora[0].identity


def test_shard_that_changed_since_the_pin_is_named(digit_shards):
    corpus = Pin.from_json(pinned(digit_shards).to_json())
    os.utime(digit_shards / "train-002.tar", ns=(1, 1))
    assert corpus.locate(0, 0).member == "d0000.png"
    with pytest.raises(ShardChanged, match=r"train-002\.tar: .* version 1, but .* when the run began"):
        corpus.locate(0, 5)


def test_count_that_disagrees_with_the_spec_is_refused(digit_shards):
    with pytest.raises(SpecError, match=r"data\.corpora\.0\.samples: 22, but the index counts 23"):
        pinned(digit_shards, samples=22)
    assert pinned(digit_shards, samples=23).shapes[0].samples == 23


def test_corpus_without_a_sample_is_refused(digit_shards):
    with pytest.raises(SpecError, match=r"data\.corpora\.0\.url: .* holds no sample"):
        pinned(digit_shards / "train-001.tar")
