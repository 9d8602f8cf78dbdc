"""Indexes that do not fit their shards: older versions, other classes, damage, and many of them."""

import hashlib
import json
import os
import resource

import click.testing
import numpy as np
import pytest

from gmml_cluster.cli import corpus
from gmml_cluster.data.corpus import index
from gmml_cluster.data.corpus.checksums import index_all, index_checked
from gmml_cluster.data.corpus.listing import list_shards
from gmml_cluster.data.corpus.pin import CorpusUrl, Pin, pin
from gmml_cluster.data.corpus.repin import repin
from gmml_cluster.data.eval_reader import Samples
from gmml_cluster.data.packing.sources import find_source
from gmml_cluster.errors import DataError, ShardChanged
from gmml_cluster.store import verified
from gmml_cluster.store.posix import PosixStore
from tests.unit.data.conftest import png, write_tar


def relabelled(folder, digits, label):
    """A shard of 5 digits of one class: equal sizes, names and images whatever the class."""
    members = [(f"{y}.{end}", data) for y in range(5) for end, data in (("png", png(digits[y][0])), ("cls", label))]
    folder.mkdir(exist_ok=True)
    return write_tar(folder / "s.tar", members)


def labels(folder):
    return Samples(str(folder)).labels().tolist()


def test_classes_of_a_rewritten_shard_are_never_those_of_its_old_index(tmp_path, digits):
    folder = tmp_path / "c"
    relabelled(folder, digits, b"1")
    assert all(each.made for each in index_all(list_shards(str(folder)), None))
    os.utime(relabelled(folder, digits, b"2"), ns=(1, 1))
    for use in (lambda: labels(folder), lambda: find_source(str(folder))):
        with pytest.raises(
            DataError, match=r"s\.tar: holds other samples or classes than its index.*gmml corpus index"
        ):
            use()
    assert [each.made for each in index_all(list_shards(str(folder)), None)] == [True]
    assert labels(folder) == [2] * 5


def test_a_copied_shard_keeps_its_index_and_its_classes(tmp_path, digits):
    folder = tmp_path / "c"
    shard = relabelled(folder, digits, b"3")
    index_checked(list_shards(str(folder))[0], None)
    os.utime(shard, ns=(1, 1))
    assert labels(folder) == [3] * 5
    assert pin([CorpusUrl(str(folder))]).locate(0, 2).crc is not None


def test_other_classes_of_the_same_images_are_other_samples_than_were_pinned(tmp_path, digits):
    folder, indexes = tmp_path / "c", PosixStore(tmp_path / "indexes")
    relabelled(folder, digits, b"1")
    index_checked(list_shards(str(folder))[0], None)
    before = pin([CorpusUrl(str(folder))], indexes)
    os.utime(relabelled(folder, digits, b"2"), ns=(1, 1))
    with pytest.raises(ShardChanged, match="holds other samples"):
        repin(before, indexes)


def as_json(pinned, columns):
    """A pin as it was written while it was JSON; earlier versions had five columns, later ones a sixth for classes."""
    corpora = [
        {
            "url": corpus.url,
            "weight": corpus.weight,
            "identity": corpus.identity,
            "shards": [
                [s.file.url, s.file.size, s.file.version, s.samples, s.crcs, s.labels][:columns] for s in corpus.shards
            ],
        }
        for corpus in pinned.corpora
    ]
    digest = hashlib.sha256(json.dumps(corpora, sort_keys=True).encode()).hexdigest()
    return json.dumps({"corpora": corpora}).encode(), digest


def test_a_pin_that_is_json_keeps_its_digest_and_locates_the_same_samples(digit_shards, tmp_path):
    now = pin([CorpusUrl(str(digit_shards))], PosixStore(tmp_path / "indexes"))
    data, digest = as_json(now, 6)
    old = Pin.from_bytes(data, PosixStore(tmp_path / "indexes"))
    assert (old.digest, old.corpora, old.shapes) == (digest, now.corpora, now.shapes)
    assert [old.locate(0, y) for y in range(23)] == [now.locate(0, y) for y in range(23)]
    assert repin(old, PosixStore(tmp_path / "indexes")) is old


def test_a_pin_of_an_older_version_keeps_its_digest_and_judges_images_alone(tmp_path, digits):
    folder, indexes = tmp_path / "c", PosixStore(tmp_path / "indexes")
    relabelled(folder, digits, b"1")
    index_checked(list_shards(str(folder))[0], None)
    data, digest = as_json(pin([CorpusUrl(str(folder))], indexes), 5)
    old = Pin.from_bytes(data, indexes)
    assert old.digest == digest
    assert [shard.labels for shard in old.corpora[0].shards] == [""]
    os.utime(folder / "s.tar", ns=(1, 1))
    assert repin(old, indexes).shapes == old.shapes


def test_an_index_of_an_older_version_is_made_again(digit_shards):
    (shard, *_) = list_shards(str(digit_shards))
    index_checked(shard, None)
    beside = digit_shards / f"{shard.name}.index"
    beside.write_bytes(b"GMMLIDX2" + beside.read_bytes()[8:])
    assert index.find(shard, None) is index.find_header(shard, None) is None
    assert [each.made for each in index_all([shard], None)] == [True]
    assert index.find(shard, None) is not None


@pytest.mark.parametrize("at", [30, -40, -1])
def test_an_index_that_was_read_wrong_once_is_read_again_and_used(bucket, monkeypatch, at):
    monkeypatch.setattr(verified, "sleep", lambda seconds: None)
    shard = list_shards("s3://bucket/digits")[2]
    made = index_checked(shard, None)
    get, answers = bucket.inner.get, []

    def spoiled_once(name, start=0, length=None):
        data = bytearray(get(name, start, length))
        if name.endswith(".index") and not answers:
            data[at] ^= 1
        answers.append(name)
        return bytes(data)

    monkeypatch.setattr(bucket.inner, "get", spoiled_once)
    assert (index.find(shard, None).records == made.records).all()
    assert len(answers) == 2


@pytest.mark.parametrize("at", [30, -40, -1])
def test_any_flipped_bit_of_an_index_is_found_and_replaced_by_indexing(digit_shards, monkeypatch, at):
    monkeypatch.setattr(verified, "sleep", lambda seconds: None)
    shard = list_shards(str(digit_shards))[2]
    index_checked(shard, None)
    beside = digit_shards / f"{shard.name}.index"
    data = bytearray(beside.read_bytes())
    data[at] ^= 1
    beside.write_bytes(data)
    with pytest.raises(DataError, match=r"\.tar\.index: .*make the index again: gmml corpus index") as fault:
        index.find(shard, None)
    assert "delete" not in str(fault.value)
    assert [each.made for each in index_all([shard], None)] == [True]
    assert index.find(shard, None) is not None


def test_indexing_anew_reads_shards_whose_index_has_checksums(digit_shards):
    arguments = ["index", str(digit_shards)]
    printed = [
        click.testing.CliRunner()
        .invoke(corpus.command, [*arguments, *more], standalone_mode=False)
        .stdout.split(", ")[0]
        for more in ([], [], ["--anew"])
    ]
    assert printed == ["4 shards: 4 indexed", "4 shards: 0 indexed", "4 shards: 4 indexed"]


def test_more_indexes_than_a_process_may_have_files_are_used(tmp_path, digits):
    for number in range(120):
        write_tar(tmp_path / f"{number:03d}.tar", [("a.png", b"x")])
    assert len(list(index_all(list_shards(str(tmp_path)), None))) == 120
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 60, hard))
    try:
        corpora = pin([CorpusUrl(str(tmp_path))])
        assert [corpora.locate(0, y).member for y in range(120)] == ["a.png"] * 120
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_indexes_beyond_the_memory_for_them_are_read_again(digit_shards, monkeypatch):
    monkeypatch.setattr("gmml_cluster.data.corpus.pin._LOADED_BYTES", 22 * index.RECORD.itemsize)
    for shard in list_shards(str(digit_shards)):
        index_checked(shard, None)
    read, find = [], index.find
    monkeypatch.setattr(index, "find", lambda shard, indexes: read.append(shard.name) or find(shard, indexes))
    corpora = Pin.from_bytes(pin([CorpusUrl(str(digit_shards))]).to_bytes())
    assert np.array_equal([corpora.locate(0, y).index for y in (0, 22, 0, 6, 22, 0)], [0, 0, 0, 1, 0, 0])
    assert read == [f"train-00{number}.tar" for number in (0, 3, 2, 3, 0)]
