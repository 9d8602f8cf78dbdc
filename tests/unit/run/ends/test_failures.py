"""The errors of an attempt's ranks: the original first with its traceback, those that followed grouped."""

from gmml_cluster.run.ends import failures
from tests.unit.run.memory import MemoryStore

ORIGINAL = {
    "rank": 3, "host": "n2", "kind": "own", "cause": "error", "message": "ValueError: bad mask",
    "traceback": 'Traceback (most recent call last):\n  File "a.py", line 3, in f\nValueError: bad mask\n',
}  # fmt: skip


def lost(rank, host, port):
    message = f"RuntimeError: [gloo/pair.cc:{port}] Connection closed by peer [10.0.0.2]:{port}"
    return {"rank": rank, "host": host, "kind": "lost_peer", "cause": "lost", "message": message, "traceback": "T\n"}


def test_errors_that_differ_in_numbers_alone_are_one():
    groups = failures.grouped([ORIGINAL, lost(0, "n1", 5), lost(1, "n1", 77), lost(2, "n2", 1234)])
    assert [(group["ranks"], group["hosts"]) for group in groups] == [([3], ["n2"]), ([0, 1, 2], ["n1", "n2"])]
    assert groups[0]["traceback"] == ORIGINAL["traceback"]


def test_what_is_kept_is_read_again_and_nothing_where_nothing_was_kept():
    store = MemoryStore()
    failures.write(store, 7, [ORIGINAL, lost(0, "n1", 5)])
    assert failures.read(store, 7) == failures.grouped([ORIGINAL, lost(0, "n1", 5)])
    assert failures.read(store, 8) == []


def test_a_person_reads_the_traceback_first_and_a_line_for_what_followed():
    assert failures.lines(failures.grouped([ORIGINAL, lost(0, "n1", 5), lost(1, "n1", 6)])) == [
        "rank 3 on n2:",
        "  Traceback (most recent call last):",
        '    File "a.py", line 3, in f',
        "  ValueError: bad mask",
        "ranks 0, 1 on n1, in consequence: RuntimeError: [gloo/pair.cc:5] Connection closed by peer [10.0.0.2]:5",
    ]
    assert failures.lines([]) == []


def test_many_ranks_are_counted():
    groups = failures.grouped([{**ORIGINAL, "rank": rank, "host": f"n{rank}"} for rank in range(20)])
    assert failures.lines(groups)[0] == "ranks 0, 1, 2, 3, 4, 5, 6, 7 and 12 more on n0, n1, n2, n3:"
