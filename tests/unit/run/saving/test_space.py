"""Room for checkpoints: what the disk of a run root says, and when it is too little."""

import shutil

import pytest

from gmml_cluster.run.saving import space
from gmml_cluster.run.saving.space import free_bytes, room_lacking


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
