"""Every cause has one meaning for the next start."""

from gmml_cluster.run.ends.causes import CAUSES, COUNTED, DELIBERATE, FATAL, FREE


def test_each_cause_belongs_to_exactly_one_kind():
    assert sorted([*FREE, *COUNTED, *FATAL, *DELIBERATE]) == sorted(CAUSES)
