"""Shards by URL."""

import pytest

from gmml_cluster.data.corpus.listing import list_shards
from gmml_cluster.errors import DataError, SpecError


def test_braces_that_make_no_list_are_refused():
    with pytest.raises(SpecError, match=r"^t-\{5..3\}.tar: \{5..3\} is no range; it counts upwards"):
        list_shards("t-{5..3}.tar")


def names(url):
    return [shard.name for shard in list_shards(str(url))]


def test_folder_star_and_braces_name_the_same_shards(digit_shards):
    (digit_shards / "notes.txt").write_text("no shard")
    everything = [f"train-{number:03d}.tar" for number in range(4)]
    assert names(digit_shards) == everything
    assert names(digit_shards / "train-*.tar") == everything
    assert names(digit_shards / "train-{000..003}.tar") == everything
    assert names(digit_shards / "train-{002,000}.tar") == ["train-002.tar", "train-000.tar"]
    assert names(digit_shards / "*2.tar") == ["train-002.tar"]


def test_folders_are_listed_at_any_depth_and_star_stays_in_its_folder(digit_shards):
    (digit_shards / "deep").mkdir()
    (digit_shards / "train-003.tar").rename(digit_shards / "deep" / "x.tar")
    assert names(digit_shards) == ["x.tar", "train-000.tar", "train-001.tar", "train-002.tar"]
    assert names(digit_shards / "*.tar") == ["train-000.tar", "train-001.tar", "train-002.tar"]


def test_relative_paths_are_taken_from_here(digit_shards, monkeypatch):
    monkeypatch.chdir(digit_shards.parent)
    assert [shard.url for shard in list_shards("digits/train-000.tar")] == [str(digit_shards / "train-000.tar")]


def test_missing_shard_is_named(digit_shards):
    with pytest.raises(DataError, match=r"train-004\.tar does not exist"):
        list_shards(str(digit_shards / "train-{000..004}.tar"))


def test_folder_without_shards_is_refused(tmp_path):
    with pytest.raises(DataError, match="no shards"):
        list_shards(str(tmp_path))


def test_shard_named_twice_is_refused(digit_shards):
    with pytest.raises(DataError, match=r"train-001\.tar twice"):
        list_shards(str(digit_shards / "train-{001,*1}.tar"))


@pytest.mark.parametrize("url", ["", "/*.tar", "/*/*.tar", "/*s/a-*.tar"])
def test_hidden_folders_and_files_are_left_out(tmp_path, url):
    for name in ("a-0.tar", ".a-1.tar", ".corpus.packing-x/a-2.tar", "folders/a-3.tar", "folders/.a-4.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = {shard.url.removeprefix(f"{tmp_path}/") for shard in list_shards(f"{tmp_path}{url}")}
    assert found <= {"a-0.tar", "folders/a-3.tar"}
    assert [shard.name for shard in list_shards(f"{tmp_path}/.*.tar")] == [".a-1.tar"]


@pytest.mark.parametrize("url", ["", "/*.tar", "/{a,b}.tar"])
def test_a_shard_that_is_a_link_to_nothing_is_named(tmp_path, url):
    (tmp_path / "a.tar").touch()
    (tmp_path / "b.tar").symlink_to("gone")
    (tmp_path / ".#notes").symlink_to("somebody@somewhere")
    with pytest.raises(DataError, match=r"/b\.tar: is a link that leads nowhere"):
        list_shards(f"{tmp_path}{url}")


@pytest.mark.parametrize(("url", "refused"), [("", True), ("/*/*.tar", True), ("/*.tar", False), ("/linked", False)])
def test_a_link_to_a_folder_is_named_where_shards_may_lie_behind_it(tmp_path, url, refused):
    corpus, elsewhere = tmp_path / "corpus", tmp_path / "elsewhere"
    for folder in (corpus, elsewhere):
        folder.mkdir()
        (folder / "a.tar").touch()
    (corpus / "linked").symlink_to(elsewhere)
    (corpus / ".hidden").symlink_to(elsewhere)
    if refused:
        with pytest.raises(DataError, match=r"/corpus/linked: is a link to a folder"):
            list_shards(f"{corpus}{url}")
    else:
        assert [shard.name for shard in list_shards(f"{corpus}{url}")] == ["a.tar"]
