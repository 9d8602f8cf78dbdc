"""Parquet files as shards: each row's image is what pyarrow says it is, and is read as a tar's is."""

import json
import os
from contextlib import nullcontext
from pathlib import Path

import click.testing
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("pyarrow")
from pyarrow import parquet as pq

from gmml_cluster.cli import corpus
from gmml_cluster.data.corpus import index, listing, merged, parquet
from gmml_cluster.data.corpus.account import Reason
from gmml_cluster.data.corpus.checksums import index_checked
from gmml_cluster.data.corpus.listing import list_shards
from gmml_cluster.data.corpus.pin import CorpusUrl, pin
from gmml_cluster.data.corpus.repin import repin
from gmml_cluster.data.eval_reader import Samples
from gmml_cluster.data.node_cache.cache import NodeCache
from gmml_cluster.data.node_cache.plan import NodeUsePlan
from gmml_cluster.data.reader.fetch import Fetcher, Wanted
from gmml_cluster.data.reader.order import Order
from gmml_cluster.data.reader.stream import Stream
from gmml_cluster.errors import DataError, PreflightError, ShardChanged, StorageError
from gmml_cluster.launch.checks import indexed
from gmml_cluster.launch.checks.preflight import _samples
from gmml_cluster.store.posix import PosixStore
from tests.unit.data.conftest import CountingStore, png, write_tar
from tests.unit.data.parquets import CLASSES, DATASETS_2, DATASETS_5, noise, write_rows
from tests.unit.data.reader.test_stream import Run, assert_same


def fetched(url, image=None):
    """The bytes of all samples of a corpus, as training reads them."""
    pinned = pin([CorpusUrl(str(url), image)])
    fetcher = Fetcher(pinned)
    try:
        return fetcher.fetch([Wanted(0, y) for y in range(pinned.shapes[0].samples)])
    finally:
        fetcher.close()


def images_of(path, column="image"):
    """The images that pyarrow reads, of rows that have one."""
    rows = pq.read_table(path).column(column).to_pylist()
    return [data for row in rows if (data := row["bytes"] if isinstance(row, dict) else row)]


ROWS = st.lists(
    st.one_of(
        st.none(),
        st.tuples(st.sampled_from(["noise", "zeros", "text", "again"]), st.integers(0, 120_000), st.integers(0, 3)),
    ),
    max_size=12,
)
OPTIONS = st.fixed_dictionaries(
    {
        "compression": st.sampled_from(["none", "snappy", "gzip", "zstd", "brotli"]),
        "use_dictionary": st.booleans(),
        "data_page_version": st.sampled_from(["1.0", "2.0"]),
        "data_page_size": st.sampled_from([1, 2**12, 2**20]),
        "write_batch_size": st.sampled_from([1, 3, 1024]),
        "dictionary_pagesize_limit": st.sampled_from([1, 2**16, 2**20]),
        "write_statistics": st.booleans(),
        "struct": st.booleans(),
        "group": st.integers(1, 12),
    }
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(rows=ROWS, options=OPTIONS)
def test_every_image_is_the_one_that_pyarrow_reads_and_every_row_is_counted(tmp_path, rows, options):
    made = {"noise": lambda size, seed: noise(seed, size), "zeros": lambda size, _: bytes(size)}
    made["text"] = lambda size, seed: (b"%d rose is a rose " % seed * 8_000)[:size]
    images = []
    for row in rows:
        known = [data for data in images if data]
        if row is not None and row[0] == "again":
            images.append(known[row[2] % len(known)] if known else b"")
        else:
            images.append(None if row is None else made[row[0]](*row[1:]))
    path = write_rows(tmp_path / "x.parquet", images, **options)
    expected = images_of(path)
    if expected:
        assert fetched(path) == expected
    (shard,) = list_shards(str(path))
    found = index.build(shard, checked=False)
    again = index.parse("x", found.to_bytes())
    assert np.array_equal(again.records, found.records)
    assert (again.excerpts is None) == (found.excerpts is None) == (found.header.compressed == 0)
    passed = {each.reason: each.count for each in found.header.passed_over}
    assert found.header.samples == len(expected)
    assert passed == ({Reason.EMPTY_ROW: len(rows) - len(expected)} if len(rows) > len(expected) else {})


@pytest.mark.parametrize("options", [DATASETS_2, DATASETS_5])
def test_of_files_as_datasets_writes_them_little_more_than_each_image_is_read(tmp_path, options):
    images = [noise(y, 20_000 + 997 * y) for y in range(120)]
    path = write_rows(tmp_path / "x.parquet", images, list(range(120)), **options)
    assert fetched(path) == images
    (shard,) = list_shards(str(path))
    found = index.build(shard, checked=True)
    stored = found.records["length"] if found.excerpts is None else found.excerpts["length"]
    assert all(stored <= found.records["length"] + 2 * 2**16 + 2**10)
    assert (found.excerpts is None) == (options is DATASETS_5)


def write_digits_as(folder, digits, suffix, **options):
    """Three shards of 5, 17 and 8 digits with their classes."""
    folder.mkdir()
    first = 0
    for number, count in enumerate([5, 17, 8]):
        path, some = folder / f"train-{number:05d}-of-00003.{suffix}", digits[first : first + count]
        images, labels = [png(image) for image, _ in some], [label for _, label in some]
        if suffix == "tar":
            pairs = zip(images, labels, strict=True)
            write_tar(path, [m for y, (i, c) in enumerate(pairs) for m in ((f"{y}.png", i), (f"{y}.cls", b"%d" % c))])
        else:
            write_rows(path, images, labels, classes=CLASSES, group=7, **options)
        first += count
    return folder


@pytest.mark.parametrize("options", [DATASETS_2, DATASETS_5])
def test_the_same_images_in_the_same_order_give_the_views_that_tars_give(tmp_path, digits, options):
    tars = write_digits_as(tmp_path / "tars", digits, "tar")
    rows = write_digits_as(tmp_path / "rows", digits, "parquet", **options)
    assert_same(Run(tars).images(6), Run(rows).images(6))
    assert_same(Run(tars).images(6), Run(rows).images(6, ranks=3))
    one, other = Samples(str(tars)), Samples(str(rows))
    assert one.labels().tolist() == other.labels().tolist()
    assert other.contents() <= {(len(png(image)), index.crc32c(png(image))) for image, _ in digits[:30]}


def test_little_memory_ahead_gives_the_same_views(tmp_path, digits):
    run = Run(write_digits_as(tmp_path / "rows", digits, "parquet", **DATASETS_2))
    tight = [batch.images for batch in run.batches(4, read_ahead_bytes=2**12)]
    assert np.array_equal(np.stack(tight), np.stack([batch.images for batch in run.batches(4)]))


@pytest.fixture
def rows_bucket(tmp_path, digits, monkeypatch):
    """The folder of digits in files that snappy compressed, which is also at s3://bucket/rows."""
    folder = write_digits_as(tmp_path / "rows", digits, "parquet", **DATASETS_2)
    store = CountingStore("s3://bucket/rows", folder)
    monkeypatch.setattr(listing, "open_store", lambda url: store if url.startswith("s3://") else PosixStore(url))
    listing.store_of.cache_clear()
    yield folder
    listing.store_of.cache_clear()


def test_a_bucket_gives_the_images_of_the_folder(rows_bucket):
    assert_same(Run(rows_bucket).images(4), Run("s3://bucket/rows").images(4))


def test_a_node_cache_gives_the_same_images_also_where_its_entries_are_damaged(rows_bucket, tmp_path):
    run = Run("s3://bucket/rows")
    expected = [batch.images for batch in run.batches(4)]
    order, made = Order(run.layout), tmp_path / "cache"
    for _ in range(2):
        cache = NodeCache(made, 2**30, NodeUsePlan(order, run.pin, 1, range(1)), block_bytes=256)
        stream = Stream(order, run.pin, run.data, seed=7, views=2, ranks=1, rank=0, first_step=0, node_cache=cache)
        try:
            assert all(np.array_equal(stream.next().images, images) for images in expected)
        finally:
            stream.close()
        entries = list(made.glob("*.gmml-block"))
        assert entries
        for entry in entries:
            entry.write_bytes(bytes(entry.stat().st_size))


@pytest.mark.parametrize(
    ("labels", "classes", "expected", "unread"),
    [
        ([3, None, -1, 7], None, [3, -1, -1, 7], 0),
        ([3, 2**40, -5, 7], None, [3, -1, -1, 7], 2),
        (["digit 3", None, "digit 0", "cat"], CLASSES, [3, -1, 0, -1], 1),
        (["cat", "dog", None, "cat"], None, [-1, -1, -1, -1], 3),
    ],
)
def test_classes_are_numbers_or_names_that_the_metadata_numbers(tmp_path, labels, classes, expected, unread):
    path = write_rows(tmp_path / "x.parquet", [noise(y, 50) for y in range(4)], labels, classes=classes)
    found = index.build(list_shards(str(path))[0], checked=True)
    assert found.records["label"].tolist() == expected
    assert sum(each.count for each in found.header.passed_over if each.reason == Reason.UNREAD_CLASS) == unread


def test_the_command_that_indexes_says_what_a_file_holds(tmp_path, digits):
    images = [png(digits[0][0]), None, b"", png(digits[1][0])]
    write_rows(tmp_path / "x.parquet", images, [1, 1, 1, 0])
    done = click.testing.CliRunner().invoke(corpus.command, ["index", str(tmp_path)], standalone_mode=False)
    assert done.stdout.splitlines() == [
        "1 shard: 1 indexed, 0 had an index with checksums",
        "passed over 2 rows, the first '00000001'; they have no bytes of an image, at most its path; write the bytes, "
        "or leave the rows out",
        "2 samples in 1 shard, classes 0 to 1",
    ]
    assert (tmp_path / "x.parquet.index").exists()
    assert Samples(str(tmp_path)).names([0, 1]) == ["00000000.png", "00000003.png"]


def test_a_column_is_named_by_the_corpus(tmp_path):
    path = tmp_path / "x.parquet"
    write_rows(path, [b"left"])
    both = pq.read_table(path).append_column("other", [[b"right"]])
    pq.write_table(both.rename_columns(["left", "right"]), path)
    with pytest.raises(DataError, match=r"no column holds images|several columns"):
        fetched(path, "middle")
    assert (fetched(path, "left"), fetched(path, "right")) == ([b"left"], [b"right"])


def test_without_pyarrow_the_extra_is_named_before_anything_is_read(tmp_path, digits, monkeypatch):
    folder = write_digits_as(tmp_path / "rows", digits, "parquet")
    pinned = pin([CorpusUrl(str(folder))])
    monkeypatch.setattr(parquet, "find_spec", lambda name: None)
    message = (
        r"pyarrow: not installed here, and .*00000-of-00003\.parquet needs it; pip install 'gmml-cluster\[parquet\]'"
    )
    for use in (lambda: list_shards(str(folder)), lambda: Fetcher(pinned)):
        with pytest.raises(PreflightError, match=message):
            use()


def test_shards_of_two_kinds_are_refused(tmp_path):
    write_tar(tmp_path / "a.tar", [("1.png", b"1")])
    write_rows(tmp_path / "b.parquet", [b"1"])
    with pytest.raises(DataError, match=r"holds b\.parquet and a\.tar; .* of one kind"):
        list_shards(str(tmp_path))
    assert [shard.name for shard in list_shards(f"{tmp_path}/*.parquet")] == ["b.parquet"]


def test_a_folder_of_several_splits_is_refused_unless_they_are_named(tmp_path):
    for split in ("train", "validation", "test"):
        write_rows(tmp_path / f"{split}-00000-of-00001.parquet", [split.encode()])
    with pytest.raises(
        DataError, match=r"several splits \(test, train, validation\), .* as in 'validation-\*\.parquet'"
    ):
        list_shards(str(tmp_path))
    assert fetched(f"{tmp_path}/{{train,validation}}-*.parquet") == [b"train", b"validation"]


@pytest.mark.parametrize(
    ("folder", "is_named"),
    [
        ("latest-strain", False),
        ("contest/training", False),
        ("test", False),
        ("train_and_test", True),
        ("test/train", True),
    ],
)
def test_a_split_is_named_by_a_whole_word(tmp_path, folder, is_named):
    at = tmp_path / "x" / folder
    at.mkdir(parents=True)
    for split in ("train", "test"):
        write_rows(at / f"{split}-00000-of-00001.parquet", [split.encode()])
    with nullcontext() if is_named else pytest.raises(DataError, match="and does not name them"):
        assert len(list_shards(str(at))) == 2


def test_a_page_that_must_be_decompressed_as_a_whole_is_refused_where_it_is_large(tmp_path):
    images = [noise(y, 2**20) for y in range(6)]
    path = write_rows(tmp_path / "x.parquet", images, compression="zstd", use_dictionary=False)
    with pytest.raises(DataError, match=r"x\.parquet, row 0: .* zstd compresses a page as a whole; .*gmml corpus pack"):
        pin([CorpusUrl(str(path))])
    small = write_rows(tmp_path / "y.parquet", images, compression="zstd", use_dictionary=False, group=2)
    assert fetched(small) == images


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compression": "lz4"}, r"images are compressed by LZ4"),
        (
            {"use_dictionary": False, "column_encoding": {"image": "DELTA_LENGTH_BYTE_ARRAY"}, "struct": False},
            r"row \d+: the image does not lie in the file as it is",
        ),
    ],
)
def test_what_cannot_be_read_one_by_one_is_sent_to_pack(tmp_path, options, message):
    path = write_rows(tmp_path / "x.parquet", [noise(y, 500) for y in range(6)], **options)
    with pytest.raises(DataError, match=rf"{message}.*; gmml corpus pack"):
        pin([CorpusUrl(str(path))])


@pytest.mark.parametrize("options", [{"compression": "none"}, DATASETS_2])
def test_a_damaged_file_is_named_and_not_indexed(tmp_path, options):
    path = write_rows(tmp_path / "x.parquet", [noise(y, 5000) for y in range(20)], **options)
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:4] + bytes(200) + whole[204:], b"<html>" * 100):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"x\.parquet"):
            pin([CorpusUrl(str(path))])


def test_a_store_that_fails_is_no_damaged_file(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "BLOCK_BYTES", 2**12)
    path = write_rows(tmp_path / "x.parquet", [noise(y, 5000) for y in range(20)], **DATASETS_2)
    whole = path.read_bytes()
    for most in range(4):
        reads = []

        def read(start, length, most=most, reads=reads):
            reads.append(start)
            if len(reads) > most:
                raise StorageError("no answer")
            return whole[start : start + length]

        with pytest.raises(StorageError, match="no answer"):
            list(parquet.ImageTable("x.parquet", read, len(whole), None).located())


def test_metadata_that_is_no_json_is_named(tmp_path):
    path = write_rows(tmp_path / "x.parquet", [b"1"])
    pq.write_table(pq.read_table(path).replace_schema_metadata({"huggingface": "{"}), path)
    with pytest.raises(DataError, match=r"x\.parquet: is damaged"):
        pin([CorpusUrl(str(path))])


def keep_time(path):
    """What puts a file's time back."""
    found = path.stat()
    return lambda: os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


@pytest.mark.parametrize("options", [{"compression": "none"}, DATASETS_2])
def test_bytes_that_were_changed_behind_an_index_are_noticed(tmp_path, options):
    images = [noise(y, 5000) for y in range(20)]
    path = write_rows(tmp_path / "x.parquet", images, **options)
    restore, whole = keep_time(path), bytearray(path.read_bytes())
    index_checked(list_shards(str(path))[0], None)
    at = bytes(whole).find(images[7][1000:1100])
    whole[at] ^= 1
    path.write_bytes(whole)
    restore()
    with pytest.raises(StorageError, match=r"x\.parquet, member 00000007\.jpg: the bytes disagree with the index"):
        fetched(path)


def test_a_file_that_was_replaced_ends_reading_by_name(tmp_path):
    path = write_rows(tmp_path / "x.parquet", [noise(y, 500) for y in range(8)])
    pinned = pin([CorpusUrl(str(path))])
    write_rows(path, [noise(y + 1, 500) for y in range(9)])
    with pytest.raises(ShardChanged, match=r"x\.parquet: .* a run's shards never change"):
        Fetcher(replace_made(pinned)).fetch([Wanted(0, 0)])


def replace_made(pinned):
    """The pin as another attempt reads it: no index in memory."""
    return type(pinned).from_bytes(pinned.to_bytes())


def test_a_run_goes_on_where_a_file_was_written_again_with_the_same_images(tmp_path):
    images = [noise(y, 3000) for y in range(30)]
    folder = tmp_path / "rows"
    folder.mkdir()
    path = write_rows(folder / "x.parquet", images, **DATASETS_2)
    indexes = PosixStore(tmp_path / "indexes")
    pinned = pin([CorpusUrl(str(folder))], indexes)
    write_rows(path, images, **DATASETS_5)
    again = repin(pinned, indexes)
    assert again is not pinned
    assert Fetcher(again).fetch([Wanted(0, y) for y in range(30)]) == images
    write_rows(path, images[::-1], **DATASETS_5)
    with pytest.raises(ShardChanged, match="holds other samples"):
        repin(again, indexes)


def test_a_preflight_finds_images_without_an_index(tmp_path, digits):
    folder = write_digits_as(tmp_path / "rows", digits, "parquet", **DATASETS_2)
    where, data = next(_samples(str(folder), ""))
    assert (where.endswith("train-00000-of-00003.parquet: row 0"), data) == (True, png(digits[0][0]))
    assert not indexed._shows_no_sample(CorpusUrl(str(folder)))
    assert indexed._needs_every_byte(CorpusUrl(str(folder)))
    write_rows(tmp_path / "empty.parquet", [None, b""])
    assert indexed._shows_no_sample(CorpusUrl(str(tmp_path / "empty.parquet")))


def test_rows_of_an_older_object_of_all_indexes_are_read(tmp_path, monkeypatch):
    for number in range(merged.LEAST):
        write_tar(tmp_path / f"{number:03d}.tar", [("1.png", b"1")])
    shards = list_shards(str(tmp_path))
    headers = [index_checked(shard, None).header for shard in shards]
    monkeypatch.setattr(merged, "_FIELDS", tuple(field for field in merged._FIELDS if field != "compressed"))
    merged.put(shards, headers, None)
    monkeypatch.undo()
    assert merged.known_headers(shards, None) == headers


def test_order_names_file_and_row(tmp_path, digits):
    pinned = pin([CorpusUrl(str(write_digits_as(tmp_path / "rows", digits, "parquet", **DATASETS_2)))])
    located = pinned.locate(0, 6)
    assert (Path(located.shard).name, located.index, located.member) == (
        "train-00001-of-00003.parquet",
        1,
        "00000001.png",
    )
    assert json.dumps(located.crc) == str(index.crc32c(png(digits[6][0])))
