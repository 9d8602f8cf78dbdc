"""A sweep's record: which runs it has."""

import pytest

from gmml_cluster.errors import SpecError, StorageError
from gmml_cluster.run.finding.sweeps import SweepRun, entries_of, record
from gmml_cluster.store.open import open_store

ONE, TWO = (SweepRun(f"a-lr{n}", (f"optim.lr={n}",), f"{n}") for n in (1, 2))


def test_the_same_sweep_recorded_again_is_one_file_and_one_that_grew_has_all_its_runs(tmp_path):
    for _ in range(2):
        record(str(tmp_path), "a-lr", [ONE])
    assert len(open_store(str(tmp_path)).list_objects(".sweeps/a-lr/")) == 1
    record(str(tmp_path), "a-lr", [ONE, TWO])
    assert sorted(entries_of(str(tmp_path), "a-lr"), key=lambda each: each.run) == [ONE, TWO]


@pytest.mark.parametrize("name", ["a", "a-lr-x", "../a-lr", ""])
def test_a_name_that_no_sweep_has_means_none(tmp_path, name):
    record(str(tmp_path), "a-lr", [ONE])
    assert entries_of(str(tmp_path), name) == []


def test_a_record_that_cannot_be_read_is_named(tmp_path):
    for text, kind, message in (
        (b"{", StorageError, "no record of a sweep"),
        (b'{"version": 9, "runs": []}', SpecError, "version 9"),
    ):
        open_store(str(tmp_path)).put(".sweeps/a-lr/1.json", text)
        with pytest.raises(kind, match=rf"a-lr/1\.json.*{message}"):
            entries_of(str(tmp_path), "a-lr")
