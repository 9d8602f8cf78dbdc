"""Every member of a shard is a sample's or is counted, with the reason."""

import click.testing
import pytest

from gmml_cluster.cli import corpus
from gmml_cluster.data.corpus import index
from gmml_cluster.data.corpus.account import MOST_KINDS, Account, Reason, merged
from gmml_cluster.data.corpus.listing import list_shards
from gmml_cluster.data.corpus.pin import CorpusUrl, pin
from gmml_cluster.data.corpus.summary import summarise
from gmml_cluster.data.corpus.tar import read_samples
from gmml_cluster.errors import DataError, SpecError
from gmml_cluster.spec.job import CorpusSpec
from tests.unit.data.conftest import write_tar


def read(path, image=""):
    data, account = path.read_bytes(), Account()
    samples = read_samples(
        "S", lambda start, length: data[start : start + length], len(data), image=image, account=account
    )
    found = [(sample.name, sample.label) for sample in samples]
    return found, {(passed.reason, passed.extension): passed.count for passed in account.passed_over}


def gmml_index(*arguments):
    done = click.testing.CliRunner().invoke(corpus.command, ["index", *map(str, arguments)], standalone_mode=False)
    return done.return_value, done.stdout.splitlines(), done.stderr


def test_equal_names_are_samples_of_their_own(tmp_path):
    members = [(f"image.{end}", b"%d" % y) for y in range(64) for end in ("jpg", "cls")]
    assert read(write_tar(tmp_path / "s.tar", members)) == ([("image.jpg", y) for y in range(64)], {})


def test_names_with_dots_are_counted_by_the_rule_that_leaves_them_out(tmp_path):
    members = [(f"photo.{y:03d}.jpg", b"x") for y in range(30)] + [("plain.jpg", b"x")]
    found, passed = read(write_tar(tmp_path / "s.tar", members))
    assert (found, passed) == ([("plain.jpg", -1)], {(Reason.DOTTED, "jpg"): 30})


def test_a_named_field_is_the_image_and_the_others_are_counted(tmp_path):
    members = [(f"{y}.{side}.JPG", b"x") for y in range(3) for side in ("left", "right")]
    found, passed = read(write_tar(tmp_path / "s.tar", members), image="left.jpg")
    assert found == [(f"{y}.left.JPG", -1) for y in range(3)]
    assert passed == {(Reason.DOTTED, "jpg"): 3}
    job_corpus = CorpusSpec(url=str(tmp_path), image="Left.jpg")
    assert tuple(pin([job_corpus]).shapes[0].shards) == (3,)


def test_indexes_of_two_image_fields_do_not_replace_each_other(tmp_path):
    write_tar(tmp_path / "s.tar", [("1.left.jpg", b"left"), ("1.right.jpg", b"right!"), ("1.cls", b"4")])
    for side, length in (("left", 4), ("right", 6)):
        assert gmml_index(tmp_path, "--image", f"{side}.jpg")[0] == 0
        found = pin([CorpusUrl(str(tmp_path), f"{side}.jpg")]).locate(0, 0)
        assert (found.length, found.label, found.crc is not None) == (length, 4, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "s.tar",
        "s.tar.left.jpg.index",
        "s.tar.right.jpg.index",
    ]


def test_classes_that_are_no_numbers_or_stand_alone_are_counted(tmp_path):
    unread = [(f"{text}.{end}", text.encode()) for text in ("n01440764", "[1]") for end in ("jpg", "cls")]
    sound = [("none.jpg", b""), ("none.cls", b"-1")]
    apart = [("a.jpg", b""), ("b.jpg", b""), ("a.cls", b"1")]
    found, passed = read(write_tar(tmp_path / "s.tar", [*unread, *sound, *apart]))
    assert [label for _, label in found] == [-1] * 5
    assert passed == {(Reason.UNREAD_CLASS, "cls"): 2, (Reason.LONE_CLASS, "cls"): 1}


def test_an_account_keeps_counts_however_many_kinds_there_are():
    account = Account()
    for y in range(1000):
        account.add(Reason.OTHER, f"a.x{y}")
    account.add(Reason.DOTTED, "a.b.jpg")
    assert len(account.passed_over) <= MOST_KINDS
    assert sum(passed.count for passed in merged([account.passed_over, account.passed_over])) == 2002


def test_the_header_of_an_index_has_the_account(tmp_path):
    write_tar(tmp_path / "s.tar", [("1.jpg", b"x"), ("1.cls", b"7"), ("1.json", b"{}"), ("2.png", b"y")])
    (shard,) = list_shards(str(tmp_path))
    made = index.build(shard, checked=True)
    header = index.parse_header("I", made.to_bytes())[0]
    assert header == made.header
    assert str(summarise([header])) == "2 samples in 1 shard, class 7, 1 of the samples without one"
    assert [str(passed).partition(";")[0] for passed in header.passed_over] == [
        "passed over 1 .json, the first '1.json'"
    ]


def test_index_prints_samples_classes_and_what_was_passed_over(tmp_path):
    write_tar(tmp_path / "s.tar", [("1.jpg", b"x"), ("1.cls", b"7"), ("1.txt", b"a word")])
    code, lines, _ = gmml_index(tmp_path)
    assert (code, lines[0], lines[2]) == (
        0,
        "1 shard: 1 indexed, 0 had an index with checksums",
        "1 sample in 1 shard, class 7",
    )
    assert lines[1].startswith("passed over 1 .txt, the first '1.txt'; ")


def test_a_corpus_without_a_sample_is_a_fault_that_says_what_it_holds(tmp_path):
    write_tar(tmp_path / "s.tar", [("n01440764.tar", b"x"), ("n01440765.tar", b"x")])
    code, lines, fault = gmml_index(tmp_path)
    assert code == DataError.exit_code
    assert lines[1] == (
        "passed over 2 .tar, the first 'n01440764.tar'; tars inside a tar are not read; unpack the outer one, then "
        "each inner one into a folder of its name"
    )
    assert fault.startswith(f"{tmp_path}: holds no sample")
    reason = r"holds no sample; .*passed over 2 \.tar, .*unpack the outer one"
    with pytest.raises(DataError, match=reason):
        pin([CorpusUrl(str(tmp_path))])
    with pytest.raises(SpecError, match=rf"^data\.corpora\.0\.url: .*{reason}"):
        pin([CorpusSpec(url=str(tmp_path))])
