"""Packing: shuffled, complete, byte for byte, all or nothing."""

import os
import resource
import signal
import subprocess
import sys
import tarfile
import tempfile

import numpy as np
import pytest

from gmml_cluster.data.corpus import index
from gmml_cluster.data.corpus.pin import pin
from gmml_cluster.data.eval_reader import Samples
from gmml_cluster.data.packing import pack
from gmml_cluster.data.packing.pack import Packed
from gmml_cluster.data.packing.source import ImageSource, Item
from gmml_cluster.data.packing.sources import find_source
from gmml_cluster.errors import DataError, SpecError, StorageError
from gmml_cluster.spec.job import CorpusSpec
from tests.unit.data.conftest import png


@pytest.fixture
def class_folders(tmp_path, digits):
    """40 digits as PNGs in folders named by their class."""
    for y, (image, label) in enumerate(digits[:40]):
        folder = tmp_path / "images" / f"class{label}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"v1.{y:03d}.PNG").write_bytes(png(image))
    (tmp_path / "images" / "notes.txt").write_text("no image")
    return tmp_path / "images"


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix in (".tar", ".txt")}


def everything(folder):
    """Images, classes and names of a packed corpus."""
    samples = Samples(str(folder))
    indices = range(len(samples))
    return samples.images(indices), samples.labels(), samples.names(indices)


def test_class_folders_are_packed_whole_with_labels(class_folders, tmp_path, digits):
    packed = pack.pack(find_source(str(class_folders)), str(tmp_path / "out"), shard_samples=15)
    assert (packed.shards, packed.samples) == ([f"shard-{i:06d}.tar" for i in range(3)], 40)
    images, labels, names = everything(tmp_path / "out")
    assert tuple(pin([CorpusSpec(url=str(tmp_path / "out"))]).shapes[0].shards) == (15, 15, 10)
    assert len(set(names)) == 40
    for image, label, name in zip(images, labels, names, strict=True):
        grey, expected = digits[int(name[-7:-4])]
        assert label == expected
        assert name == f"class{label}/v1_{name[-7:-4]}.png"
        assert np.array_equal(image[..., 0], grey)
    assert (tmp_path / "out" / "classes.txt").read_text().split() == [f"class{label}" for label in range(10)]


def test_packing_shuffles_by_the_seed_and_repeats_to_the_byte(class_folders, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        pack.pack(find_source(str(class_folders)), str(tmp_path / name), seed=seed)
    assert content(tmp_path / "a") == content(tmp_path / "b")
    assert content(tmp_path / "a") != content(tmp_path / "c")
    names = everything(tmp_path / "a")[2]
    assert names != sorted(names)


def test_index_comes_with_crcs_and_fits_its_shard(class_folders, tmp_path):
    pack.pack(find_source(str(class_folders)), str(tmp_path / "out"))
    located = pin([CorpusSpec(url=str(tmp_path / "out"))]).locate(0, 3)
    with open(located.shard, "rb") as shard:
        shard.seek(located.offset)
        assert index.crc32c(shard.read(located.length)) == located.crc


def test_tars_are_packed_again(digit_shards, tmp_path, digits):
    packed = pack.pack(find_source(str(digit_shards)), str(tmp_path / "out"), shard_samples=100)
    assert (len(packed.shards), packed.samples) == (1, 23)
    _, labels, names = everything(tmp_path / "out")
    assert sorted(zip(names, labels.tolist(), strict=True)) == [(f"d{y:04d}.png", digits[y][1]) for y in range(23)]


def test_mean_and_deviation_are_those_of_the_pixels(class_folders, tmp_path, digits):
    packed = pack.pack(find_source(str(class_folders)), str(tmp_path / "out"))
    pixels = np.stack([image for image, _ in digits[:40]]) / 255
    assert packed.mean == pytest.approx([pixels.mean()] * 3)
    assert packed.std == pytest.approx([pixels.std()] * 3)


def test_undecodable_images_are_left_out_and_named(class_folders, tmp_path):
    (class_folders / "class3" / "broken.jpg").write_bytes(b"no image")
    packed = pack.pack(find_source(str(class_folders)), str(tmp_path / "out"))
    assert packed.samples == 40
    assert [remark.image for remark in packed.left_out] == [str(class_folders / "class3" / "broken.jpg")]


def test_what_is_left_out_is_ordered_by_reason_and_then_by_name(class_folders, tmp_path):
    for name in ("z", "a", "m"):
        (class_folders / "class3" / f"{name}.jpg").write_bytes(b"no image")
        (class_folders / "class1" / f"{name}.png").write_bytes(b"")
    found = [pack.pack(find_source(str(class_folders)), str(tmp_path / f"out{seed}"), seed=seed) for seed in range(2)]
    assert found[0].left_out == found[1].left_out == sorted(found[0].left_out)
    assert [remark.image.removeprefix(f"{class_folders}/") for remark in found[0].left_out] in (
        [f"class{c}/{name}.{end}" for c, end in order for name in "amz"]
        for order in (((1, "png"), (3, "jpg")), ((3, "jpg"), (1, "png")))
    )


def failing(items, at):
    def fail():
        raise DataError("disk gone")

    return [Item(item.key, item.extension, item.label, fail) if n == at else item for n, item in enumerate(items)]


def test_nothing_is_left_when_packing_fails_before_a_shard_stands(class_folders, tmp_path):
    source = find_source(str(class_folders))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(DataError, match="disk gone"):
        pack.pack(ImageSource(tuple(failing(source.items, 20))), str(tmp_path / "out"))
    assert sorted(tmp_path.iterdir()) == before


def test_destination_that_holds_something_is_refused(class_folders, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("mine")
    with pytest.raises(SpecError, match="exists and is not empty"):
        pack.pack(find_source(str(class_folders)), str(tmp_path / "out"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["precious"]


def test_images_of_which_none_decodes_are_refused(tmp_path):
    with pytest.raises(DataError, match="none of which can be decoded"):
        pack.pack(ImageSource((Item("a", "png", -1, lambda: b""),)), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_sample_that_its_shard_does_not_give_back_is_a_fault(tmp_path, digits):
    items = tuple(Item(key, "png", -1, lambda: png(digits[0][0])) for key in ("a", "b.left"))
    with pytest.raises(DataError, match=r"shard-000000\.tar: its index has other samples than the 2 .* written \(1\)"):
        pack.pack(ImageSource(items), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_shards_are_written_below_their_destination(class_folders, tmp_path, monkeypatch):
    source = find_source(str(class_folders))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "no such folder"))
    assert pack.pack(source, str(tmp_path / "out")).samples == 40


def test_a_link_to_an_empty_folder_is_a_destination(class_folders, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    pack.pack(find_source(str(class_folders)), str(tmp_path / "out"))
    assert (tmp_path / "out").is_symlink()
    assert len(Samples(str(tmp_path / "out"))) == 40


def test_means_of_nothing_are_zero():
    assert Packed().mean == Packed().std == (0.0, 0.0, 0.0)


def command(*arguments):
    words = [sys.executable, "-m", "gmml_cluster.cli.main", "corpus", "pack", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def test_command_prints_what_a_job_file_needs(class_folders, tmp_path):
    done = command(str(class_folders), str(tmp_path / "out"), "--shard-samples", "15", "--prefix", "digits")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("passed over 1 .txt, the first 'notes.txt'; neither an image")
    assert lines[1] == f"40 samples in 3 shards: {tmp_path}/out/digits-{{000000..000002}}.tar"
    assert lines[2] == "10 classes, 0 (class0) to 9 (class9)"
    assert [line.split()[0] for line in lines[3:]] == ["mean", "std"]
    with tarfile.open(tmp_path / "out" / "digits-000000.tar") as tar:
        assert len(tar.getnames()) == 30
    again = command(str(class_folders), str(tmp_path / "out"))
    assert again.returncode == 2
    assert (
        again.stderr
        == f"{tmp_path}/out: was packed by another plan (shard_samples 15, now 1000; prefix digits, now shard); "
        "repeat the command as it was, name another destination, or remove what is there\n"
    )


@pytest.fixture
def small_disk():
    """No file may grow beyond 20,000 bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_is_full_is_one_line_and_leaves_nothing(class_folders, tmp_path, small_disk):
    before = sorted(tmp_path.iterdir())
    with pytest.raises(StorageError, match=rf"^{tmp_path}/out/\S*: File too large; [^\n]*$"):
        pack.pack(find_source(str(class_folders)), str(tmp_path / "out"))
    assert sorted(tmp_path.iterdir()) == before


def test_a_destination_below_a_file_is_one_line(class_folders, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"^\S*/file\S*: (Not a directory|File exists); "):
        pack.pack(find_source(str(class_folders)), str(tmp_path / "file" / "out"))


def test_what_was_begun_is_undone_when_packing_is_stopped(class_folders, tmp_path):
    """Packing waits for a pipe that takes the place of an image."""
    image = next(class_folders.glob("class3/*"))
    image.unlink()
    os.mkfifo(image)
    words = [sys.executable, "-m", "gmml_cluster.cli.main", "corpus", "pack", class_folders, tmp_path / "out"]
    before = sorted(tmp_path.iterdir())
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as packing:
        with open(image, "wb"):  # opens when it is being read
            assert len(list(tmp_path.glob("out/.packing/plan.json"))) == 1
            packing.terminate()
        _, said = packing.communicate()
        # `python -m` ends by the signal itself, a shell's 130, although the interrupt was handled, where it fell into
        # code from a string, such as a namedtuple's in a library that is just being imported
        assert packing.returncode in (130, -signal.SIGINT), said.decode()
    assert sorted(tmp_path.iterdir()) == before
