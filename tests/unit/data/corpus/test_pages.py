"""Pages of parquet columns and pieces of snappy streams, against pyarrow."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmml_cluster.data.corpus.pages import ValuePage, inflate, snappy_cuts

arrow = pytest.importorskip("pyarrow")
BLOCK = 2**16


@given(st.lists(st.tuples(st.sampled_from(["noise", "zeros", "text"]), st.integers(0, 50_000)), max_size=8), st.data())
def test_a_part_of_a_snappy_stream_is_decompressed_alone(parts, data):
    made = {"noise": np.random.default_rng(0).bytes(50_000), "zeros": bytes(50_000), "text": b"a rose is " * 5_000}
    values = b"".join(made[kind][:size] for kind, size in parts)
    stored = arrow.compress(values, "snappy", asbytes=True)
    page = ValuePage(False, 1000, stored, 1, values)
    start = data.draw(st.integers(0, len(values)))
    size = data.draw(st.integers(1, max(len(values) - start, 1)))
    if start + size > len(values):
        return
    found = page.excerpt(start, size)
    read = stored[found.offset - 1000 :][: found.length]
    assert found.of(read) == found.of(memoryview(read)) == values[start : start + size]
    assert found.inflated <= size + 2 * BLOCK  # no more than the blocks that it lies in
    assert found.offset >= 1000
    assert len(read) == found.length


def literal(data):
    return bytes([61 << 2]) + (len(data) - 1).to_bytes(2, "little") + data


def copy(back, size):
    return bytes([(size - 1) << 2 | 3]) + back.to_bytes(4, "little")


def test_blocks_of_which_one_copies_from_another_are_read_together():
    blocks = [np.random.default_rng(seed).bytes(BLOCK) for seed in range(3)]
    last = blocks[2][: BLOCK - 40] + blocks[1][100:140]  # the third copies 40 bytes of the second
    stream = b"\x80\x80\x0c" + literal(blocks[0]) + literal(blocks[1]) + literal(last[:-40])
    stream += copy(2 * BLOCK - 40 - 100, 40)
    values = b"".join((*blocks[:2], last))
    assert arrow.decompress(stream, len(values), "snappy", asbytes=True) == values
    positions, stored = snappy_cuts(stream)
    assert positions == [0, BLOCK, 3 * BLOCK]
    for start, end, first, behind in zip(positions, positions[1:], stored, stored[1:], strict=False):
        assert inflate(1, stream[first:behind], end - start) == values[start:end]
