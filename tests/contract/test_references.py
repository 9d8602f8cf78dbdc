"""Every document and file that code or documentation refers to is in the repository."""

import ast
import io
import re
import subprocess
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "gmml_cluster"
LISTED = subprocess.run(
    ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
).stdout.split("\n")
TEXTS = [ROOT / name for name in LISTED if re.search(r"(\.(py|md|toml|yaml|sh)|Makefile|Dockerfile)$", name)]
DOCUMENT = re.compile(r"(?<![\w/.])((?:docs|docker|benchmarks)/[\w/.-]+\.md|[A-Z]+\.md)\b")
FILE = re.compile(r"`((?:\w+/)+\w+\.(?:py|sh|yaml))(?:::?\w+)?`")
ELSEWHERE = re.compile(r"\b(?:DESIGN|METHODS(?:-[A-Z]+)?|STACK|STYLE|FINDINGS|PEERS)(?:\.md|,? sections?\b|'s?\b| \d)")


def prose(path):
    """What people read of a file: comments and docstrings of code, all of anything else."""
    text = path.read_text()
    if path.suffix != ".py":
        return text
    comments = [
        each.string for each in tokenize.generate_tokens(io.StringIO(text).readline) if each.type == tokenize.COMMENT
    ]
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docstrings = [ast.get_docstring(node) or "" for node in ast.walk(ast.parse(text)) if isinstance(node, documented)]
    attributes = [
        node.value.value
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    ]
    return "\n".join([*comments, *docstrings, *attributes])


def resolves(name, page):
    folders = (ROOT, PACKAGE, page.parent, ROOT / "docs", ROOT / "docs" / "reference")
    return any((folder / name).exists() for folder in folders)


def test_the_patterns_find_references():
    found = {name for path in TEXTS for name in DOCUMENT.findall(prose(path))}
    assert {"docs/log.md", "docs/reference/order-of-samples.md"} <= found
    assert sum(len(FILE.findall(prose(path))) for path in TEXTS) > 50
    assert ELSEWHERE.search("as METHODS 0.8 says")
    assert ELSEWHERE.search("(DESIGN section 4)")


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_reference_is_in_the_repository(path):
    text = prose(path)
    missing = {name for name in DOCUMENT.findall(text) if not resolves(name, path)}
    if path.suffix == ".md":
        missing |= {
            name for name in FILE.findall(text) if not resolves(name, path) and not name.startswith("clusters/")
        }
    assert not missing
    assert not ELSEWHERE.findall(text), "a document that is not in the repository"
