"""Docstrings of fields, of models and of typed dicts: the text that follows a field in the source of its class."""

import ast
import inspect
import textwrap
from functools import cache
from itertools import pairwise

from pydantic import BaseModel
from typing_extensions import is_typeddict


@cache
def docstrings_of(model: type) -> dict[str, str]:
    """By field, those of base classes included; none of a class that has no source."""
    written = (cls for cls in [*_bases_of_typed_dict(model), *reversed(model.__mro__)] if cls not in BaseModel.__mro__)
    return {name: text for cls in written for name, text in _own(cls).items()}


def _bases_of_typed_dict(model: type) -> list[type]:
    """The typed dicts that one extends, which are not in its MRO; those of which others are made first."""
    bases = [base for base in getattr(model, "__orig_bases__", ()) if is_typeddict(base)]
    return [each for base in bases for each in [*_bases_of_typed_dict(base), base]]


def _own(model: type) -> dict[str, str]:
    try:
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    except (OSError, TypeError):
        return {}
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for field, text in pairwise(definition.body):
        if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
            continue
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str):
            found[field.target.id] = inspect.cleandoc(text.value.value)
    return found
