"""Where runs are sought."""

from types import SimpleNamespace

import pytest

from gmml_cluster.errors import Fault, SpecError, StorageError
from gmml_cluster.launch.runs.find import every, find, known_roots
from gmml_cluster.run.finding import discovery, silent_roots
from gmml_cluster.run.finding.discovery import note_root
from gmml_cluster.run.finding.silent_roots import SilentRoots
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
    with pytest.raises(SpecError):
        every("gopher://nowhere")


class Gone:
    """A store that counts how often it is asked, and does not answer until it is `back`."""

    def __init__(self, monkeypatch):
        self.asked, self.back = 0, False
        original = discovery._listed

        def listed(root):
            if not root.startswith("s3://"):
                return original(root)
            self.asked += 1
            if not self.back:
                raise StorageError(Fault(root, "no answer; every retry failed"))
            return iter(())

        monkeypatch.setattr(discovery, "_listed", listed)


def test_a_noted_root_whose_store_is_gone_is_named_once_and_asked_again_after_growing_pauses(
    tmp_path, capsys, monkeypatch
):
    gone, now = Gone(monkeypatch), [1e9]
    monkeypatch.setattr(silent_roots, "time", SimpleNamespace(time=lambda: now[0]))
    make_run(tmp_path / "there", "a")
    for root in (str(tmp_path / "there"), "s3://gone/runs"):
        note_root(root)
    assert [run.name for run in every(None)] == ["a"]
    said = capsys.readouterr().err
    assert said.startswith("s3://gone/runs: no answer; every retry failed; its runs are not listed; ")
    assert f"remove its line from {tmp_path}/home/.local/state/gmml/roots" in said
    for later, asked in ((10, 1), (700, 2), (1300, 2), (2000, 3)):
        now[0] = 1e9 + later
        assert [run.name for run in every(None)] == ["a"]
        assert gone.asked == asked
    assert find("a", None).name == "a"
    assert capsys.readouterr().err == ""
    gone.back, now[0] = True, 1e9 + 10**5
    every(None)
    gone.back = False
    every(None)
    assert "s3://gone/runs" in capsys.readouterr().err, "it was there again in between"


def test_a_noted_root_whose_folder_is_gone_is_named_once(tmp_path, capsys):
    note_root(str(tmp_path / "gone"))
    assert every(None) == []
    assert f"{tmp_path}/gone: does not exist (any more)" in capsys.readouterr().err
    assert every(None) == []
    assert capsys.readouterr().err == ""
    make_run(tmp_path / "gone", "a")
    assert [run.name for run in every(None)] == ["a"]


def test_a_run_of_a_root_that_was_silent_is_found_where_no_other_has_it(tmp_path, monkeypatch):
    make_run(tmp_path / "slow", "a")
    note_root(str(tmp_path / "slow"))
    SilentRoots(discovery.silence_file()).failed(str(tmp_path / "slow"))
    assert every(None) == []
    assert find("a", None).name == "a"


def test_a_damaged_memory_of_silent_roots_says_nothing(tmp_path):
    discovery.silence_file().parent.mkdir(parents=True)
    discovery.silence_file().write_text('{"/runs": 5')
    make_run(tmp_path / "there", "a")
    note_root(str(tmp_path / "there"))
    assert [run.name for run in every(None)] == ["a"]
