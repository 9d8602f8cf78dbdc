"""YAML as data, with the file and line of everything.

Scalars follow the core schema of YAML 1.2: `1e-4` is a number; `no`, `1:30` and `2024-01-01` are words. A document is
a mapping; doubled keys and tags that would construct something are faults.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import yaml

from gmml_cluster.errors import Fault, SpecError

MOST_VALUES = 100_000
_CORE = "tag:yaml.org,2002:"
_WORDS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INTEGER = re.compile(r"[-+]?[0-9]+")
_BASED = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_NUMBER = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_BEYOND = re.compile(r"([-+]?)\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")


@dataclass(frozen=True)
class Tree:
    """A value and where it was written.

    Attributes:
        value: a scalar, a mapping of names to trees, or a tuple of trees.
        where: `file:line`, or the override that it came from.
    """

    value: Any
    where: str

    def plain(self) -> Any:
        """The bare value: dicts, tuples and scalars."""
        if isinstance(self.value, dict):
            return {name: child.plain() for name, child in self.value.items()}
        return tuple(child.plain() for child in self.value) if isinstance(self.value, tuple) else self.value


Path: TypeAlias = tuple[str | int, ...]


def read_scalar(text: str) -> Any:
    """What an unquoted word means under the core schema: null, a boolean, an integer, a float, or the word itself."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _BASED.fullmatch(text):
        return int(text, 0)
    if _NUMBER.fullmatch(text):
        return float(text)
    if found := _BEYOND.fullmatch(text):
        return float(text.replace(".", "")) if found[1] is not None else float("nan")
    return text


def read_yaml(text: str, source: str, faults: list[Fault]) -> Tree:
    """The mapping that a document holds; an empty document is an empty mapping.

    Args:
        text: the document.
        source: its name in faults.
        faults: takes doubled keys and refused tags; reading goes on.

    Raises:
        SpecError: it is no YAML, or no mapping.
    """
    tree = _read(text, _Reading(source, True, faults))
    if tree.value is None:
        return Tree({}, tree.where)
    if not isinstance(tree.value, dict):
        what = "a list" if isinstance(tree.value, tuple) else shortened(shown(tree.value))
        raise SpecError(Fault(tree.where, f"{what} at the top; a file is a mapping; write `name: value`"))
    return tree


def read_value(text: str, source: str, faults: list[Fault], path: Path = ()) -> Tree:
    """One value, such as an override's; every part of it is said to come from `source`.

    Args:
        text: the value.
        source: its name in faults.
        faults: takes doubled keys and refused tags; reading goes on.
        path: the field that it is for.

    Raises:
        SpecError: it is no YAML.
    """
    return _read(text, _Reading(source, False, faults), path)


def _read(text: str, reading: "_Reading", path: Path = ()) -> Tree:
    try:
        node = yaml.compose(text, Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        raise SpecError(_syntax(error, reading)) from error
    return Tree(None, reading.where(0)) if node is None else reading.tree(node, _Place((), path))


def _syntax(error: yaml.YAMLError, reading: "_Reading") -> Fault:
    mark = getattr(error, "problem_mark", None)
    problem = " ".join(filter(None, [getattr(error, "context", None), getattr(error, "problem", None)])) or str(error)
    told = " ".join(problem.split())
    return Fault(reading.where(mark.line if mark else 0), f"no YAML: {told}; check quotes, colons and indentation")


@dataclass(frozen=True)
class _Place:
    """Where in a document a node stands: the nodes that it is inside, and its field."""

    above: tuple[yaml.Node, ...]
    path: Path

    def inside(self, node: yaml.Node, name: str | int) -> "_Place":
        return _Place((*self.above, node), (*self.path, name))

    def named(self, message: str) -> str:
        """A message with the field in front; at the top there is none."""
        return f"{'.'.join(map(str, self.path))}: {message}" if self.path else message


class _Reading:
    """The faults met while nodes become trees."""

    def __init__(self, source: str, lined: bool, faults: list[Fault]) -> None:
        self.source, self.lined, self.faults, self.values = source, lined, faults, 0

    def where(self, line: int) -> str:
        return f"{self.source}:{line + 1}" if self.lined else self.source

    def tree(self, node: yaml.Node, place: _Place, line: int | None = None) -> Tree:
        """The tree of a node; `line` is that of its key."""
        where = self.where(node.start_mark.line if line is None else line)
        self.values += 1
        if self.values > MOST_VALUES:
            told = f"more than {MOST_VALUES} values; aliases of aliases grow without end; write the values out"
            raise SpecError(Fault(where, place.named(told)))
        if any(node is other for other in place.above):
            told = "an alias stands inside its own anchor; it has no end; write the value out"
            return self._refuse(where, place.named(told))
        if isinstance(node, yaml.MappingNode):
            self._check_tag(node, "map", where, place)
            return Tree(dict(self._members(node, place)), where)
        if isinstance(node, yaml.SequenceNode):
            self._check_tag(node, "seq", where, place)
            inside = [self.tree(child, place.inside(node, number)) for number, child in enumerate(node.value)]
            return Tree(tuple(inside), where)
        return self._scalar(node, where, place)

    def _members(self, node: yaml.MappingNode, place: _Place) -> Iterator[tuple[str, Tree]]:
        first: dict[str, int] = {}
        for key, child in node.value:
            line = key.start_mark.line
            if not isinstance(key, yaml.ScalarNode):
                told = "a mapping or list as a key; keys are words; write a word"
                self._refuse(self.where(line), place.named(told))
                continue
            inside = place.inside(node, key.value)
            if key.value in first:
                again, earlier = _quoted(child), self.where(first[key.value])
                told = f"written twice, {again} here and first at {earlier}; the second would hide it; remove one"
                self._refuse(self.where(line), inside.named(told))
                continue
            first[key.value] = line
            yield key.value, self.tree(child, inside, line)

    def _scalar(self, node: yaml.Node, where: str, place: _Place) -> Tree:
        is_plain = isinstance(node, yaml.ScalarNode) and node.style is None and not _is_tagged(node)
        if is_plain and node.tag == f"{_CORE}str":
            return Tree(read_scalar(node.value), where)
        self._check_tag(node, "str", where, place)
        return Tree(node.value, where)

    def _check_tag(self, node: yaml.Node, kind: str, where: str, place: _Place) -> None:
        if node.tag not in (f"{_CORE}{kind}", "!", "", None):
            tag = node.tag.replace(_CORE, "!!")
            told = f"tag {tag!r}; a spec is plain data and constructs nothing; remove the tag"
            self._refuse(where, place.named(told))

    def _refuse(self, where: str, message: str) -> Tree:
        self.faults.append(Fault(where, message))
        return Tree(None, where)


def _quoted(node: yaml.Node) -> str:
    if isinstance(node, yaml.ScalarNode):
        return shortened(shown(read_scalar(node.value) if node.style is None else node.value))
    return "a mapping" if isinstance(node, yaml.MappingNode) else "a list"


def _is_tagged(node: yaml.Node) -> bool:
    mark = node.start_mark
    return mark.buffer is not None and mark.buffer[mark.pointer] == "!"


def shown(value: Any) -> str:
    """A value as faults quote it."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "null"
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(shown, value))}]"
    return repr(value)


def shortened(text: str) -> str:
    """A text of at most 60 characters."""
    return text if len(text) <= 60 else f"{text[:57]}..."


def walk(tree: Tree, path: Path) -> Tree | None:
    """The tree at a path, or None where there is none."""
    for part in path:
        inside = tree.value
        places = range(len(inside)) if isinstance(inside, tuple) else inside
        if not isinstance(places, range | dict) or part not in places:
            return None
        tree = inside[part]
    return tree
