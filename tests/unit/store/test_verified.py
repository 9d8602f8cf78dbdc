"""Reads with a checksum are repeated before an object is called damaged."""

import pytest

from gmml_cluster.store.verified import READS, read_verified


def answers(*contents):
    left = list(contents)
    return lambda: left.pop(0)


def must_be_sound(content):
    if content != b"sound":
        raise ValueError(f"{content!r} is damaged")


@pytest.mark.parametrize("bad", range(READS))
def test_a_good_answer_after_bad_ones_is_returned_with_one_warning(bad, caplog):
    read = answers(*[b"flipped"] * bad, b"sound", b"never read")
    assert read_verified(read, must_be_sound, pause_s=0) == b"sound"
    assert caplog.messages == ([f"b'flipped' is damaged; read {bad + 1} of {READS} was right"] if bad else [])


def test_content_that_stays_wrong_is_refused_with_the_reason_of_the_last_read_and_without_warnings(caplog):
    read = answers(*[f"bad {number}".encode() for number in range(READS)])
    with pytest.raises(ValueError, match=f"bad {READS - 1}"):
        read_verified(read, must_be_sound, pause_s=0)
    assert caplog.messages == []


def test_a_store_that_fails_is_not_asked_again():
    def read():
        calls.append(1)
        raise OSError("gone")

    calls = []
    with pytest.raises(OSError, match="gone"):
        read_verified(read, must_be_sound, pause_s=0)
    assert calls == [1]
