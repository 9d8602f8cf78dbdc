"""What is quoted of an output, however long it is."""

import io

from gmml_cluster.launch import tail


def test_only_the_end_of_a_long_output_is_read():
    file = io.BytesIO(b"x" * 3 * tail.LAST_BYTES + b"\nthe cause\n\n")
    found = tail.tail_of(file)
    assert len(found) < tail.LAST_BYTES
    assert tail.last_line(found) == "the cause"


def test_a_short_output_is_read_whole():
    assert tail.tail_of(io.BytesIO(b" a\nb \n")) == "a\nb"
    assert tail.last_line("") == ""


def test_a_long_line_is_cut():
    assert len(tail.last_line("y" * 10_000)) == 300


def test_lines_that_earlier_starts_wrote_are_skipped(tmp_path, monkeypatch):
    path = tmp_path / "err"
    path.write_bytes(b"1\n2\r2a\n3\n4\n5")  # `wc -l`, by which they are counted, knows no carriage return
    assert tail.last_lines(path, skip=2) == ["3", "4", "5"]
    monkeypatch.setattr(tail, "LAST_LINES", 2)
    assert tail.last_lines(path) == ["4", "5"]
    assert tail.last_lines(tmp_path / "none") == []
