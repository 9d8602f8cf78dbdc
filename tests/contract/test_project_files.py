"""Files about the project say the same as the project: version, licence, checks, targets."""

import re
import tomllib
from pathlib import Path

import yaml
from hypothesis import HealthCheck, settings

import gmml_cluster

ROOT = Path(__file__).parents[2]
MAKE = (ROOT / "Makefile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_citation_names_this_version_and_licence_and_no_person():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (gmml_cluster.__version__, PROJECT["license"])
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "type"} <= citation.keys()
    assert all(author.keys() == {"name"} for author in citation["authors"])


def test_the_newest_changes_are_of_this_version():
    titles = re.findall(r"^## (\S+?),", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert titles[0] == gmml_cluster.__version__


def test_the_hooks_before_a_commit_are_the_checks_of_make_lint():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = [hook["entry"].removeprefix(".venv/bin/") for hook in config["repos"][0]["hooks"]]
    recipe = re.search(r"^lint: .*\n((?:\t.*\n)+)", MAKE, re.MULTILINE)
    assert recipe is not None
    assert hooks == re.findall(r"^\t@\$\(BIN\)/(.*)$", recipe[1], re.MULTILINE)


def test_make_help_lists_every_target():
    phony = re.search(r"^\.PHONY: (.*)$", MAKE, re.MULTILINE)
    assert phony is not None
    assert set(re.findall(r"^([a-z-]+):.*## ", MAKE, re.MULTILINE)) == set(phony[1].split())


def test_every_extra_is_on_the_page_of_installing_and_no_other():
    page = (ROOT / "docs" / "install.md").read_text()
    listed = [
        name
        for row in re.findall(r"^\|.*\| `([a-z0-9, `]+)` \|$", page, re.MULTILINE)
        for name in re.split(r"[`, ]+", row)
    ]
    assert sorted(listed) == sorted(PROJECT["optional-dependencies"].keys() - {"dev"})


def test_pythons_that_no_test_ran_on_are_not_declared():
    named = [line for line in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", line)]
    (tested,) = re.findall(r"3\.\d+$", named[0])
    assert len(named) == 1
    assert PROJECT["requires-python"] == f">={tested}"


def test_property_tests_judge_no_time_and_try_the_same_examples_each_time():
    used = settings(max_examples=1)
    assert used.deadline is None
    assert HealthCheck.too_slow in used.suppress_health_check
    assert used.derandomize
