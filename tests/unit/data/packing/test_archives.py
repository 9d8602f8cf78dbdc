"""Compressed tars and parquet files are packed; other forms are named with what to do."""

import gzip
import io
import json
import lzma
import shutil

import pytest

from gmml_cluster.data.corpus.listing import list_shards
from gmml_cluster.data.eval_reader import Samples
from gmml_cluster.data.packing.pack import pack
from gmml_cluster.data.packing.sources import find_source
from gmml_cluster.errors import DataError
from tests.unit.data.conftest import DATA, png, write_tar

TINY = DATA / "tiny_imagenet_50"
arrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


@pytest.mark.parametrize("suffix", [".tar.gz", ".tgz", ".tar.xz", ".tar.bz2"])
def test_compressed_tars_give_what_plain_ones_give(tmp_path, digit_shards, suffix):
    import bz2

    compress = {"gz": gzip.compress, "xz": lzma.compress, "z2": bz2.compress}[suffix[-2:]]
    archives = tmp_path / "archives"
    archives.mkdir()
    for shard in digit_shards.glob("*.tar"):
        (archives / f"{shard.stem}{suffix}").write_bytes(compress(shard.read_bytes()))
    for source, name in ((digit_shards, "plain"), (archives, "packed")):
        pack(find_source(str(source)), str(tmp_path / name))
    plain, packed = ((tmp_path / name / "shard-000000.tar").read_bytes() for name in ("plain", "packed"))
    assert plain == packed


@pytest.mark.skipif(not TINY.is_dir(), reason="no ../shared/data/tiny_imagenet_50")
def test_a_real_compressed_shard_is_packed_with_its_classes(tmp_path):
    packed = pack(find_source(str(TINY / "heldout-000000.tar.xz")), str(tmp_path / "out"))
    assert packed.samples == len(Samples(str(tmp_path / "out"))) > 100
    assert set(packed.labels) <= set(range(50))


def test_a_damaged_archive_is_named(tmp_path, digit_shards):
    whole = gzip.compress((digit_shards / "train-000.tar").read_bytes())
    (tmp_path / "a.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"a\.tar\.gz: is damaged or cut short"):
        find_source(str(tmp_path / "a.tar.gz"))


def write_parquet(path, digits, **columns):
    """Digits as HuggingFace publishes images, with the names of ClassLabel in the schema's metadata."""
    rows = [{"bytes": png(image), "path": f"{y}.png"} for y, (image, _) in enumerate(digits)]
    labels = [label for _, label in digits]
    table = arrow.table({"image": rows, "label": arrow.array(labels, arrow.int64()), **columns})
    names = [f"digit {number}" for number in range(10)]
    info = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
    parquet.write_table(table.replace_schema_metadata({"huggingface": json.dumps(info)}), path, row_group_size=7)


def test_parquet_of_images_is_packed_with_classes_and_their_names(tmp_path, digits):
    write_parquet(tmp_path / "train-00000-of-00002.parquet", digits[:30])
    write_parquet(tmp_path / "train-00001-of-00002.parquet", digits[30:40])
    packed = pack(find_source(str(tmp_path / "train-*.parquet")), str(tmp_path / "out"))
    samples = Samples(str(tmp_path / "out"))
    assert packed.samples == len(samples) == 40
    images = samples.images(range(40))
    for image, label, name in zip(images, samples.labels(), samples.names(range(40)), strict=True):
        part, row = name.removesuffix(".png").split("/")
        grey, expected = digits[int(row) + (30 if "00001-of" in part else 0)]
        assert (label, image[..., 0].tolist()) == (expected, grey.tolist())
    assert (tmp_path / "out" / "classes.txt").read_text().splitlines()[3] == "digit 3"


def test_rows_without_bytes_are_counted_and_splits_named(tmp_path, digits):
    for split in ("train", "test"):
        write_parquet(tmp_path / f"{split}-00000-of-00001.parquet", digits[:3])
    table = arrow.table({"image": [{"bytes": None, "path": "a.png"}, {"bytes": png(digits[0][0]), "path": None}]})
    parquet.write_table(table, tmp_path / "more.parquet")
    source = find_source(str(tmp_path))
    assert len(source.items) == 7
    assert [note.partition(";")[0] for note in source.notes] == [
        "files of several splits are packed together (test, train)",
        "passed over 1 row without bytes of an image",
    ]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"url": ["http"], "caption": ["a cat"]}, r"holds URLs and no images .*img2dataset"),
        ({"x": [1]}, r"no column holds images \(columns x\)"),
        ({"left": [{"bytes": b"1"}], "right": [{"bytes": b"1"}]}, r"several columns .*--image"),
    ],
)
def test_parquet_of_other_things_is_named_with_the_cure(tmp_path, columns, message):
    parquet.write_table(arrow.table(columns), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=rf"x\.parquet: {message}"):
        find_source(str(tmp_path / "x.parquet"))


@pytest.mark.parametrize("columns", [{"breed": [1]}, {"label": ["cat"]}])
def test_parquet_without_numbers_for_classes_says_which_columns_there_are(tmp_path, digits, columns):
    table = arrow.table({"image": [{"bytes": png(digits[0][0]), "path": None}], **columns})
    parquet.write_table(table, tmp_path / "x.parquet")
    (note,) = find_source(str(tmp_path)).notes
    assert note.startswith("no image has a class: none of label, labels, fine_label is a column of whole numbers")
    assert f"(columns image, {next(iter(columns))})" in note


def test_a_file_that_is_no_parquet_is_named(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"<html>" * 100)
    with pytest.raises(DataError, match=r"x\.parquet: is not a valid parquet file"):
        find_source(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("data_batch_1", "Python pickles"),
        ("train.pkl", "Python pickles"),
        ("a.zip", "unzip"),
        ("a.tar.zst", "zstd -d"),
        ("train-images-idx3-ubyte.gz", "arrays"),
        ("x.tfrecord-00000-of-00010", "records of another library"),
    ],
)
def test_other_forms_of_data_are_named_with_the_cure(tmp_path, name, message):
    (tmp_path / name).write_bytes(b"x")
    for use in (find_source, list_shards):
        with pytest.raises(DataError, match=rf"1 are .*, the first '{name}'; ") as fault:
            use(str(tmp_path))
        assert message in str(fault.value)


def test_a_job_that_names_compressed_tars_is_sent_to_pack(tmp_path):
    (tmp_path / "a.tar.gz").write_bytes(b"x")
    for url in (tmp_path, tmp_path / "a.tar.gz", tmp_path / "*.tar.gz"):
        with pytest.raises(DataError, match=r"no shards; .*\.tar\.gz'; `gmml corpus pack` makes shards of them"):
            list_shards(str(url))


def test_a_job_that_names_a_folder_of_images_is_sent_to_pack(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.JPG").write_bytes(b"x")
    with pytest.raises(DataError, match=r"no shards; .*1 are images, the first 'cat/1\.JPG'; `gmml corpus pack`"):
        list_shards(str(tmp_path))


def test_two_kinds_of_files_are_refused(tmp_path, digit_shards):
    shutil.copy(write_tar(tmp_path / "b.tar", []), digit_shards / "b.tar.gz")
    with pytest.raises(DataError, match="a source is of one kind"):
        find_source(str(digit_shards))


def test_nothing_of_an_archive_is_left_behind(tmp_path, digit_shards, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress((digit_shards / "train-000.tar").read_bytes()))
    source = find_source(str(tmp_path / "a.tar.gz"))
    assert list((tmp_path / "scratch").iterdir())
    assert io.BytesIO(source.items[0].read()).getvalue()
    source.scratch.cleanup()
    assert not list((tmp_path / "scratch").iterdir())
