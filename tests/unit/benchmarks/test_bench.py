"""The table of `make bench`: ratios of paired rounds, goals, and a part that fails beside others."""

import json

import pytest

from benchmarks import bench
from benchmarks.rows import Ratio, Row, interleaved, markdown, ratio_of, read_json, write_json

ROWS = [
    Row("reader", "a loop", Ratio(0.97, 0.9, 1.1), at_least=0.95, unit="images/s", value=1234.0),
    Row("save", "memcpy", Ratio(1.5, 1.4, 1.9), at_most=1.2, reason="296 copies"),
]


def test_every_measure_has_its_turn_in_each_round_and_the_first_round_is_left_out():
    calls: list[str] = []

    def measure(name):
        return lambda: calls.append(name) or len(calls)

    found = interleaved({"a": measure("a"), "b": measure("b")}, rounds=6)
    assert [set(calls[at : at + 2]) for at in range(0, len(calls), 2)] == [{"a", "b"}] * 7
    assert len(found["a"]) == len(found["b"]) == 6
    assert min(found["a"] + found["b"]) == 3, "the first round's values, 1 and 2, are not there"
    assert calls != ["a", "b"] * 7, "the order is drawn"


def test_a_ratio_is_of_paired_rounds():
    assert ratio_of([2, 30, 4], [1, 10, 4]) == Ratio(2, 1, 3)


@pytest.mark.parametrize(
    ("ratio", "goal", "reached"),
    [(0.95, {"at_least": 0.95}, True), (0.94, {"at_least": 0.95}, False), (1.0, {"at_most": 1.0}, True),
     (1.01, {"at_most": 1.0}, False)],
)  # fmt: skip
def test_a_goal_is_reached_by_the_median(ratio, goal, reached):
    assert Row("f", "o", Ratio(ratio, 0.0, 9.0), **goal).reached is reached


def test_rows_are_read_as_they_were_written_and_the_table_says_what_was_not_reached_and_why(tmp_path):
    write_json(ROWS, tmp_path / "rows.json")
    assert read_json(tmp_path / "rows.json") == ROWS
    lines = markdown(ROWS).splitlines()
    assert lines[2] == "| reader | a loop | 0.97 (0.90 to 1.10) | at least 0.95 | yes | 1,234 images/s |"
    assert lines[3] == "| save | memcpy | 1.50 (1.40 to 1.90) | at most 1.2 | no |  |"
    assert lines[-1] == "- save, over memcpy: 296 copies."


def test_the_page_counts_goals_and_names_commands(tmp_path):
    bench.write(tmp_path, {bench.PARTS[0]: ROWS})
    page = (tmp_path / "benchmarks.md").read_text()
    assert "1 of 2 goals are reached" in page
    assert "`python -m benchmarks.reading`" in page
    document = json.loads((tmp_path / "benchmarks.json").read_text())
    assert document["parts"]["reading"][0]["ratio"]["median"] == 0.97
    assert document["machine"]["torch"]


def test_a_part_that_fails_leaves_the_rows_of_the_others(tmp_path, monkeypatch):
    rows = {"streaming": ROWS[:1], "checkpoint_cost": None}
    monkeypatch.setattr(bench, "_run", lambda part: rows[part.module])
    monkeypatch.setattr("sys.argv", ["bench", "--only", "streaming", "checkpoint_cost", "--docs", str(tmp_path)])
    with pytest.raises(SystemExit, match="failed: checkpoint_cost"):
        bench.main()
    assert set(json.loads((tmp_path / "benchmarks.json").read_text())["parts"]) == {"streaming"}


def test_every_part_is_a_module_that_takes_json():
    for part in bench.PARTS:
        text = (bench.DOCS.parent / "benchmarks" / f"{part.module}.py").read_text()
        assert '"--json"' in text
