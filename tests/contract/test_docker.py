"""The image's recipe names what is there. It is not built here."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from gmml_cluster.spec.cluster import ClusterProfile

ROOT = Path(__file__).parents[2]
RECIPE = (ROOT / "docker" / "Dockerfile").read_text().replace("\\\n", " ")
PAGE = (ROOT / "docker" / "README.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COPIED = [name for line in re.findall(r"^COPY (.*)$", RECIPE, re.MULTILINE) for name in line.split()[:-1]]


def test_what_is_copied_is_there_and_all_that_the_context_holds():
    sent = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    assert sorted(COPIED) == sorted(sent)
    assert all((ROOT / name).exists() for name in COPIED)


def test_what_the_package_is_built_from_is_copied():
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert {*wheel["packages"], *wheel["force-include"], PROJECT["readme"], "pyproject.toml"} <= set(COPIED)


def test_the_extras_and_the_entry_are_the_projects():
    (extras,) = re.findall(r'src\[([\w,]+)\]"', RECIPE)
    assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])
    (entry,) = re.findall(r'^ENTRYPOINT \["([\w-]+)"\]$', RECIPE, re.MULTILINE)
    assert entry in PROJECT["scripts"]


def test_the_build_arguments_are_documented_and_torchs_version_is_the_pinned_one():
    arguments = re.findall(r"^ARG (\w+)=(\S*)$", RECIPE, re.MULTILINE)
    assert re.findall(r"^\| `([A-Z_]+)` \| `?([^`|]+?)`? \|", PAGE, re.MULTILINE) == [
        (name, default or "none") for name, default in arguments
    ]
    assert re.search(r"^torch==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)


def test_nobody_is_root_in_it():
    assert re.findall(r"^USER (\w+)$", RECIPE, re.MULTILINE)[-1] != "root"


@pytest.mark.parametrize("line", [line for line in PAGE.splitlines() if line.startswith("slurm: ")])
def test_the_profiles_shown_are_valid(line):
    ClusterProfile.model_validate({"launcher": "slurm", "root": "/runs", **yaml.safe_load(line)})
