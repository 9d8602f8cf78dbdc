"""A grid of values becomes runs, whose names say what differs."""

import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmml_cluster.errors import SpecError
from gmml_cluster.spec.job import run_name
from gmml_cluster.spec.sweep import Axis, grid, read_axes, split

FIELDS = [
    "optim.lr",
    "method.name",
    "optim.weight_decay.start",
    "head.lr",
    "engine.precision",
    "seed",
    "data.corpora.0.url",
]
VALUES = st.one_of(
    st.sampled_from(
        ["1e-4", "1e+4", "1E-4", "-1", "1", "true", "Null", "mae", "MAE", "10 epochs", "[0.2, 1]", "s3://b/a"]
    ),
    st.text(alphabet="ab1.-_ /+", min_size=1, max_size=70).filter(lambda text: text.strip()),
)
AXES = st.lists(st.sampled_from(FIELDS), min_size=1, max_size=3, unique=True).flatmap(
    lambda fields: st.tuples(*(st.builds(Axis, st.just(f), _values()) for f in fields))
)
BASES = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,62}", fullmatch=True)


def _values():
    return st.lists(VALUES, min_size=1, max_size=3, unique=True).map(tuple)


def names(*swept, base="quickstart"):
    return [member.name for member in grid(base, read_axes(swept)).members]


def test_the_last_field_changes_first_and_runs_are_named_by_what_differs():
    made = grid("quickstart", read_axes(["optim.lr=1e-4,3e-4", "method.name=gmml,mae"]))
    assert made.name == "quickstart-lr-method"
    assert [(member.name, member.overrides) for member in made.members] == [
        ("quickstart-lr1e-4-gmml", ("optim.lr=1e-4", "method.name=gmml")),
        ("quickstart-lr1e-4-mae", ("optim.lr=1e-4", "method.name=mae")),
        ("quickstart-lr3e-4-gmml", ("optim.lr=3e-4", "method.name=gmml")),
        ("quickstart-lr3e-4-mae", ("optim.lr=3e-4", "method.name=mae")),
    ]


@pytest.mark.parametrize(
    ("swept", "found"),
    [
        ("run=10 epochs,20 epochs", ["a-run10-epochs", "a-run20-epochs"]),
        ("engine.precision=bf16,fp32", ["a-bf16", "a-fp32"]),
        ("data.refuse_damaged=true,false", ["a-refuse_damaged-true", "a-refuse_damaged-false"]),
        ("augment.scale=[0.2, 1],[0.5, 1]", ["a-scale0.2-1", "a-scale0.5-1"]),
        ("seed=0", ["a-seed0"]),
    ],
)  # fmt: skip
def test_words_stand_alone_and_all_else_behind_its_field(swept, found):
    assert names(swept, base="a") == found


def test_fields_of_one_name_are_told_apart_by_the_section_before():
    assert names("optim.lr=1", "head.lr=2", base="a") == ["a-optim-lr1-head-lr2"]


@settings(max_examples=100, deadline=None)
@given(BASES, AXES)
def test_every_name_is_one_that_a_run_can_have_and_no_two_are_the_same(base, axes):
    made = grid(base, axes)
    found = [member.name for member in made.members]
    assert len(set(found)) == len(found) == len({member.overrides for member in made.members})
    assert [run_name(name) for name in [*found, made.name]]
    assert base not in found


@settings(max_examples=60, deadline=None)
@given(BASES, AXES, st.data())
def test_a_name_stays_when_values_are_added_unless_another_run_would_have_it(base, axes, data):
    before = {member.overrides: member.name for member in grid(base, axes).members}
    more = data.draw(_values())
    grown = (Axis(axes[0].field, tuple(dict.fromkeys((*axes[0].values, *more)))), *axes[1:])
    after = {member.overrides: member.name for member in grid(base, grown).members}
    for overrides, name in before.items():
        assert after[overrides] == name or re.fullmatch(r".*-[0-9a-f]{8}", after[overrides])


def test_all_combinations_come_once_in_an_order_that_does_not_depend_on_chance():
    swept = ["a.b=1,2,3", "c=x,y"]
    assert names(*swept) == names(*swept)
    firsts = [member.overrides[0] for member in grid("a", read_axes(swept)).members]
    assert firsts == ["a.b=1", "a.b=1", "a.b=2", "a.b=2", "a.b=3", "a.b=3"]
    assert all(one <= other for one, other in pairwise(firsts))


@pytest.mark.parametrize(
    ("written", "values"),
    [
        ("1,2", ["1", "2"]),
        ("[1,2],[3,[4,5]]", ["[1,2]", "[3,[4,5]]"]),
        ("{a: 1, b: 2},x", ["{a: 1, b: 2}", "x"]),
        ("'a,b',c", ["'a,b'", "c"]),
        ("it's,b", ["it's", "b"]),
        ("", [""]),
        ("1,", ["1", ""]),
    ],
)
def test_commas_in_brackets_and_quotes_part_nothing(written, values):
    assert split(written) == values


def test_all_that_is_wrong_is_said_at_once_each_with_its_cure():
    swept = ["lr", "name=a,b", "optim.lr=1,,2", "seed=1,1", "x=1", "x=2", "y.=3", "batch.size=8,16"]
    with pytest.raises(SpecError) as refused:
        read_axes(swept, ["batch.size=4"])
    assert [str(fault) for fault in refused.value.faults] == [
        "--sweep lr: is no field with values; write FIELD=VALUE,VALUE, such as optim.lr=1e-4,3e-4",
        "--sweep name: runs are named by what differs; sweep another field; name=... names the sweep",
        "--sweep optim.lr: '1,,2' lacks a value; write FIELD=VALUE,VALUE, such as optim.lr=1e-4,3e-4",
        "--sweep seed: has '1' twice; remove one: equal runs compute the same",
        "--sweep y.=3: is no field with values; write FIELD=VALUE,VALUE, such as optim.lr=1e-4,3e-4",
        "--sweep x: is swept twice; give all its values at once",
        "--sweep batch.size: is overridden as well; remove batch.size=... or the sweep",
    ]


def test_an_override_that_a_swept_section_would_undo_is_refused():
    with pytest.raises(SpecError) as refused:
        read_axes(["method={name: mae},{name: gmml}", "method2=a"], ["method.mask_ratio=0.6"])
    assert [str(fault) for fault in refused.value.faults] == [
        "--sweep method: would undo method.mask_ratio=...; "
        "write method.mask_ratio into each value, or sweep single fields"
    ]


def test_a_sweep_has_a_limit():
    many = ",".join(map(str, range(40)))
    with pytest.raises(SpecError, match="makes 1,600 runs; 1,000 at most"):
        read_axes([f"a={many}", f"b={many}"])
