"""The method of a package of one's own that docs/methods.md shows is the one that the tests train, whole and short."""

import re
import tomllib
from configparser import ConfigParser
from pathlib import Path

from tests.fixtures.plugins import THEIRS, install

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"
FEWER_THAN = 80
"""Lines of a whole method with its entry points."""


def shown(language):
    """Blocks of the page's section on methods of one's own."""
    section = PAGE.read_text().partition("\n## Writing a method\n")[2]
    return re.findall(rf"^```{language}\n(.*?)^```", section, re.MULTILINE | re.DOTALL)


def test_the_files_that_the_page_shows_are_those_that_the_tests_train():
    assert shown("py") == [(THEIRS / f"{name}.py").read_text() for name in ("options", "method")]


def test_the_entry_points_that_the_page_shows_are_those_that_the_tests_install(tmp_path):
    (toml,) = shown("toml")
    installed = ConfigParser()
    installed.read(install(tmp_path) / "theirs-1.0.dist-info" / "entry_points.txt")
    expected = {group: dict(installed[group]) for group in installed.sections()}
    offered = tomllib.loads(toml)["project"]["entry-points"]
    assert offered == expected


def test_a_whole_method_is_short():
    assert sum(len(block.splitlines()) for block in [*shown("py"), *shown("toml")]) < FEWER_THAN
