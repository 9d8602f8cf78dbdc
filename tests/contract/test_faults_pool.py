"""docs/recovery.md has the pool of faults as it is."""

from pathlib import Path

from gmml_cluster.run.ends.causes import CAUSES
from tests.faults.pool import POOL, table

PAGE = Path(__file__).parents[2] / "docs" / "recovery.md"


def test_the_table_of_faults_is_made_from_the_pool():
    assert table() in PAGE.read_text(), "the pool changed: python -m tests.faults.pool"


def test_every_cause_that_something_breaks_with_is_in_the_pool():
    never_broken = {"finished", "fenced"}
    assert {fault.cause for fault in POOL} == set(CAUSES) - never_broken
