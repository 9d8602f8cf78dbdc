"""Headers of a folder's indexes in one object: how few requests a pin takes, and that no stale row is believed."""

import os

import click.testing
import pytest

from gmml_cluster.cli.corpus import command
from gmml_cluster.data.corpus import merged
from gmml_cluster.data.corpus.checksums import index_checked
from gmml_cluster.data.corpus.listing import list_shards
from gmml_cluster.data.corpus.pin import CorpusUrl, Pin, pin
from gmml_cluster.data.packing.pack import pack
from gmml_cluster.data.packing.sources import find_source
from gmml_cluster.store import verified
from gmml_cluster.store.posix import PosixStore
from tests.unit.data.conftest import png, write_tar

SHARDS = merged.LEAST + 3


@pytest.fixture
def corpus(tmp_path):
    """A folder of indexed shards of a sample and a member that is passed over."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number in range(SHARDS):
        write_tar(folder / f"{number:03d}.tar", [("a.png", bytes([number])), ("a.json", b"{}")])
    for shard in list_shards(str(folder)):
        index_checked(shard, None)
    return folder


@pytest.fixture
def indexes(tmp_path):
    return PosixStore(tmp_path / ".corpora")


@pytest.fixture
def reads(monkeypatch):
    """Names of the objects that are read."""
    get, names = PosixStore.get, []
    monkeypatch.setattr(PosixStore, "get", lambda self, name, *span: names.append(name) or get(self, name, *span))
    return names


def pinned(folder, indexes):
    return pin([CorpusUrl(str(folder))], indexes)


def test_the_second_pin_reads_one_object_in_place_of_all_indexes(corpus, indexes, reads):
    first = pinned(corpus, indexes)
    assert len(reads) > SHARDS
    reads.clear()
    second = pinned(corpus, indexes)
    assert len(reads) == 2  # beside the shards there is none
    assert second.to_bytes() == first.to_bytes()
    assert second.summaries == first.summaries
    assert second.summaries[0].passed_over[0].count == SHARDS


def test_the_first_pin_reads_one_object_where_it_lies_beside_the_shards(corpus, indexes, reads):
    shards = list_shards(str(corpus))
    merged.put(shards, merged.find_headers(shards, None), None)
    reads.clear()
    assert pinned(corpus, indexes).shapes[0].samples == SHARDS
    assert reads == [".shards.index"]
    assert indexes.list_objects() == []


def test_a_shard_that_changed_is_looked_up_and_its_row_replaced(corpus, indexes, reads):
    pinned(corpus, indexes)
    write_tar(corpus / "007.tar", [("b.png", b"x"), ("c.png", b"y")])
    index_checked(list_shards(str(corpus))[7], None)
    assert tuple(pinned(corpus, indexes).shapes[0].shards) == (*(1,) * 7, 2, *(1,) * (SHARDS - 8))
    reads.clear()
    pinned(corpus, indexes)
    assert len(reads) == 2


def test_rows_are_of_indexes_with_checksums_alone(tmp_path, indexes, reads):
    for number in range(SHARDS):
        write_tar(tmp_path / f"{number:03d}.tar", [("a.png", b"x")])
    before = pinned(tmp_path / "*.tar", indexes)
    assert not any(shard.crcs for shard in before.corpora[0].shards)
    for shard in list_shards(str(tmp_path / "*.tar")):
        index_checked(shard, indexes)
    assert all(shard.crcs for shard in pinned(tmp_path / "*.tar", indexes).corpora[0].shards)


def test_corpora_of_one_folder_share_its_rows(corpus, indexes, reads):
    for shard in list(corpus.iterdir()):
        os.link(shard, shard.with_name(f"val-{shard.name}"))
    for pattern in ("0*.tar", "val-*.tar"):
        pinned(corpus / pattern, indexes)
    reads.clear()
    for pattern in ("0*.tar", "val-*.tar"):
        pinned(corpus / pattern, indexes)
    assert len(reads) == 4


@pytest.mark.parametrize("at", [0, 20, -1])
def test_a_damaged_object_costs_time_and_is_replaced(corpus, indexes, reads, monkeypatch, at):
    monkeypatch.setattr(verified, "sleep", lambda seconds: None)
    first = pinned(corpus, indexes)
    (stored,) = indexes.list_objects()
    data = bytearray(indexes.get(stored.name))
    data[at] ^= 1
    indexes.put(stored.name, bytes(data))
    assert pinned(corpus, indexes).digest == first.digest
    reads.clear()
    pinned(corpus, indexes)
    assert len(reads) == 2


def test_few_shards_cost_no_further_request(tmp_path, indexes, reads):
    write_tar(tmp_path / "0.tar", [("a.png", b"x")])
    index_checked(list_shards(str(tmp_path))[0], None)
    reads.clear()
    pinned(tmp_path, indexes)
    assert reads == ["0.tar.index"]


def test_shards_of_a_pin_that_was_read_become_objects_when_they_are_asked_for(corpus, indexes):
    before = pinned(corpus, indexes)
    found = Pin.from_bytes(before.to_bytes(), indexes)
    assert found.corpora == before.corpora
    assert found.digest == before.digest
    assert found.corpora[0].shards[-1] == list(found.corpora[0].shards)[-1]
    assert found.corpora[0].shards[3:5] == [before.corpora[0].shards[3], before.corpora[0].shards[4]]
    assert found.corpora[0].shards[5] is found.corpora[0].shards[5]


def test_packing_and_indexing_leave_it_beside_the_shards(tmp_path, digits, monkeypatch):
    monkeypatch.setattr(merged, "LEAST", 3)
    images, packed = tmp_path / "images", tmp_path / "packed"
    images.mkdir()
    for y in range(merged.LEAST):
        (images / f"{y}.png").write_bytes(png(digits[y][0]))
    pack(find_source(str(images)), str(packed), shard_samples=1)
    shards = list_shards(str(packed))
    assert None not in merged.known_headers(shards, None)
    (packed / ".shards.index").unlink()
    done = click.testing.CliRunner().invoke(command, ["index", str(packed), "--workers", "1"], standalone_mode=False)
    assert done.exit_code == 0, done.output
    assert None not in merged.known_headers(shards, None)
