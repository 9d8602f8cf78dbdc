import io
import shutil
import subprocess
import threading
import zipfile
from pathlib import Path

import pytest

from gmml_cluster.errors import LaunchError, PreflightError
from gmml_cluster.launch import snapshot
from gmml_cluster.launch.code import installed_code
from gmml_cluster.launch.snapshot import Snapshot, take, unpack


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "tree" / "pkg"
    (folder / "__pycache__").mkdir(parents=True)
    (folder / "__init__.py").write_text("X = 1\n")
    (folder / "new.py").write_text("Y = 2\n")
    (folder / "ignored.log").write_text("noise")
    (folder / "__pycache__/new.pyc").write_bytes(b"byte code")
    return folder


def under_git(package: Path) -> None:
    (package.parent / ".gitignore").write_text("*.log\n__pycache__/\n")
    for words in (["init", "-q"], ["add", "pkg/__init__.py", ".gitignore"]):
        subprocess.run(["git", "-C", str(package.parent), *words], check=True)


def names(taken: Snapshot) -> list[str]:
    return zipfile.ZipFile(io.BytesIO(taken.data)).namelist()


def test_tracked_and_untracked_files_travel_and_ignored_ones_never(package: Path) -> None:
    under_git(package)
    assert names(take(package)) == ["pkg/__init__.py", "pkg/new.py"]


def test_a_file_deleted_but_still_tracked_is_left_out(package: Path) -> None:
    under_git(package)
    (package / "__init__.py").unlink()
    assert names(take(package)) == ["pkg/new.py"]


def test_without_git_all_travels_but_byte_code(package: Path) -> None:
    assert names(take(package)) == ["pkg/__init__.py", "pkg/ignored.log", "pkg/new.py"]


def test_an_installed_package_that_an_outer_repository_ignores_still_travels(package: Path) -> None:
    (package.parent / ".gitignore").write_text("*\n")
    subprocess.run(["git", "-C", str(package.parent), "init", "-q"], check=True)
    assert "pkg/__init__.py" in names(take(package))


def test_digest_is_a_function_of_names_and_bytes_alone(package: Path, tmp_path: Path) -> None:
    shutil.copytree(package.parent, tmp_path / "again")
    again = tmp_path / "again" / "pkg"
    (again / "new.py").touch()
    (again / "new.py").chmod(0o755)
    assert take(package) == take(again)
    (again / "new.py").write_text("Y = 3\n")
    assert take(package).digest != take(again).digest


def test_bulk_is_refused_with_the_ten_largest_files(package: Path) -> None:
    for number in range(12):
        (package / f"weights{number:02d}.bin").write_bytes(bytes(1000 + number))
    with pytest.raises(PreflightError) as refused:
        take(package, limit_bytes=5000)
    message = str(refused.value)
    assert all(f"weights{number:02d}.bin" in message for number in range(2, 12))
    assert "weights01.bin" not in message


def test_this_project_travels_whole_and_is_small() -> None:
    assert {"gmml_cluster/launch/slurm/entry.py", "gmml_cluster/errors.py"} <= set(names(installed_code("gmml")))


def test_many_ranks_unpack_at_once_and_agree(tmp_path: Path) -> None:
    made = Snapshot.of({f"pkg/{number}.py": bytes(100) for number in range(50)})
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(unpack(made.data, made.digest, tmp_path))) for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [tmp_path / made.digest] * 16
    assert len(list((tmp_path / made.digest / "pkg").iterdir())) == 50
    assert [path.name for path in tmp_path.iterdir()] == [made.digest]


def test_damaged_code_never_runs(tmp_path: Path) -> None:
    made = Snapshot.of({"pkg/__init__.py": b"X = 1\n"})
    with pytest.raises(LaunchError, match="damaged"):
        unpack(made.data + b"x", made.digest, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("harm", [lambda path: path.unlink(), lambda path: path.write_text("X = 2\n")])
def test_what_lies_in_the_cache_is_compared_and_repaired(tmp_path: Path, harm) -> None:
    made = Snapshot.of({"pkg/__init__.py": b"X = 1\n"})
    harm(unpack(made.data, made.digest, tmp_path) / "pkg/__init__.py")
    assert (unpack(made.data, made.digest, tmp_path) / "pkg/__init__.py").read_bytes() == b"X = 1\n"


def test_a_cache_open_to_others_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot.tempfile, "gettempdir", lambda: str(tmp_path))
    snapshot.cache_folder().chmod(0o777)
    with pytest.raises(LaunchError, match="another user owns it or may write to it"):
        snapshot.cache_folder()
