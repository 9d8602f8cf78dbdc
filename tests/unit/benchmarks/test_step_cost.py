"""The rows of the table of steps' costs."""

from benchmarks import step_cost
from benchmarks.methods import costs
from benchmarks.methods.trials import METHODS
from benchmarks.rows import Ratio


def test_every_method_of_the_comparison_has_a_row_beside_mae():
    rows = list(step_cost._table_rows())
    assert rows[0].name == "mae"
    assert {row.name for row in rows if not row.throws} == set(METHODS)
    for row in rows:
        if row.throws:
            without = next(other for other in rows if other.name == row.name.removesuffix(" with AMT"))
            assert row.flops < without.flops


def test_a_step_is_measured_and_its_line_names_both_ratios():
    rows = [row for row in step_cost._table_rows() if row.name in ("mae", "mae with AMT")]
    seconds = {"mae": [1.0, 2.0, 4.0], "mae with AMT": [0.5, 1.5, 2.0]}
    costs = step_cost._costs(rows, seconds)
    assert step_cost._line(rows[1], costs["mae with AMT"]).startswith(
        "| mae with AMT | 1 | 64 | 43 | 0.50 (0.50 to 0.75) | 0.6"
    )
    assert step_cost._step(rows[1])() > 0


def test_costs_are_kept_for_the_table_of_methods(tmp_path, monkeypatch):
    monkeypatch.setattr(costs, "COSTS", tmp_path / "costs.json")
    found = {"mae": costs.Cost(376.0, Ratio(1.0, 1.0, 1.0), 1.0), "gmml": costs.Cost(173.0, Ratio(2.1, 2.0, 2.5), 2.6)}
    costs.keep_costs(found)
    assert costs.kept_costs() == found
