"""The images' recipes name what is there, and both install the same; `tests/drills/test_images.py` executes them."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from gmml_cluster.spec.cluster import ClusterProfile
from tests.fixtures.images import definition, dockerfile

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docker"
STAGES = dockerfile((FOLDER / "Dockerfile").read_text())
APPTAINER = definition((FOLDER / "gmml.def").read_text())
PAGE = (FOLDER / "README.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = dict(line.split("==") for line in (FOLDER / "pins.txt").read_text().splitlines() if not line.startswith("#"))
COPIES = [text.split() for stage in STAGES.values() for text in stage.texts("COPY")]
COPIED = {name for words in COPIES if not words[0].startswith("--from") for name in words[:-1]}
ARGUMENTS = [tuple(text.partition("=")[::2]) for name in ("", "worker") for text in STAGES[name].texts("ARG")]


def extras(target: str) -> set[str]:
    """Extras that an image has."""
    (found,) = re.findall(r'"\$\{wheel\}\[(\S+)\]"', " ".join(STAGES[target].texts("RUN")))
    return set(found.replace("${EXTRAS}", dict(ARGUMENTS)["EXTRAS"]).split(","))


def commands(lines: list[str]) -> list[str]:
    """What shell lines call, but for conditions and variables; the folder of the wheel has one name."""
    parts = re.split(r"\s*(?:&&|\|\||;|(?<!\$)\{ )\s*", ";".join(lines).replace("/opt/gmml/wheels", "/wheels"))
    return [part for part in parts if re.match(r"(DS_BUILD_OPS=0 )?(pip|grep|sed) ", part)]


def test_what_is_copied_is_there_and_all_that_the_context_holds():
    sent = set(re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    assert sent == COPIED
    assert all((ROOT / name).exists() for name in COPIED)


def test_what_the_package_is_built_from_is_copied():
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    built = {*wheel["packages"], *wheel["force-include"], PROJECT["readme"], "pyproject.toml"}
    assert not {name for name in built if not any(Path(name).is_relative_to(copied) for copied in COPIED)}


@pytest.mark.parametrize("target", ["launcher", "worker"])
def test_a_target_has_extras_and_an_entry_of_the_project_and_no_root(target):
    assert extras(target) <= set(PROJECT["optional-dependencies"])
    (entry,) = STAGES[target].texts("ENTRYPOINT")
    assert entry.strip('[]"') in PROJECT["scripts"]
    assert int(STAGES[target].texts("USER")[-1]) > 0


def test_the_launcher_has_no_torch():
    assert not extras("launcher") & {"train", "eval", "export", "demo"}
    assert "torch" not in " ".join(STAGES["launcher"].texts("RUN"))


def test_the_build_arguments_are_documented():
    rows = re.findall(r"^\| `([A-Z_]+)` \| `?([^`|]+?)`? \|", PAGE, re.MULTILINE)
    assert rows == [(name, default or "none") for name, default in ARGUMENTS]


def test_the_pins_are_those_of_the_constraints_and_lie_in_the_ranges_of_the_project():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    fixed = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert {name: PINS[name] for name in fixed.keys() & PINS.keys()} == {
        n: fixed[n] for n in fixed.keys() & PINS.keys()
    }
    wanted = [
        *PROJECT["dependencies"],
        *(line for extra in PROJECT["optional-dependencies"].values() for line in extra),
    ]
    for requirement in map(Requirement, wanted):
        version = PINS.get(str(canonicalize_name(requirement.name)))
        assert version is None or version in requirement.specifier, f"{requirement}: pinned to {version}"


@pytest.mark.parametrize("target", ["launcher", "worker"])
def test_all_that_an_image_asks_for_is_pinned(target):
    asked = [*PROJECT["dependencies"]]
    pending = list(extras(target))
    while pending:
        for requirement in map(Requirement, PROJECT["optional-dependencies"][pending.pop()]):
            own = requirement.name == PROJECT["name"]
            pending += requirement.extras if own else ()
            asked += [] if own else [str(requirement)]
    assert not {str(canonicalize_name(Requirement(line).name)) for line in asked} - PINS.keys()


def test_apptainers_image_is_the_workers():
    of_docker = STAGES["wheel"].texts("RUN") + STAGES["worker"].texts("RUN")
    assert len(commands(of_docker)) == 6
    assert commands(APPTAINER["post"]) == commands(of_docker)
    assert APPTAINER["arguments"] == ["=".join(each) for each in ARGUMENTS]
    assert {line.split()[0] for line in APPTAINER["files"]} == COPIED


@pytest.mark.parametrize("section", ["post", "runscript", "test"])
def test_the_shell_lines_of_apptainers_image_pass_the_linter(section, tmp_path):
    lines = re.sub(r"\{\{ (\w+) \}\}", r"\1", "\n".join(APPTAINER[section]))
    (tmp_path / "lines.sh").write_text(f"#!/bin/sh\n{lines}\n")
    linter = Path(sys.executable).parent / "shellcheck"
    done = subprocess.run([linter, tmp_path / "lines.sh"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("body", re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))
def test_the_profiles_shown_are_valid(body):
    ClusterProfile.model_validate({"launcher": "slurm", "root": "/runs", **yaml.safe_load(body)})
