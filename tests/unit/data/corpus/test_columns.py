"""Columns of texts come back as they were, whatever kind they are stored as."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmml_cluster.data.corpus.columns import Column, pack, unpack
from gmml_cluster.errors import DataError

KINDS = {
    "empty": ["", "", ""],
    "decimal": ["0", "1764480000000000001", "-3"],
    "hex": ["00ff", "a0b1"],
    "text": ["d41d8cd9-3", "", "\udcff.tar", "über.tar"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_texts_are_stored_as_the_smallest_kind_that_gives_them_back(kind):
    column = Column.of_texts(KINDS[kind])
    assert column.kind == kind
    _, columns = unpack("T", pack({}, {"a": column}))
    assert columns["a"].texts() == KINDS[kind]
    assert columns["a"].texts(1, 2) == KINDS[kind][1:2]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.one_of(st.text(), st.from_regex(r"\A[0-9]{0,20}\Z"), st.from_regex(r"\A([0-9a-fA-F]{4})?\Z"))))
def test_any_texts_come_back(texts):
    _, columns = unpack("T", pack({}, {"a": Column.of_texts(texts)}))
    assert columns["a"].texts() == texts


def test_equal_tables_are_equal_bytes_whatever_the_order_of_their_columns():
    columns = {"b": Column.of_numbers([1, 2**62]), "a": Column.of_texts(["x", "yz"])}
    packed = pack({"n": 1}, columns)
    assert pack({"n": 1}, dict(reversed(columns.items()))) == packed
    about, found = unpack("T", packed)
    assert about == {"n": 1}
    assert (found["b"].numbers.tolist(), found["a"].texts()) == ([1, 2**62], ["x", "yz"])


@pytest.mark.parametrize("at", [0, 20, -1])
def test_a_flipped_bit_is_found(at):
    data = bytearray(pack({}, {"a": Column.of_texts(["x", "yz"])}))
    data[at] ^= 1
    with pytest.raises(DataError, match=r"^T: is not a valid table of shards"):
        unpack("T", bytes(data))
