"""Draws: Random123's known answers, the specification's words at seed 7, and both forms equal bit for bit."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gmml_cluster.data.random import philox, philox_torch
from gmml_cluster.data.random.philox import Purpose

ONES = 0xFFFFFFFF
KNOWN_ANSWERS = [
    ((0, 0), (0, 0, 0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES, ONES), (ONES,) * 4, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0xA4093822, 0x299F31D0),
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]

seeds = st.integers(0, ONES)
numbers = st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=5)


@pytest.mark.parametrize(("key", "counter", "answer"), KNOWN_ANSWERS)
def test_philox_gives_random123s_known_answers(key, counter, answer):
    found = philox.philox(key, tuple(np.array([c], np.uint64) for c in counter))
    assert tuple(int(word[0]) for word in found) == answer
    found = philox_torch.philox(key, tuple(torch.tensor([c]) for c in counter))
    assert tuple(int(word[0]) for word in found) == answer


@settings(max_examples=50, deadline=None)
@given(seeds, st.integers(0, 300), st.lists(st.tuples(*[st.integers(0, ONES)] * 4), min_size=1, max_size=5))
def test_rounds_in_few_launches_are_the_rounds(seed, purpose, counters):
    even, odd = (torch.tensor(counters).T[first::2, :, None].contiguous() for first in (0, 1))
    keys = philox_torch._round_keys(seed, (purpose,), even.device)[..., None]
    multipliers = philox_torch._multipliers(even.device)
    plain = philox_torch._rounds(even, odd, keys, multipliers)
    assert all(map(torch.equal, plain, philox_torch._few_launches(even.clone(), odd, keys, multipliers)))


def test_words_at_seed_7_are_those_of_the_specification():
    found = philox.words(7, Purpose.TOKENS, np.array([5]), 4)[0]
    assert [f"{word:08x}" for word in found] == ["1ff84191", "97efdfe5", "d89bc306", "9d03727a"]
    found = philox.words(7, Purpose.TOKENS, np.array([2**32 + 5]), 4, stream=1)[0]
    assert [f"{word:08x}" for word in found] == ["769b04fa", "3f0c984f", "09ad2148", "10036c67"]


def test_order_of_tokens_at_seed_7_is_that_of_the_specification():
    found = philox.words(7, Purpose.TOKENS, np.array([0, 1, 2**33 + 7]), 16).astype(np.int64)
    kept = np.sort(np.argsort((found << 16) + np.arange(16), axis=1)[:, :4], axis=1)
    assert kept.tolist() == [[7, 9, 11, 14], [2, 3, 5, 6], [2, 4, 10, 11]]


@settings(max_examples=50, deadline=None)
@given(seeds, st.integers(0, 300), numbers, st.integers(1, 9), st.integers(0, 9))
def test_both_forms_draw_the_same_words(seed, purpose, numbers, count, stream):
    one = philox.words(seed, purpose, np.array(numbers), count, stream)
    other = philox_torch.words(seed, purpose, torch.tensor(numbers), count, stream)
    assert one.shape == (len(numbers), count)
    assert one.tolist() == other.tolist()


@settings(max_examples=50, deadline=None)
@given(seeds, numbers, st.integers(1, 2**31), st.fractions(0, 1))
def test_both_forms_make_the_same_numbers_of_words(seed, numbers, m, q):
    one, other = philox.words(seed, 16, np.array(numbers), 6), philox_torch.words(seed, 16, torch.tensor(numbers), 6)
    assert philox.uniform(one).tolist() == philox_torch.uniform(other).tolist()
    assert philox.uniform_plus(one).tolist() == philox_torch.uniform_plus(other).tolist()
    assert philox.integer(one, m).tolist() == philox_torch.integer(other, m).tolist()
    assert philox.bernoulli(one, q).tolist() == philox_torch.bernoulli(other, q).tolist()


def test_one_call_for_several_purposes_and_views_draws_what_a_call_for_each_does():
    numbers = torch.tensor([0, 5, 2**33 + 7])
    counts = {Purpose.FLIP: 1, Purpose.COLOUR: 9, 300: 768}
    found = philox_torch.view_words(7, numbers, 2, counts)
    for purpose, count in counts.items():
        apart = [philox_torch.words(7, purpose, numbers, count, view) for view in range(2)]
        assert torch.equal(found[purpose], torch.stack(apart, 1))


def test_fewer_words_are_the_beginning_of_more():
    assert (philox.words(1, 2, np.arange(3), 11)[:, :3] == philox.words(1, 2, np.arange(3), 3)).all()


def test_uniforms_and_integers_keep_their_bounds():
    extremes = np.array([0, ONES], np.uint32)
    assert philox.uniform(extremes).tolist() == [0.0, 1 - 2.0**-24]
    assert philox.uniform_plus(extremes).tolist() == [2.0**-24, 1.0]
    assert philox.integer(extremes, 24).tolist() == [0, 23]


def test_bernoulli_takes_a_float_as_the_decimal_it_is_written_as():
    edge = np.array([-(-3 * 2**24 // 10) - 1, -(-3 * 2**24 // 10)], np.uint32) << np.uint32(8)
    assert philox.bernoulli(edge, 0.3).tolist() == [True, False]
    assert philox.bernoulli(edge, Fraction(3, 10)).tolist() == [True, False]
    assert philox.bernoulli(edge, 0).tolist() == [False, False]
    assert philox.bernoulli(edge, 1).tolist() == [True, True]
