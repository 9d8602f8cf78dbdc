"""A method of another package is found by name, and what clashes is refused by name."""

import subprocess
import sys

import pytest

from gmml_cluster.errors import SpecError
from gmml_cluster.launch.code import installed_code
from gmml_cluster.launch.snapshot import Snapshot, unpack
from gmml_cluster.spec.methods.plugins import METHODS, claims, plug_in
from gmml_cluster.spec.methods.registry import plug_ins
from tests.fixtures.plugins import install


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] in ("theirs", "others")]:
        del sys.modules[name]


def test_a_method_of_another_package_is_found_with_its_options(folder):
    assert "theirs" not in claims(METHODS)
    install(folder)
    assert claims(METHODS)["theirs"].value == "theirs.method:Theirs"
    assert [options.__name__ for options in plug_ins()] == ["TheirOptions"]


def test_a_name_that_two_packages_claim_is_refused_with_both(folder):
    install(install(folder), package="others")
    with pytest.raises(SpecError, match=r"'theirs' is offered by (theirs and by others|others and by theirs)"):
        claims(METHODS)


def test_a_built_in_name_is_refused(folder):
    install(folder, name="gmml")
    with pytest.raises(SpecError, match="'gmml' is offered by theirs and by this project itself"):
        claims(METHODS)


def test_two_that_draw_for_one_purpose_are_refused(folder):
    install(install(folder), package="others", name="others")
    options = folder / "others" / "options.py"
    options.write_text(options.read_text().replace('Literal["theirs"]', 'Literal["others"]'))
    with pytest.raises(SpecError, match="'theirs' draws for purpose 256, which belongs to others"):
        plug_ins()


def test_a_purpose_of_this_project_is_refused(folder):
    options = install(folder) / "theirs" / "options.py"
    options.write_text(options.read_text().replace("{256}", "{41}"))
    with pytest.raises(SpecError, match="purpose 41, which belongs to this project; plug-ins have those from 256 up"):
        plug_ins()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('Literal["theirs"]', "str", 'lacks the field `name: Literal\\["theirs"\\]`'),
        ("purposes", "porpoises", "lacks purposes"),
        ("SpecModel)", "object)", "is no subclass of"),
        ("class TheirOptions", "1 / 0\nclass TheirOptions", "ZeroDivisionError"),
    ],
)
def test_options_that_do_not_fit_are_named(folder, old, new, message):
    options = install(folder) / "theirs" / "options.py"
    options.write_text(options.read_text().replace(old, new))
    with pytest.raises(SpecError, match=message):
        plug_ins()


def test_the_snapshot_carries_the_plug_in_that_a_job_uses_and_no_other(folder, tmp_path):
    install(folder)
    assert plug_in("mae") is None
    assert installed_code("mae").digest != installed_code("theirs").digest
    taken: Snapshot = installed_code("theirs")
    unpacked = unpack(taken.data, taken.digest, tmp_path / "cache")
    done = subprocess.run(
        [
            sys.executable,
            "-S",
            "-c",
            "from gmml_cluster.spec.methods.plugins import claims as c; print(c('gmml_cluster.methods'))",
        ],
        env={"PYTHONPATH": str(unpacked)},
        cwd=unpacked,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "theirs.method:Theirs" in done.stdout
    assert (unpacked / "theirs/options.py").exists()
