"""Checked indexes: made once, put where they can be, one fault a shard."""

import threading
from concurrent.futures import ThreadPoolExecutor

import click.testing
import pytest

from gmml_cluster.cli import corpus
from gmml_cluster.data.corpus import checksums, index
from gmml_cluster.data.corpus.checksums import demand_writable, index_all, index_checked
from gmml_cluster.data.corpus.listing import list_shards
from gmml_cluster.data.corpus.pin import pin
from gmml_cluster.errors import DataError, PreflightError, StorageError
from gmml_cluster.spec.job import CorpusSpec
from gmml_cluster.store.posix import PosixStore
from tests.fixtures.outputs import checked


def gmml_index(*arguments):
    done = click.testing.CliRunner().invoke(corpus.command, ["index", *map(str, arguments)], standalone_mode=False)
    return done.return_value, done.stdout, done.stderr


def crcs(folder, indexes=None):
    pinned = pin([CorpusSpec(url=str(folder))], indexes)
    return [pinned.locate(0, y).crc for y in range(pinned.shapes[0].samples)]


def test_indexed_shards_have_a_crc_for_every_sample(digit_shards):
    assert set(crcs(digit_shards)) == {None}
    assert gmml_index(digit_shards) == (
        0,
        "4 shards: 4 indexed, 0 had an index with checksums\n23 samples in 4 shards, classes 0 to 9\n",
        "",
    )
    for y, crc in enumerate(crcs(digit_shards)):
        located = pin([CorpusSpec(url=str(digit_shards))]).locate(0, y)
        with open(located.shard, "rb") as shard:
            shard.seek(located.offset)
            assert index.crc32c(shard.read(located.length)) == crc


def test_programs_get_what_is_indexed_and_then_each_fault(digit_shards):
    shard = digit_shards / "train-002.tar"
    shard.write_bytes(shard.read_bytes()[:700])
    code, out, err = gmml_index(digit_shards, "--json")
    found, fault = checked("corpus-index", out)
    assert (found["shards"], found["indexed"], found["least_label"]) == (4, 3, 0)
    assert (code, fault["error"], fault["exit_code"]) == (3, "DataError", 3)
    assert fault["faults"][0]["problem"] in err


def test_a_shard_that_has_a_checked_index_is_not_read_again(bucket):
    shards = list_shards("s3://bucket/digits")
    assert [each.made for each in index_all(shards, None)] == [True] * 4
    bucket.reads.clear()
    assert [each.made for each in index_all(shards, None)] == [False] * 4
    assert not bucket.reads


def test_root_takes_indexes_that_runs_find_and_replaces_those_without_checksums(digit_shards, tmp_path):
    indexes = PosixStore(tmp_path / "root").child(".corpora")
    assert set(crcs(digit_shards, indexes)) == {None}
    before = sorted(digit_shards.iterdir())
    assert gmml_index(digit_shards, "--root", tmp_path / "root")[0] == 0
    assert sorted(digit_shards.iterdir()) == before
    assert None not in crcs(digit_shards, indexes)


def test_each_damaged_shard_is_one_line_and_the_others_are_indexed(digit_shards):
    for number in (0, 2):
        shard = digit_shards / f"train-{number:03d}.tar"
        shard.write_bytes(shard.read_bytes()[:700])
    code, printed, faults = gmml_index(digit_shards)
    assert code == DataError.exit_code
    assert printed.splitlines()[0] == "4 shards: 2 indexed, 0 had an index with checksums"
    assert [line.split(":")[0] for line in faults.splitlines()] == [
        str(digit_shards / f"train-{number:03d}.tar") for number in (0, 2)
    ]


def test_a_shard_that_changes_while_it_is_read_gets_no_index(bucket):
    shard = list_shards("s3://bucket/digits")[0]
    bucket.version = "another"
    with pytest.raises(DataError, match=r"train-000\.tar: changed while it was indexed"):
        index_checked(shard, None)
    assert index.find_header(shard, None) is None


def test_nothing_is_read_where_no_index_can_be_put(bucket, monkeypatch):
    def refuse(name, data):
        raise StorageError("no right to write")

    monkeypatch.setattr(bucket, "put", refuse, raising=False)
    with pytest.raises(PreflightError, match=r"s3://bucket/digits: .*no right to write.*--root"):
        demand_writable(list_shards("s3://bucket/digits"), None)
    assert not bucket.reads


def test_given_up_indexing_begins_no_further_shard(digit_shards, monkeypatch):
    begun, closing = [], threading.Event()

    class Pool(ThreadPoolExecutor):
        def shutdown(self, wait=True, *, cancel_futures=False):
            super().shutdown(wait=False, cancel_futures=cancel_futures)
            closing.set()
            super().shutdown(wait=wait)

    def record(shard, indexes):
        begun.append(shard)
        assert len(begun) == 1 or closing.wait(240)
        return index.build(shard, checked=False)

    monkeypatch.setattr(checksums, "_INDEXED_AT_ONCE", 1)
    monkeypatch.setattr(checksums, "ThreadPoolExecutor", Pool)
    monkeypatch.setattr(checksums, "index_checked", record)
    made = index_all(list_shards(str(digit_shards)), None)
    assert next(made).made
    made.close()
    assert len(begun) <= 2
