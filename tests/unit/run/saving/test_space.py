"""Room for checkpoints: what the disk of a run root says, and when it is too little."""

import errno
import shutil

import pytest

from gmml_cluster.run.saving import space
from gmml_cluster.run.saving.space import free_bytes, room_lacking, room_refused


def test_a_folder_has_what_the_standard_library_says_also_before_it_exists(tmp_path):
    known = shutil.disk_usage(tmp_path).free  # other processes write meanwhile
    assert free_bytes(str(tmp_path / "runs" / "mine")) == pytest.approx(known, rel=0.2)


def test_an_object_store_has_no_figure():
    assert free_bytes("s3://bucket/runs") is None
    assert room_lacking("s3://bucket/runs", 2**60) is None


@pytest.mark.parametrize(
    ("free", "count", "said"),
    [
        (100 * 10**9, 1, None),
        (4 * 10**9, 1, None),
        (4 * 10**9, 3, "4.00 GB are free, and 3 checkpoints take 12.00 GB"),
        (1, 1, "0.00 GB are free, and the next checkpoint takes 4.00 GB"),
    ],
)
def test_too_little_is_said_in_figures_with_the_cure(free, count, said, monkeypatch):
    monkeypatch.setattr(space, "free_bytes", lambda url: free)
    found = room_lacking("/runs/mine", 4 * 10**9, count)
    assert (None if found is None else found.problem) == said
    assert found is None or "gmml rm" in found.hint


def test_a_disk_that_does_not_answer_is_left_to_those_who_write_there(monkeypatch):
    def unanswered(url):
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(space, "free_bytes", unanswered)
    assert room_lacking("/runs/mine", 2**60) is None


@pytest.mark.parametrize("folder", ["", "runs/mine"])
def test_room_for_a_checkpoint_is_set_aside_and_given_back(folder, tmp_path):
    assert room_refused(f"{tmp_path}/{folder}", 10**6) is None
    assert list(tmp_path.iterdir()) == []


def test_more_than_the_disk_has_is_refused_by_the_disk_itself(tmp_path):
    if room_refused(str(tmp_path), 2**42) is None:
        pytest.skip(f"{tmp_path} is on a file system that sets no room aside, or on one of more than 4 TiB")
    found = room_refused(str(tmp_path), 2**42)
    assert found.problem == "a checkpoint takes 4,398.05 GB, and the disk refuses them: no space left on device"
    assert "gmml rm" in found.hint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("code", "said"), [(errno.EDQUOT, "disk quota exceeded"), (errno.EOPNOTSUPP, None)])
def test_a_quota_is_said_and_a_file_system_that_cannot_reserve_is_not_asked(code, said, tmp_path, monkeypatch):
    def refused(descriptor, size):
        raise OSError(code, "")

    monkeypatch.setattr(space, "_set_aside", refused)
    found = room_refused(str(tmp_path), 10**9)
    assert (found is None) == (said is None)
    assert found is None or found.problem.endswith(said)


def test_an_object_store_is_not_asked_to_set_room_aside():
    assert room_refused("s3://bucket/runs", 2**60) is None
