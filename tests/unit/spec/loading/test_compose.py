"""`extends` and overrides."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmml_cluster.errors import SpecError
from gmml_cluster.spec.loading.compose import compose, merge
from gmml_cluster.spec.loading.yaml import Tree, walk


def write(folder, **files):
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder / f"{next(iter(files))}.yaml"


def composed(path, *overrides):
    faults = []
    tree = compose(path, overrides, faults)
    return tree, [str(fault) for fault in faults]


def test_extends_merges_mappings_and_replaces_lists(tmp_path):
    path = write(tmp_path, a="extends: b.yaml\nx: {p: 1}\nlist: [9]\n", b="x: {p: 0, q: 2}\nlist: [1, 2]\ny: 3\n")
    assert composed(path)[0].plain() == {"x": {"p": 1, "q": 2}, "list": (9,), "y": 3}


def test_extends_is_relative_to_the_file_that_says_it(tmp_path):
    (tmp_path / "deep").mkdir()
    write(tmp_path, base="extends: deep/c.yaml\nx: 1\n")
    write(tmp_path / "deep", a="extends: ../base.yaml\n", c="z: 3\n")
    assert composed(tmp_path / "deep" / "a.yaml")[0].plain() == {"z": 3, "x": 1}


def test_a_value_is_said_to_come_from_the_file_that_wrote_it(tmp_path):
    path = write(tmp_path, a="extends: b.yaml\nx:\n  p: 1\n", b="# head\nx: {q: 2}\ny: 3\n")
    tree, _ = composed(path, "z.w=1")
    locations = [walk(tree, path).where for path in (("x", "p"), ("x", "q"), ("y",), ("z", "w"))]
    assert locations == [f"{tmp_path}/a.yaml:3", f"{tmp_path}/b.yaml:2", f"{tmp_path}/b.yaml:3", "override z.w=1"]


def test_a_method_of_another_name_brings_none_of_the_options_of_the_first(tmp_path):
    base = "method: {name: mae, decoder_depth: 2}\nother: {name: x, keep: 1}\n"
    path = write(tmp_path, a="extends: b.yaml\nmethod: {name: gmml}\nother: {name: y}\n", b=base)
    assert composed(path)[0].plain() == {"method": {"name": "gmml"}, "other": {"name": "y", "keep": 1}}
    path = write(tmp_path, a="extends: b.yaml\nmethod: {name: mae, mask_ratio: 0.5}\n", b=base)
    assert composed(path)[0].plain()["method"] == {"name": "mae", "decoder_depth": 2, "mask_ratio": 0.5}


@pytest.mark.parametrize(
    "files", [{"a": "extends: a.yaml\n"}, {"a": "x: 1\nextends: b.yaml\n", "b": "extends: a.yaml\n"}]
)
def test_a_loop_is_refused_where_it_closes(tmp_path, files):
    (fault,) = composed(write(tmp_path, **files))[1]
    assert re.search(r"\.yaml:1: extends: a\.yaml -> .*a\.yaml is a loop", fault)


def test_a_missing_base_is_reported_at_the_line_that_names_it(tmp_path):
    path = write(tmp_path, a="x: 1\nextends: nowhere.yaml\n")
    tree, (fault,) = composed(path)
    assert fault.startswith(f"{tmp_path}/a.yaml:2: extends: no file '{tmp_path}/nowhere.yaml'")
    assert tree.value["x"].value == 1


def test_a_missing_file_is_reported_by_its_path(tmp_path):
    with pytest.raises(SpecError, match=r"none\.yaml: cannot be read \(No such file or directory\)"):
        composed(tmp_path / "none.yaml")


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpecError, match="not UTF-8"):
        composed(tmp_path / "a.yaml")


def test_extends_must_be_a_path(tmp_path):
    assert "extends: [1] is no path" in composed(write(tmp_path, a="extends: [1]\n"))[1][0]


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("a.b=1e-4", ("a", "b"), 1e-4),
        ("a.new.deep=no", ("a", "new", "deep"), "no"),
        ("list.1.url=s3://x/{0..3}.tar", ("list", 1, "url"), "s3://x/{0..3}.tar"),
        ("list=[1, 2]", ("list", 1), 2),
        ("a.b=", ("a", "b"), None),
        ("nothing.inside=3", ("nothing", "inside"), 3),
        ("a.b=x=y", ("a", "b"), "x=y"),
    ],
)
def test_an_override_sets_what_it_names_and_leaves_the_rest(tmp_path, override, path, value):
    text = "a: {b: 0, c: 5}\nlist: [{url: x}, {url: y}]\nnothing: null\n"
    before, _ = composed(write(tmp_path, a=text))
    tree, faults = composed(tmp_path / "a.yaml", override)
    assert faults == []
    assert walk(tree, path).plain() == value
    untouched = [each for each in [("a", "c"), ("list", 0)] if each[0] != path[0] or each[0] == "a"]
    assert all(walk(tree, each).plain() == walk(before, each).plain() for each in untouched)


def test_later_overrides_win(tmp_path):
    assert composed(write(tmp_path, a="x: 1\n"), "x=2", "x=3")[0].plain() == {"x": 3}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("nonsense", "'nonsense' is no override; write name=value"),
        ("a..b=1", "is no override"),
        ("=1", "is no override"),
        ("a.b.c=1", "a.b is 0 (at "),
        ("list.2.url=x", "list has no item '2'; it has 2"),
        ("list.first=x", "list has no item 'first'"),
        ("a.b=[1", "no YAML"),
        ("a.b=!!python/name:os.system x", "remove the tag"),
        ("a.b={c: 1, c: 2}", "written twice"),
    ],
)
def test_an_override_that_cannot_be_laid_is_a_fault_that_quotes_it(tmp_path, override, message):
    _, faults = composed(write(tmp_path, a="a: {b: 0}\nlist: [{url: x}, {url: y}]\n"), override)
    assert len(faults) == 1
    assert faults[0].startswith(f"override {override}: ")
    assert message in faults[0]


def test_faults_of_all_files_and_overrides_are_reported_together(tmp_path):
    path = write(tmp_path, a="extends: b.yaml\nx: !!set {}\n", b="y: 1\ny: 2\n")
    assert len(composed(path, "nonsense", "y.z=1")[1]) == 4


def planted(value):
    return Tree({name: planted(child) for name, child in value.items()} if isinstance(value, dict) else value, "here")


NAMES = st.sampled_from("abcd")
TREES = st.dictionaries(
    NAMES, st.recursive(st.integers(), lambda inner: st.dictionaries(NAMES, inner), max_leaves=6)
).map(planted)


@settings(max_examples=30)
@given(TREES)
def test_merging_with_nothing_changes_nothing(tree):
    empty = planted({})
    assert merge(tree, empty).plain() == tree.plain() == merge(empty, tree).plain()


@settings(max_examples=30)
@given(TREES)
def test_merging_twice_is_merging_once(tree):
    assert merge(tree, tree).plain() == tree.plain()


@given(TREES, TREES, TREES)
def test_a_chain_of_files_merges_the_same_from_either_end_where_mappings_stay_mappings(a, b, c):
    def kinds(tree, above=()):
        here = {above: isinstance(tree.value, dict)}
        inside = tree.value.items() if isinstance(tree.value, dict) else ()
        return {**here, **{k: v for name, child in inside for k, v in kinds(child, (*above, name)).items()}}

    seen = [kinds(tree) for tree in (a, b, c)]
    if any(one.get(path, kind) != kind for one in seen for other in seen for path, kind in other.items()):
        return
    assert merge(merge(a, b), c).plain() == merge(a, merge(b, c)).plain()


@given(TREES, TREES)
def test_what_is_laid_on_top_wins(base, over):
    def leaves(tree, above=()):
        if not isinstance(tree.value, dict):
            yield above, tree.value
        else:
            for name, child in tree.value.items():
                yield from leaves(child, (*above, name))

    merged = merge(base, over)
    assert all(walk(merged, path).value == value for path, value in leaves(over))
