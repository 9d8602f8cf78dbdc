"""YAML as data: core schema scalars, and what is refused."""

import json
import math
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmml_cluster.errors import SpecError
from gmml_cluster.spec.loading.yaml import read_scalar, read_yaml, walk


def read(text):
    faults = []
    tree = read_yaml(text, "f.yaml", faults)
    return tree, [str(fault) for fault in faults]


@pytest.mark.parametrize(
    ("word", "meaning"),
    [
        ("1e-4", 1e-4), ("4E3", 4000.0), (".5", 0.5), ("5.", 5.0), ("-0.1", -0.1), ("12", 12), ("+3", 3), ("010", 10),
        ("0o10", 8), ("0x1F", 31), (".inf", math.inf), ("-.Inf", -math.inf), ("true", True), ("False", False),
        ("null", None), ("~", None), ("", None),
    ],
)  # fmt: skip
def test_a_word_of_the_core_schema_has_its_meaning(word, meaning):
    assert read_scalar(word) == meaning
    assert type(read_scalar(word)) is type(meaning)


@pytest.mark.parametrize(
    "word",
    ["no", "yes", "on", "off", "y", "No", "1:30", "190:20:30", "2024-01-01", "1_000", "e4", "1e", ".", "0b11", "1e-4x",
     "tRue", "NaN", "inf", "0o8", "--1", "1.2.3"],
)  # fmt: skip
def test_other_words_stay_words(word):
    assert read_scalar(word) == word


def test_not_a_number_is_read_as_one():
    assert math.isnan(read_scalar(".nan"))


def test_quoted_scalars_are_words():
    tree, faults = read("a: '1'\nb: \"true\"\nc: |\n  12\nd: !!str 3\ne: ! 4\n")
    assert tree.plain() == {"a": "1", "b": "true", "c": "12\n", "d": "3", "e": "4"}
    assert faults == []


def test_every_value_knows_its_line():
    tree, _ = read("# head\na: 1\nb:\n  c: [x, y]\n  d:\n    - {e: 2}\n")
    paths = {
        ("a",): 2,
        ("b",): 3,
        ("b", "c"): 4,
        ("b", "c", 1): 4,
        ("b", "d"): 5,
        ("b", "d", 0): 6,
        ("b", "d", 0, "e"): 6,
    }
    assert {path: walk(tree, path).where for path in paths} == {path: f"f.yaml:{line}" for path, line in paths.items()}


def test_a_path_that_is_not_there_is_none():
    tree, _ = read("a: [1]\n")
    assert [walk(tree, path) for path in (("b",), ("a", 1), ("a", 0, "c"), ("a", "x"))] == [None] * 4


def test_doubled_keys_are_all_reported_with_both_lines():
    _, faults = read("a: 1\nb: {c: 1, c: 2}\na: 3\n")
    assert [fault.split(";")[0] for fault in faults] == [
        "f.yaml:2: b.c: written twice, 2 here and first at f.yaml:2",
        "f.yaml:3: a: written twice, 3 here and first at f.yaml:1",
    ]


def test_a_refused_tag_is_reported_with_its_field():
    _, faults = read("a: [1, {b: !mine x}]\n")
    assert [fault.split(";")[0] for fault in faults] == ["f.yaml:1: a.1.b: tag '!mine'"]


def test_what_is_no_mapping_is_not_quoted_whole():
    with pytest.raises(SpecError) as caught:
        read("word " * 1000)
    assert len(str(caught.value)) < 140


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("a: !!python/object/apply:os.system [ls]", "!!python/object/apply:os.system"),
        ("a: !!python/name:os.system x", "!!python/name:os.system"),
        ("a: !mine {b: 1}", "!mine"),
        ("!!set {a}", "!!set"),
        ("a: !!binary aGk=", "!!binary"),
    ],
)
def test_a_tag_that_would_construct_something_is_refused_and_not_run(text, tag):
    _, faults = read(text)
    assert len(faults) == 1
    assert repr(tag) in faults[0]
    assert "remove the tag" in faults[0]


def test_anchors_are_values_and_their_loops_are_refused():
    assert read("a: &x [1, 2]\nb: *x\n")[0].plain() == {"a": (1, 2), "b": (1, 2)}
    assert "inside its own anchor" in read("a: &x [*x]\n")[1][0]


def test_aliases_of_aliases_end_before_they_fill_the_memory(monkeypatch):
    monkeypatch.setattr("gmml_cluster.spec.loading.yaml.MOST_VALUES", 1000)
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(SpecError, match="aliases of aliases"):
        read("\n".join(lines))


@pytest.mark.parametrize("digits", ["9" * 5000, "-" + "1" * 4301, "0x" + "f" * 9999])
def test_a_number_of_thousands_of_digits_is_a_fault_and_no_traceback(digits):
    tree, faults = read(f"a: {digits}\nb: 1\n")
    assert [fault.partition(";")[0] for fault in faults] == [f"f.yaml:1: a: a number of {len(digits):,} digits"]
    assert tree.plain() == {"a": None, "b": 1}
    assert read(f"a: '{digits}'\n")[0].plain() == {"a": digits}


@pytest.mark.parametrize("text", ["a: " + "[" * 500 + "]" * 500, "a: " + "{a: " * 2000 + "1" + "}" * 2000, "[" * 9999])
def test_brackets_that_are_too_deep_are_a_fault_and_no_traceback(text):
    with pytest.raises(SpecError, match=r"f\.yaml:1: .*too deep"):
        read(text)


def test_a_document_that_would_take_a_minute_is_refused_at_once():
    with pytest.raises(SpecError, match=r"f\.yaml:1: 6,000,000 characters; a spec has at most 262,144"):
        read("a: 1 # ".ljust(6_000_000, "x"))


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a: [1\nb", 2, "expected ',' or ']'"),
        ("a: 1\n---\nb: 2\n", 2, "single document"),
        ("- 1\n", 1, "a list at the top"),
        ("12\n", 1, "12 at the top"),
        ("a: \x07", 1, "special characters"),
    ],
)
def test_what_is_no_mapping_is_refused_with_its_line(text, line, message):
    with pytest.raises(SpecError) as caught:
        read(text)
    assert str(caught.value).startswith(f"f.yaml:{line}: ")
    assert message in str(caught.value)


def test_a_key_that_is_no_word_is_refused():
    assert "keys are strings" in read("? [a]\n: b\n")[1][0]


def test_an_empty_document_is_an_empty_mapping():
    assert read("# nothing\n")[0].plain() == {}


WORDS = st.text(string.ascii_letters + string.digits + " .:#'-{}[],&*!|>%@~\n\t", max_size=12)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | WORDS
PLAIN = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3), max_leaves=8
)


def with_tuples(value):
    if isinstance(value, dict):
        return {name: with_tuples(child) for name, child in value.items()}
    return tuple(map(with_tuples, value)) if isinstance(value, list) else value


@given(st.dictionaries(WORDS, PLAIN, max_size=4))
def test_json_is_read_as_json_means_it(value):
    tree, faults = read(json.dumps(value))
    assert faults == []
    assert tree.plain() == with_tuples(value)
