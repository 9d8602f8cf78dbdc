"""Quantities with written units, and small values written as one word."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmml_cluster.spec.scalars import (
    Interval,
    Length,
    NodeRange,
    Price,
    plain_number,
    seconds,
    size_bytes,
    write_bytes,
    write_seconds,
)


@pytest.mark.parametrize(
    ("written", "expected"), [("90 s", 90), ("30 min", 1800), ("1.5h", 5400), ("2 d", 172800), (" 1 s ", 1)]
)
def test_durations_are_seconds(written, expected):
    assert seconds(written) == expected


@pytest.mark.parametrize(
    ("written", "expected"), [("4 GiB", 2**32), ("1.5 KiB", 1536), ("3 MB", 3_000_000), ("7 B", 7), ("1 TiB", 2**40)]
)
def test_sizes_are_bytes(written, expected):
    assert size_bytes(written) == expected


@pytest.mark.parametrize("given", ["30", "min", "3 weeks", "-3 s", "1e3 s", "", "3 GiB", 30, 30.0, None, True])
def test_a_duration_without_a_known_unit_is_refused(given):
    with pytest.raises(ValueError, match="lacks a unit; write a number and one of s, min, h, d, as in '30 min'"):
        seconds(given)


@pytest.mark.parametrize("given", ["30", "3 min", 2**30, 1.5, None])
def test_a_size_without_a_known_unit_is_refused(given):
    with pytest.raises(ValueError, match="as in '4 GiB'"):
        size_bytes(given)


@given(st.floats(1e-12, 1e15))
def test_durations_are_read_as_they_were_written(number):
    assert seconds(write_seconds(number)) == number


@given(st.integers(0, 2**53))
def test_sizes_are_read_as_they_were_written(number):
    assert size_bytes(write_bytes(number)) == number


@given(st.floats(0, 1e20))
def test_plain_numbers_are_exact_and_have_no_exponent(number):
    assert float(plain_number(number)) == number
    assert "e" not in plain_number(number).lower()


@pytest.mark.parametrize(
    ("written", "fields"),
    [
        ("10 epochs", {"epochs": 10.0}),
        ("1 epoch", {"epochs": 1.0}),
        ("0.5 epochs", {"epochs": 0.5}),
        ("500 steps", {"steps": 500}),
        ("1 step", {"steps": 1}),
        ("100000 samples", {"samples": 100000}),
    ],
)
def test_lengths_are_written_with_their_unit(written, fields):
    assert Length.model_validate(written) == Length(**fields)


@pytest.mark.parametrize("given", ["10", 10, "ten steps", "1.5 steps", "-1 steps", "10steps", "10 epochs 3 steps"])
def test_what_is_no_length_is_refused(given):
    with pytest.raises(ValueError, match="is no length; write '10 epochs'"):
        Length.model_validate(given)


def test_lengths_count_whole_steps():
    assert Length(epochs=10).in_steps(batch=256, epoch_steps=5004.5) == 50045
    assert Length(samples=1000).in_steps(batch=64, epoch_steps=1.0) == 16
    assert Length(steps=7).in_steps(batch=64, epoch_steps=1.0) == 7
    assert Length(steps=0).in_steps(batch=64, epoch_steps=1.0) == 0


@pytest.mark.parametrize(("written", "fields"), [("500 steps", {"steps": 500}), ("30 min", {"seconds": 1800.0})])
def test_intervals_are_steps_or_durations(written, fields):
    assert Interval.model_validate(written) == Interval(**fields)


@pytest.mark.parametrize("given", ["0 steps", "0 s", "30", 30, "x", "1.5 steps", "3 epochs"])
def test_what_is_no_interval_is_refused(given):
    with pytest.raises(ValueError, match=r"is no interval|never passes"):
        Interval.model_validate(given)


@pytest.mark.parametrize(("given", "least", "most"), [(2, 2, 2), ("2", 2, 2), ("2..16", 2, 16), ("3..3", 3, 3)])
def test_node_ranges_are_a_number_or_bounds(given, least, most):
    assert NodeRange.model_validate(given) == NodeRange(least=least, most=most)


@pytest.mark.parametrize("given", [0, -1, "4..2", "0..2", "2..", "..3", "2...3", "two", "1.5"])
def test_what_is_no_range_of_nodes_is_refused(given):
    with pytest.raises(ValueError, match="is no range of nodes"):
        NodeRange.model_validate(given)


@pytest.mark.parametrize(("given", "amount"), [("2.50 EUR", 2.5), ("3 EUR", 3.0), ("0 EUR", 0.0)])
def test_prices_are_a_number_and_a_currency(given, amount):
    assert Price.model_validate(given) == Price(amount=amount, currency="EUR")


@pytest.mark.parametrize("given", [2.5, "2.50", "EUR 2.50", "2.5 eur", "-1 EUR", "2,50 EUR", "2.5EUR", "1e3 EUR"])
def test_what_is_no_price_is_refused(given):
    with pytest.raises(ValueError, match="is no price; write a number and a currency"):
        Price.model_validate(given)


@pytest.mark.parametrize(
    "value",
    [Length(epochs=0.1), Length(steps=3), Length(samples=9), Interval(steps=3), Interval(seconds=0.25),
     NodeRange(least=2, most=2), NodeRange(least=2, most=9), Price(amount=2.5, currency="EUR")],
)  # fmt: skip
def test_words_are_read_as_they_were_written(value):
    assert type(value).model_validate(value.model_dump(mode="json")) == value
