"""How the parts of a start and the rates of slices are made of a log and of metric lines. No second is asserted."""

import math
from datetime import datetime

import pytest

from benchmarks.ray_cost import SETTLE_S, Slice, joined_at, print_rates, print_starts, rates, start_parts

ENTRIES = {
    "submit": {"time": 103.0},
    "claim": {"time": 112.0, "start_s": 4.0},
    "begin": {"time": 113.5},
}


@pytest.mark.parametrize(("joined", "parts"), [(None, 5), (106.0, 6)])
def test_the_parts_of_a_start_add_up_to_all_of_it(joined, parts):
    found = start_parts(ENTRIES, 0.5, began=100.0, returned=104.0, joined=joined)
    *own, in_all, returned = found.values()
    assert len(own) == parts
    within = [seconds for name, seconds in found.items() if name.startswith("of it")]
    assert sum(own) - sum(within) == in_all == 14.0
    assert within == ([] if joined is None else [3.0])
    assert returned == 4.0


def test_a_driver_has_joined_when_ray_says_so():
    lines = (
        "03:04:01,000\tINFO job_manager.py:1 -- Setting up.",
        "03:04:05,500\tINFO worker.py:1 -- Connected to Ray cluster.",
    )
    printed = "".join(f"2026-01-02 {line}\n" for line in lines)
    assert joined_at(f"no time here\n{printed}") == datetime(2026, 1, 2, 3, 4, 5, 500_000).timestamp()
    assert joined_at("nothing") is None


def line(step_s):
    return {"step_s": step_s, "batch": 10}


def test_a_slice_counts_the_steps_that_lie_within_it_and_none_that_was_suspended():
    first = 1000.0
    lines = [line(0.1)] * 40 + [line(4.0)] + [line(0.2)] * 20  # suspended from 1004 to 1008
    slices = [Slice("ray", first, first + 4, 0.0), Slice("local", 1004, 1008, 0.0), Slice("ray", 1008, 1012, 0.0)]
    assert rates(first, lines, slices, "ray") == pytest.approx([100.0, 50.0])
    assert math.isnan(rates(first, lines, [Slice("ray", first + 5, first + 7, 0.0)], "ray")[0])
    assert SETTLE_S > 0.1  # so that the step that was suspended, and ends just after, is in no slice


def test_the_tables_have_a_row_of_each_part_and_the_ratio_of_neighbours(capsys):
    local, ray = (start_parts(ENTRIES, 0.5, 100.0, 104.0, joined) for joined in (None, 106.0))
    print_starts({"local": [local], "ray": [ray, ray]})
    slices = [Slice("local", 0, 4, 0.0), Slice("ray", 4, 8, 0.2)]
    print_rates({"local": [100.0, 200.0, 300.0], "ray": [99.0, 198.0, math.nan]}, slices)
    rows = capsys.readouterr().out.splitlines()
    assert sum("| - |" in row and "of it" in row for row in rows) == 1
    assert "median of 2 pairs" in rows[-4]
    assert rows[-2].endswith("| 0.990 (quartiles 0.990 and 0.990) |")
    assert rows[-1].endswith("| 0.0 (0.0 to 0.0) | 5.0 (5.0 to 5.0) | - |")
