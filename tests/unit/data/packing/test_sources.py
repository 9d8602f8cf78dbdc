"""What is packed: every image of a folder or of shards, and a word on all else."""

import os

import pytest

from gmml_cluster.data.corpus import checksums
from gmml_cluster.data.corpus.listing import list_shards
from gmml_cluster.data.eval_reader import Samples
from gmml_cluster.data.packing.pack import pack
from gmml_cluster.data.packing.sources import find_source
from gmml_cluster.data.reader import fetch
from gmml_cluster.errors import DataError, StorageError
from tests.unit.data.conftest import png, write_tar


@pytest.fixture
def image(digits):
    return png(digits[0][0])


def make(folder, *names, data):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def labels(source):
    return {item.key: item.label for item in source.items}


def test_classes_are_numbered_alike_in_a_split_where_one_has_no_image(tmp_path, image):
    train = make(tmp_path / "train", "ant/1.png", "bee/2.png", "cat/3.png", data=image)
    val = make(tmp_path / "val", "ant/4.png", "cat/5.png", data=image)
    (val / "bee").mkdir()
    assert find_source(str(val)).classes == find_source(str(train)).classes == ("ant", "bee", "cat")
    assert labels(find_source(str(val))) == {"ant/4": 0, "cat/5": 2}


def test_hidden_files_and_folders_are_no_part_of_a_source(tmp_path, image):
    folder = make(tmp_path / "in", "ant/1.png", "ant/.2.png", ".trash/3.png", data=image)
    assert (labels(find_source(str(folder))), find_source(str(folder)).classes) == ({"ant/1": 0}, ("ant",))


def test_equal_keys_are_made_unique_and_all_samples_are_packed(tmp_path, image):
    folder = make(tmp_path / "in", "a.png", "a.PNG", "a~2.png", "b.png", data=image)
    pack(find_source(str(folder)), str(tmp_path / "out"))
    samples = Samples(str(tmp_path / "out"))
    assert len({name.partition(".")[0] for name in samples.names(range(4))}) == len(samples) == 4


def test_a_link_that_leads_back_is_refused_by_name(tmp_path, image):
    folder = make(tmp_path / "in", "ant/1.png", data=image)
    (folder / "ant" / "loop").symlink_to(folder)
    with pytest.raises(DataError, match=r"/ant/loop: is \S*/in once more; .*remove the link"):
        find_source(str(folder))


def test_links_to_folders_elsewhere_are_followed(tmp_path, image):
    make(tmp_path / "disk", "1.png", data=image)
    folder = make(tmp_path / "in", "ant/2.png", data=image)
    (folder / "bee").symlink_to(tmp_path / "disk")
    assert labels(find_source(str(folder))) == {"ant/2": 0, "bee/1": 1}


def test_a_link_to_nothing_is_refused_by_name(tmp_path, image):
    folder = make(tmp_path / "in", "a.png", data=image)
    (folder / "b.png").symlink_to("gone")
    with pytest.raises(DataError, match=r"in/b\.png: is a broken link"):
        find_source(str(folder))


def test_an_image_that_vanished_is_named(tmp_path, image):
    folder = make(tmp_path / "in", "a.png", data=image)
    source = find_source(str(folder))
    (folder / "a.png").unlink()
    with pytest.raises(DataError, match=r"in/a\.png: cannot be read \(No such file"):
        pack(source, str(tmp_path / "out"))


def test_images_and_shards_together_are_refused(digit_shards, image):
    make(digit_shards, "preview.jpg", data=image)
    with pytest.raises(DataError, match=r"holds images \(preview\.jpg\) and shards \(train-000\.tar\)"):
        find_source(str(digit_shards))


def test_a_folder_without_images_and_shards_is_refused(tmp_path, image):
    make(tmp_path / "in", "a.bmp", "b.bmp", data=image)
    with pytest.raises(DataError, match=r"neither images nor shards among 2 files; images end in \.jpg"):
        find_source(str(tmp_path / "in"))


def test_files_that_are_no_images_are_counted_and_one_of_a_kind_is_named(tmp_path, image):
    folder = make(tmp_path / "in", "a.png", "b.bmp", "c/d.BMP", "e.tiff", "README", data=image)
    kinds = [note.partition(";")[0] for note in find_source(str(folder)).notes]
    assert sorted(kinds) == [
        "passed over 1 .tiff, the first 'e.tiff'",
        "passed over 1 without an extension, the first 'README'",
        "passed over 2 .bmp, the first 'b.bmp'",
    ]


@pytest.mark.parametrize("name", [b"ant\xff/1.png", b"ant/1\xff.png", b"ant\n/1.png"])
def test_names_that_no_index_can_hold_are_refused_in_one_line(tmp_path, image, name):
    folder = make(tmp_path / "in", os.fsdecode(name), data=image)
    with pytest.raises(DataError, match=r"rename it$") as fault:
        find_source(str(folder))
    assert str(fault.value).isprintable()


def test_members_that_make_no_sample_are_counted_and_leading_dots_stripped(tmp_path, image):
    members = [("./ant/1.png", image), ("./ant/1.cls", b"3"), ("./ant/1.json", b"{}"), ("photo.v2.jpg", image)]
    write_tar(tmp_path / "in.tar", [*members, ("2.png", image), ("2.jpg", image)])
    source = find_source(str(tmp_path / "in.tar"))
    assert labels(source) == {"ant/1": 3, "2": -1}
    assert [note.partition(";")[0] for note in source.notes] == [
        f"read unchecked: 2 samples of 1 shard without an index with checksums, the first {tmp_path}/in.tar",
        "passed over 1 .jpg, the first 'photo.v2.jpg'",
        "passed over 1 .json, the first './ant/1.json'",
        "passed over 1 .jpg, the first '2.jpg'",
    ]


def test_damage_in_an_indexed_shard_is_a_fault_that_names_the_member(digit_shards, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "_FIRST_PAUSE_S", 0)
    shards = list_shards(str(digit_shards))
    assert all(each.made for each in checksums.index_all(shards, None))
    source = find_source(str(digit_shards))
    assert source.notes == ()
    shard, stamp = digit_shards / "train-002.tar", (digit_shards / "train-002.tar").stat().st_mtime_ns
    damaged = bytearray(shard.read_bytes())
    damaged[600] ^= 1
    shard.write_bytes(damaged)
    os.utime(shard, ns=(stamp, stamp))
    with pytest.raises(StorageError, match=r"train-002\.tar, member d0005\.png: the bytes disagree with the index"):
        pack(source, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_passing_fault_of_the_store_is_read_again(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "_FIRST_PAUSE_S", 0)
    assert all(each.made for each in checksums.index_all(list_shards("s3://bucket/digits"), None))
    source = find_source("s3://bucket/digits")
    bucket.spoil = 1
    assert pack(source, str(tmp_path / "out")).samples == 23
