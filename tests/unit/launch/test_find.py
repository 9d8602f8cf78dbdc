"""Where runs are sought."""

import pytest

from gmml_cluster.errors import SpecError, StorageError
from gmml_cluster.launch.find import every, find, known_roots
from gmml_cluster.run.discovery import note_root
from gmml_cluster.run.root import create_run


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.chdir(tmp_path)


def make_run(root, name):
    return create_run(str(root), name, {"spec.yaml": b"{}"}, {"spec": "0", "code": "0", "versions": {}})


def test_runs_lie_under_profiles_roots_and_noted_ones(tmp_path):
    (tmp_path / "clusters").mkdir()
    (tmp_path / "clusters" / "mine.yaml").write_text(f"launcher: local\nroot: {tmp_path}/profiled\n")
    make_run(tmp_path / "profiled", "a")
    make_run(tmp_path / "elsewhere", "b")
    note_root(str(tmp_path / "elsewhere"))
    assert {run.name for run in every(None)} == {"a", "b"}
    assert find("a", None).root == str(tmp_path / "profiled")


def test_a_given_root_narrows_the_search(tmp_path):
    make_run(tmp_path / "one", "a")
    make_run(tmp_path / "two", "a")
    for root in ("one", "two"):
        note_root(str(tmp_path / root))
    with pytest.raises(SpecError, match="means 2 runs"):
        find("a", None)
    assert find("a", "two").root == str(tmp_path / "two")
    assert known_roots("two", []) == [str(tmp_path / "two")]


BROKEN = {
    "list": "- 1\n",
    "binary": b"\xff\xfe",
    "digits": f"root: {'9' * 5000}\n",
    "nested": f"a: {'[' * 500}{']' * 500}\n",
    "syntax": "root: [\n",
    "large": "# " + "x" * 2**19,
    "loop": "extends: loop.yaml\n",
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_profile_that_cannot_be_read_is_a_fault_of_the_list_and_of_a_run_that_is_not_found(tmp_path, capsys, broken):
    (tmp_path / "clusters").mkdir()
    content = BROKEN[broken]
    path = tmp_path / "clusters" / f"{broken}.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    make_run(tmp_path / "elsewhere", "a")
    note_root(str(tmp_path / "elsewhere"))
    assert find("a", None).name == "a"
    assert capsys.readouterr().err == ""
    assert [run.name for run in every(None)] == ["a"]
    assert capsys.readouterr().err.startswith(f"clusters/{broken}.yaml")
    with pytest.raises(SpecError):
        find("b", None)
    assert capsys.readouterr().err.startswith(f"clusters/{broken}.yaml")


def test_a_root_that_a_profile_inherits_is_searched(tmp_path):
    (tmp_path / "clusters").mkdir()
    (tmp_path / "clusters" / "base.yml").write_text(f"launcher: local\nroot: {tmp_path}/inherited\n")
    (tmp_path / "clusters" / "heir.yaml").write_text("extends: base.yml\n")
    (tmp_path / "clusters" / "none.yaml").write_text("launcher: local\n")
    assert f"{tmp_path}/inherited" in known_roots(None, [])


def test_an_object_store_is_left_as_it_is_written():
    assert known_roots("s3://bucket/prefix/", []) == ["s3://bucket/prefix"]


def test_a_root_that_cannot_be_read_hides_no_runs_of_others(tmp_path, capsys):
    make_run(tmp_path / "good", "a")
    note_root(str(tmp_path / "good"))
    (tmp_path / "home/.local/state/gmml/roots").open("a").write("gopher://nowhere\n")
    assert [run.name for run in every(None)] == ["a"]
    assert "gopher" in capsys.readouterr().err
    with pytest.raises(StorageError):
        every("gopher://nowhere")
