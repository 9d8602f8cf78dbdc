"""Errors that a user reads have three parts: where, what is wrong, what to do."""

import ast
from pathlib import Path

import gmml_cluster
from gmml_cluster import errors

PACKAGE = Path(gmml_cluster.__file__).parent
OURS = {name for name, found in vars(errors).items() if isinstance(found, type) and issubclass(found, Exception)}


def test_no_error_is_raised_with_a_bare_text():
    calls = [
        (f"{path.relative_to(PACKAGE)}:{node.lineno}", node)
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in OURS
    ]
    assert len(calls) > 100
    assert [
        where for where, call in calls if call.args and isinstance(call.args[0], (ast.Constant, ast.JoinedStr))
    ] == []
