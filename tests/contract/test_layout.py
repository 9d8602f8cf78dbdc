"""The layout of the house: what ships in the wheel, what the wheel leaves out, how long files are."""

import ast
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import metadata, version
from pathlib import Path

import pytest

from tests.fixtures.packages import build_wheel

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "gmml_cluster"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    with zipfile.ZipFile(build_wheel(folder)) as archive:
        archive.extractall(folder / "installed")
    return folder / "installed"


def names(folder, pattern="*.yaml"):
    return {path.name for path in folder.glob(pattern)}


@pytest.mark.parametrize("folder", ["jobs", "clusters"])
def test_recipes_and_profiles_ship_in_the_wheel(wheel, folder):
    assert names(ROOT / folder)
    assert names(wheel / "gmml_cluster" / folder) == names(ROOT / folder)


def test_profiles_are_found_from_the_source_tree_and_from_the_wheel(wheel, tmp_path):
    script = """
import gmml_cluster
from gmml_cluster.spec.loading.validate import load_profile
print(gmml_cluster.__file__, load_profile("local").launcher)
"""
    for tree in (ROOT, wheel):
        command = [sys.executable, "-P", "-c", script]
        done = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(tree)}, capture_output=True, text=True)
        assert done.stdout == f"{tree}/gmml_cluster/__init__.py local\n", done.stderr


def test_the_wheel_holds_no_tests(wheel):
    assert {path.name for path in wheel.iterdir() if not path.name.endswith(".dist-info")} == {"gmml_cluster"}


def test_no_file_is_longer_than_400_lines():
    long = {str(p.relative_to(ROOT)): n for p in PACKAGE.rglob("*.py") if (n := len(p.read_text().splitlines())) > 400}
    assert not long, f"{long}: a file of more than 400 lines wants to be two"


def test_every_folder_says_what_it_is_for():
    folders = [path.parent for path in PACKAGE.rglob("__init__.py")]
    assert len(folders) > 20
    silent = [
        str(each.relative_to(ROOT))
        for each in folders
        if not ast.get_docstring(ast.parse((each / "__init__.py").read_text()))
    ]
    assert not silent, "a newcomer opens a folder and asks what belongs into it"


def test_no_two_public_classes_have_one_name():
    found = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    assert len(found) > 400
    doubled = {name: files for name, files in found.items() if len(files) > 1}
    assert not doubled, "who reads of a class must not have to ask which"


def test_a_login_node_installs_no_training_packages():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    base = {line.split(">")[0].split("=")[0] for line in project["dependencies"]}
    assert not base & {"torch", "deepspeed", "numpy", "ray", "s3fs", "opencv-python-headless", "tensorboard"}


def test_what_is_pinned_lies_in_the_ranges_of_the_project():
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = project["dependencies"] + [line for extra in project["optional-dependencies"].values() for line in extra]
    ranges = {requirement.name: requirement.specifier for requirement in map(Requirement, lines)}
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    for name, pinned in (line.split("==") for line in pins):
        assert pinned in ranges.get(name, SpecifierSet()), f"{name}=={pinned} is outside {ranges[name]}"


def test_the_pinned_libraries_of_object_stores_go_together():
    from packaging.requirements import Requirement

    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    for name in ("aiobotocore", "boto3"):
        assert version(name) == pins[name]
        needed = map(Requirement, metadata(name).get_all("Requires-Dist"))
        assert all(pins["botocore"] in each.specifier for each in needed if each.name == "botocore" and not each.extras)
