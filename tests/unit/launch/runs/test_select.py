"""Which runs a word of a command line means."""

import pytest

from gmml_cluster.errors import SpecError
from gmml_cluster.launch.runs.select import select, select_all
from gmml_cluster.run.finding.sweeps import SweepRun, record
from gmml_cluster.run.root import create_run, remove_run


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A sweep `vit-lr` of two runs, and two runs beside it."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "runs"
    for name in ("vit-lr2", "vit-lr1", "vit-long", "resnet"):
        create_run(str(root), name, {}, {})
    record(str(root), "vit-lr", [SweepRun(f"vit-lr{n}", (f"optim.lr={n}",), f"{n}") for n in (2, 1)])
    return str(root)


def named(text, root):
    found = select(text, root)
    return [run.name for run in found.runs], found.is_group


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("vit-lr", (["vit-lr2", "vit-lr1"], True)),
        ("vit-lr1", (["vit-lr1"], False)),
        ("vit-lo", (["vit-long"], False)),
        ("vit-*", (["vit-long", "vit-lr1", "vit-lr2"], True)),
        ("r?snet", (["resnet"], True)),
    ],
)
def test_a_name_a_sweep_s_name_a_prefix_or_a_pattern(root, text, meant):
    assert named(text, root) == meant


def test_a_folder_is_the_run_in_it(root):
    assert named(f"{root}/resnet", None) == (["resnet"], False)


def test_a_run_s_own_name_comes_before_a_sweep_s(root):
    create_run(root, "vit-lr", {}, {})
    assert named("vit-lr", root) == (["vit-lr"], False)


def test_runs_of_a_sweep_that_were_removed_are_passed_over(root):
    remove_run(select("vit-lr2", root).runs[0])
    assert named("vit-lr", root) == (["vit-lr1"], True)
    remove_run(select("vit-lr1", root).runs[0])
    with pytest.raises(SpecError, match="no such run"):
        select("vit-lr", root)


@pytest.mark.parametrize("text", ["vit", "none", "none-*"])
def test_what_means_nothing_or_several_is_refused(root, text):
    with pytest.raises(SpecError, match=text.replace("*", r"\*")):
        select(text, root)


def test_several_words_mean_each_run_once(root):
    assert [run.name for run in select_all(["vit-lr", "vit-lr1", "resnet"], root)] == ["vit-lr2", "vit-lr1", "resnet"]
