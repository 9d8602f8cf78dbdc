"""Indexes, pins, and what happens when shards change."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from gmml_cluster.data.corpus import index
from gmml_cluster.data.corpus.checksums import index_checked
from gmml_cluster.data.corpus.listing import list_shards
from gmml_cluster.data.corpus.pin import Pin, pin
from gmml_cluster.data.corpus.repin import repin
from gmml_cluster.errors import DataError, ShardChanged, SpecError
from gmml_cluster.spec.job import CorpusSpec
from gmml_cluster.store.posix import PosixStore
from gmml_cluster.store.protocol import NotFound
from tests.unit.data.conftest import png, write_tar


def pinned(folder, indexes=None, **fields):
    return pin([CorpusSpec(url=str(folder), **fields)], indexes)


def test_index_survives_its_file(digit_shards):
    shard = list_shards(str(digit_shards))[2]
    made = index.build(shard, checked=True)
    found = index.parse("I", made.to_bytes())
    assert found.header == made.header
    assert found.names == made.names == [f"d{y:04d}.png" for y in range(5, 22)]
    assert (found.records == made.records).all()


def test_index_from_headers_and_from_bytes_agree_on_offsets(digit_shards):
    for shard in list_shards(str(digit_shards)):
        quick, full = index.build(shard, checked=False), index.build(shard, checked=True)
        for field in ("offset", "length", "label"):
            assert quick.records[field].tolist() == full.records[field].tolist()
        assert quick.header.digest == full.header.digest


@pytest.mark.parametrize("spoil", [lambda data: b"", lambda data: data[:-200], lambda data: b"x" + data[1:]])
def test_damaged_index_is_refused(digit_shards, spoil):
    made = index.build(list_shards(str(digit_shards))[2], checked=True).to_bytes()
    with pytest.raises(DataError, match=r"^I: .*make the index again: gmml corpus index"):
        index.parse("I", spoil(made))


def test_truncated_index_beside_a_shard_is_refused(digit_shards):
    with_crcs(digit_shards)
    cut = digit_shards / "train-002.tar.index"
    cut.write_bytes(cut.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"train-002\.tar\.index: the index is damaged: .*gmml corpus index"):
        index.find(list_shards(str(digit_shards))[2], None)


def test_samples_are_located_with_their_labels(digit_shards, digits):
    corpus = pinned(digit_shards)
    assert [*corpus.shapes[0].shards] == [5, 0, 17, 1]
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


def test_a_pin_survives_its_document_and_finds_the_same_samples(digit_shards, tmp_path):
    first = pinned(digit_shards, PosixStore(tmp_path / "indexes"))
    again = Pin.from_bytes(first.to_bytes(), PosixStore(tmp_path / "indexes"))
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
    assert tuple(pinned(digit_shards).shapes[0].shards) == (9, 0, 17, 1)


def test_shards_of_a_bucket_are_indexed_with_crcs_in_one_pass(bucket):
    corpus = pinned("s3://bucket/digits")
    assert corpus.locate(0, 9).crc is not None
    assert len(bucket.reads) == len(set(bucket.reads))


def test_identity_depends_on_content_and_not_on_the_location(digit_shards, tmp_path):
    before = pinned(digit_shards)
    moved = digit_shards.rename(tmp_path / "elsewhere")
    assert pinned(moved).corpora[0].identity == before.corpora[0].identity
    assert pinned(moved).digest != before.digest
    write_tar(moved / "train-003.tar", [("other.png", b"1")])
    assert pinned(moved).corpora[0].identity != before.corpora[0].identity


def test_shard_that_changed_since_the_pin_is_named(digit_shards):
    corpus = Pin.from_bytes(pinned(digit_shards).to_bytes())
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


def with_crcs(folder):
    """An index with CRCs beside each shard, as `gmml corpus pack` leaves it."""
    for shard in list_shards(str(folder)):
        index_checked(shard, None)


def test_touched_shards_with_crcs_are_pinned_again(digit_shards, tmp_path):
    with_crcs(digit_shards)
    indexes = PosixStore(tmp_path / "indexes")
    before = pinned(digit_shards, indexes)
    located = before.locate(0, 9)
    assert repin(before, indexes) is before
    os.utime(digit_shards / "train-002.tar", ns=(1, 1))
    after = repin(before, indexes)
    assert [file.version for file in after.files].count("1") == 1
    assert after.shapes == before.shapes
    assert Pin.from_bytes(after.to_bytes(), indexes).locate(0, 9) == located


def test_crcs_that_were_made_after_the_pin_prove_as_much(digit_shards, tmp_path):
    indexes = PosixStore(tmp_path / "indexes")
    before = pinned(digit_shards, indexes)
    for shard in list_shards(str(digit_shards)):
        index_checked(shard, indexes)
    os.utime(digit_shards / "train-002.tar", ns=(1, 1))
    assert repin(before, indexes).shapes == before.shapes


def test_touched_shard_without_crcs_is_refused_for_want_of_proof(digit_shards, tmp_path):
    indexes = PosixStore(tmp_path / "indexes")
    before = pinned(digit_shards, indexes)
    os.utime(digit_shards / "train-002.tar", ns=(1, 1))
    with pytest.raises(ShardChanged, match=r"train-002\.tar: .* no CRCs which could prove"):
        repin(before, indexes)


@pytest.mark.parametrize("indexed_again", [False, True])
def test_other_samples_of_the_same_size_are_distinguished_from_those_that_were_pinned(
    digit_shards, tmp_path, indexed_again
):
    shard = digit_shards / "train-003.tar"
    write_tar(shard, [("one.png", b"1" * 600)])
    with_crcs(digit_shards)
    indexes = PosixStore(tmp_path / "indexes")
    before = pinned(digit_shards, indexes)
    write_tar(shard, [("one.png", b"2" * 600)])
    if indexed_again:
        index_checked(list_shards(str(shard))[0], None)
    with pytest.raises(ShardChanged, match=r"train-003\.tar: holds other samples"):
        repin(before, indexes)


def test_shard_of_another_size_with_the_same_samples_is_indexed_again(digit_shards, tmp_path):
    with_crcs(digit_shards)
    indexes = PosixStore(tmp_path / "indexes")
    before = pinned(digit_shards, indexes)
    located = before.locate(0, 9)
    with open(digit_shards / "train-002.tar", "ab") as shard:
        shard.write(bytes(10240))
    assert repin(before, indexes).locate(0, 9) == located


def test_shard_that_was_emptied_is_a_fault_of_storage(digit_shards, tmp_path):
    with_crcs(digit_shards)
    indexes = PosixStore(tmp_path / "indexes")
    before = pinned(digit_shards, indexes)
    (digit_shards / "train-002.tar").write_bytes(b"")
    with pytest.raises(ShardChanged, match=r"train-002\.tar: .*\); it was whole when the run began; put it back"):
        repin(before, indexes)


def test_shard_that_is_gone_is_named(digit_shards, tmp_path):
    indexes = PosixStore(tmp_path / "indexes")
    before = pinned(digit_shards, indexes)
    (digit_shards / "train-003.tar").unlink()
    with pytest.raises(ShardChanged, match=r"train-003\.tar: is gone"):
        repin(before, indexes)


def test_training_holds_no_names_of_members(digit_shards):
    with_crcs(digit_shards)
    shard = list_shards(str(digit_shards))[2]
    found = index.find(shard, None)
    assert found.names == index.build(shard, checked=True).names
    (digit_shards / f"{shard.name}.index").unlink()
    with pytest.raises(NotFound):
        found.read_names()


def test_a_slow_index_holds_up_nobody_who_reads_another_shard(digit_shards, monkeypatch):
    corpus = Pin.from_bytes(pinned(digit_shards).to_bytes())
    asked, answer, find = threading.Event(), threading.Event(), index.find

    def slow(shard, indexes):
        if shard.name == "train-000.tar":
            asked.set()
            answer.wait(240)
        return find(shard, indexes)

    monkeypatch.setattr(index, "find", slow)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(corpus.locate, 0, 0)
        asked.wait(240)
        assert corpus.locate(0, 9).member == "d0009.png"
        answer.set()
        assert waiting.result().member == "d0000.png"


def test_a_look_at_a_bucket_reads_headers_alone_and_leaves_no_index(bucket, tmp_path):
    indexes = PosixStore(tmp_path / "root" / ".corpora")
    looked = pin([CorpusSpec(url="s3://bucket/digits")], indexes, checked=False)
    assert looked.locate(0, 9).crc is None
    assert (
        indexes.list_objects(),
        [found.name for found in bucket.list_objects() if found.name.endswith(".index")],
    ) == ([], [])
    assert looked.corpora[0].identity == pin([CorpusSpec(url="s3://bucket/digits")], indexes).corpora[0].identity
    assert pin([CorpusSpec(url="s3://bucket/digits")], indexes, checked=False).locate(0, 9).crc is not None
