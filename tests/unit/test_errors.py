"""Errors keep their faults in parts, also between processes."""

import pickle

import pytest

from gmml_cluster.errors import DataError, Fault, GmmlError, SpecError, StorageError


@pytest.mark.parametrize("kind", [DataError, SpecError, StorageError])
def test_an_error_keeps_its_fault_in_parts_between_processes(kind: type[GmmlError]) -> None:
    fault = Fault("a.tar", "is damaged", "pack it again")
    error = pickle.loads(pickle.dumps(kind(fault)))
    assert error.faults == [fault]
    assert str(error) == str(fault)


def test_a_text_that_was_printed_elsewhere_has_no_parts() -> None:
    error = GmmlError("rank 1 failed")
    assert error.faults == []
    assert str(error) == "rank 1 failed"
