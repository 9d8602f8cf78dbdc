"""Samples of tars by WebDataset's convention."""

import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmml_cluster.data.corpus.tar import RangeFile, _headers, read_samples
from gmml_cluster.errors import DataError
from tests.unit.data.conftest import write_tar


def samples(path, size=None, block_bytes=512):
    data = path.read_bytes()[:size]
    return list(read_samples("S", lambda start, length: data[start : start + length], len(data), block_bytes))


def test_samples_are_neighbours_of_one_key(tmp_path):
    members = [
        ("a/one.jpg", b"11"),
        ("a/one.cls", b"7"),
        ("a/two.json", b"{}"),
        ("a/two.x.jpg", b"no image: its extension is x.jpg"),
        ("three.cls", b"12\n"),
        ("three.JPEG", b"333"),
        ("b/one.webp", b"4444"),
        ("b/one.cls", b"cat"),
        (".hidden.jpg", b"no key"),
    ]
    path = write_tar(tmp_path / "s.tar", members)
    found = samples(path)
    assert [(s.name, s.length, s.label) for s in found] == [
        ("a/one.jpg", 2, 7),
        ("three.JPEG", 3, 12),
        ("b/one.webp", 4, -1),
    ]
    assert [path.read_bytes()[s.offset :][: s.length] for s in found] == [b"11", b"333", b"4444"]


def test_long_and_foreign_names_are_kept(tmp_path):
    name = "x" * 120 + "/" + "é" * 60 + ".png"
    with tarfile.open(tmp_path / "s.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo(name)
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    assert [s.name for s in samples(tmp_path / "s.tar")] == [name]


def test_empty_tar_has_no_samples(tmp_path):
    assert samples(write_tar(tmp_path / "s.tar", [])) == []


@pytest.mark.parametrize("size", [0, 100, 700, 1024, 1536, 2048, 2560])
def test_shard_cut_short_anywhere_is_refused(tmp_path, size):
    path = write_tar(tmp_path / "s.tar", [("a.png", b"x" * 600), ("b.png", b"y")])
    with pytest.raises(DataError, match=r"^S: "):
        samples(path, size)


def test_damaged_header_in_the_middle_is_refused_and_not_taken_for_the_end(tmp_path):
    path = write_tar(tmp_path / "s.tar", [("a.png", b"x"), ("b.png", b"y"), ("c.png", b"z")])
    data = bytearray(path.read_bytes())
    data[1024 + 5] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="at byte 1024"):
        samples(path)


def test_what_is_no_tar_is_refused(tmp_path):
    path = tmp_path / "s.tar"
    path.write_bytes(b"<html>not found</html>" * 100)
    with pytest.raises(DataError, match="is no tar"):
        samples(path)


def test_a_pass_forwards_reads_each_byte_once(tmp_path):
    path = write_tar(tmp_path / "s.tar", [(f"{i}.png", bytes(900)) for i in range(40)])
    data, asked = path.read_bytes(), []

    def read(start, length):
        asked.append(start)
        return data[start : start + length]

    list(read_samples("S", read, len(data), 4096, digest=lambda image: None))
    assert asked == list(range(0, asked[-1] + 1, 4096))


def test_range_file_reads_as_a_file_does():
    data = bytes(range(256)) * 10
    file = RangeFile(lambda start, length: data[start : start + length], len(data), 100)
    file.seek(-60, io.SEEK_END)
    assert file.read() == data[-60:]
    file.seek(950)
    assert file.at(0, 7) == data[:7]
    assert file.read(120) == data[950:1070]
    assert file.at(95, 310) == data[95:405]
    assert file.at(len(data), 5) == b""
    assert file.at(len(data) - 3, 5) == data[-3:]


def test_a_pass_forwards_asks_for_each_block_once_and_for_nothing_beyond_the_end():
    data, asked = bytes(range(256)) * 4, []

    def read(start, length):
        asked.append((start, length))
        return data[start : start + length]

    file = RangeFile(read, len(data), 500)
    assert b"".join(file.read(70) for _ in range(20)) == data
    assert asked == [(0, 500), (500, 500), (1000, 24)]


def test_tars_behind_one_another_are_refused(tmp_path):
    path = write_tar(tmp_path / "s.tar", [("a.png", bytes(2**20))])
    path.write_bytes(write_tar(tmp_path / "t.tar", [("b.png", b"x")]).read_bytes() + path.read_bytes())
    with pytest.raises(DataError, match=r"its members end at byte 1024, and byte 10240 of \d+ is not zero; .*tar -A"):
        samples(path, block_bytes=2**16)


def test_long_padding_of_zeros_is_a_tail(tmp_path):
    path = write_tar(tmp_path / "s.tar", [("a.png", b"x")])
    path.write_bytes(path.read_bytes() + bytes(2 * 2**20))
    assert [sample.name for sample in samples(path, block_bytes=2**16)] == ["a.png"]


@pytest.mark.parametrize("rest", [b"garbage" * 700, bytes(100_000) + b"\1", "tar"])
def test_anything_but_zeros_behind_the_end_is_refused_however_short(tmp_path, rest):
    path = write_tar(tmp_path / "s.tar", [("a.png", b"x")])
    other = write_tar(tmp_path / "t.tar", [("b.png", b"y")]).read_bytes()
    path.write_bytes(path.read_bytes() + (other if rest == "tar" else rest))
    with pytest.raises(DataError, match=r"^S: its members end at byte 1024, and byte \d+ of \d+ is not zero"):
        samples(path)


def test_an_image_of_more_than_4_gib_is_refused_by_name(tmp_path):
    head = tarfile.TarInfo("huge.png")
    head.size = 5 * 2**30
    block, size = head.tobuf(tarfile.GNU_FORMAT), 512 + 5 * 2**30 + 1024
    with pytest.raises(DataError, match=r"^S, member huge\.png: 5368709120 bytes; an image has less than 4 GiB"):
        list(read_samples("S", lambda start, length: block if start == 0 else bytes(length), size, 512))


NAMES = st.text(st.characters(exclude_characters="\0\n", exclude_categories=["Cs"]), min_size=1, max_size=60)
KINDS = st.sampled_from([tarfile.REGTYPE, tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE])
FORMATS = st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(NAMES, KINDS, st.binary(max_size=600), FORMATS, st.booleans()), max_size=6))
def test_members_are_those_that_tarfile_finds(members):
    file = io.BytesIO()
    for name, kind, data, form, long in members:
        info = tarfile.TarInfo(f"{'folder/' * 20 if long else ''}{name}")
        info.type, info.size, info.linkname = kind, len(data) if kind in tarfile.REGULAR_TYPES else 0, "elsewhere"
        try:
            header = info.tobuf(form)
        except ValueError:  # a name that the oldest format cannot hold
            continue
        file.write(header + (data + bytes(-len(data) % 512) if info.size else b""))
    file.write(bytes(1024))
    whole, ends = file.getvalue(), []
    source = RangeFile(lambda start, length: whole[start : start + length], len(whole), 4096)
    found = list(_headers("here", source, len(whole), ends))
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        expected = [(i.name, i.isreg(), i.offset_data, i.size) for i in tar if not i.isdir()]
        assert (found, ends) == (expected, [tar.offset])


@pytest.mark.parametrize("at", [0, 130, 150, 156, 260])
def test_a_header_with_another_byte_is_no_member(at):
    whole = bytearray(tarfile.TarInfo("a.png").tobuf() + bytes(1024))
    whole[at] ^= 1
    with pytest.raises(DataError):
        list(read_samples("here", lambda start, length: bytes(whole[start : start + length]), len(whole)))
