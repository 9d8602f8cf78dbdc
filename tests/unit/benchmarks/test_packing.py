"""What the benchmark of packing counts, and what it prints."""

from types import SimpleNamespace

from benchmarks.packing import PROCESSES, TASKS, Timed, table
from gmml_cluster.data.workers import InProcess


def test_tasks_are_counted_from_the_end_of_the_first_ones_on(monkeypatch):
    clock = iter([10.0, 12.0])
    monkeypatch.setattr("benchmarks.packing.time", SimpleNamespace(monotonic=lambda: next(clock)))
    timed = Timed(InProcess(), first=2)
    assert list(timed.map(abs, [-1, -2, -3, -4, -5, -6])) == [1, 2, 3, 4, 5, 6]
    assert timed.tasks_per_s == 2.0


def test_two_workers_are_compared_with_one_of_their_kind():
    rates = {PROCESSES[0]: [10.0, 20.0], PROCESSES[1]: [20.0, 30.0], TASKS[0]: [4.0, 4.0], TASKS[1]: [8.0, 8.0]}
    rows = list(table(rates))[2:]
    assert rows[1] == "| 2 processes | 25 | 1.75 (1.50 to 2.00) |"
    assert rows[3] == "| 2 tasks of Ray | 8 | 2.00 (2.00 to 2.00) |"
    assert len(list(table({kind: rates[kind] for kind in PROCESSES}))) == 4
