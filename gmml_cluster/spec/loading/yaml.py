"""YAML as data, with the file and line of every value.

Scalars follow the core schema of YAML 1.2: `1e-4` is a number; `no`, `1:30` and `2024-01-01` are strings. A document is
a mapping. Doubled keys and tags that would construct objects are faults, and so is a document large or deep enough to
stall the reader. Why PyYAML's scanner and not another: docs/decisions/0020-pyyaml-stays.md.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import yaml

from gmml_cluster.errors import Fault, SpecError

MOST_VALUES = 100_000
MOST_CHARACTERS = 2**18
"""PyYAML reads some 170,000 characters a second: larger documents would look like a hang."""
MOST_DIGITS = 300
"""Digits of a whole number that still fits a float; Python itself refuses to convert more than 4,300."""
_CORE = "tag:yaml.org,2002:"
_WORDS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INTEGER = re.compile(r"[-+]?[0-9]+")
_BASED = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_NUMBER = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"([-+]?)\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")

Path: TypeAlias = tuple[str | int, ...]


@dataclass(frozen=True)
class Tree:
    """A value and where it was written.

    Attributes:
        value: a scalar, a mapping of names to trees, or a tuple of trees.
        where: `file:line`, or the override that it came from.
        is_refused: whether a fault was found in what is written here; null may stand for it.
    """

    value: Any
    where: str
    is_refused: bool = False

    def plain(self) -> Any:
        """The bare value: dicts, tuples and scalars."""
        if isinstance(self.value, dict):
            return {name: child.plain() for name, child in self.value.items()}
        return tuple(child.plain() for child in self.value) if isinstance(self.value, tuple) else self.value


def plant(given: Any, where: str) -> Tree:
    """A plain value as a tree whose every field was written at one place."""
    if isinstance(given, Mapping):
        return Tree({str(name): plant(child, where) for name, child in given.items()}, where)
    if isinstance(given, list | tuple):
        return Tree(tuple(plant(child, where) for child in given), where)
    return Tree(given, where)


def dotted(path: Path) -> str:
    """A field's name as an override writes it."""
    return ".".join(map(str, path))


def at_field(where: str, path: Path) -> str:
    """The `where` of a fault: file and line, then the field; the file alone at the top of a document."""
    return f"{where}: {dotted(path)}" if path else where


def read_scalar(text: str) -> Any:
    """What an unquoted scalar means under the core schema: null, a boolean, an integer, a float, or the string itself.

    Raises:
        ValueError: a whole number of too many digits.
    """
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text) or _BASED.fullmatch(text):
        if len(text) > MOST_DIGITS:
            raise ValueError(f"a number of {len(text):,} digits")
        return int(text, 10 if _INTEGER.fullmatch(text) else 0)
    if _NUMBER.fullmatch(text):
        return float(text)
    if found := _NOT_FINITE.fullmatch(text):
        return float(text.replace(".", "")) if found[1] is not None else float("nan")
    return text


def is_word(text: str) -> bool:
    """Whether an unquoted text would be read as itself."""
    try:
        return read_scalar(text) is text
    except ValueError:
        return False


def read_yaml(text: str, source: str, faults: list[Fault]) -> Tree:
    """The mapping that a document holds; an empty document is an empty mapping.

    Args:
        text: the document.
        source: its name in faults.
        faults: collects doubled keys, refused tags and numbers; reading continues.

    Raises:
        SpecError: it is no YAML, no mapping, too large or too deep.
    """
    tree = _read(text, _Reading(source, True, faults))
    if tree.value is None:
        return Tree({}, tree.where)
    if not isinstance(tree.value, dict):
        what = "a list" if isinstance(tree.value, tuple) else shortened(shown(tree.value))
        raise SpecError(Fault(tree.where, f"{what} at the top; a file is a mapping", "write `name: value`"))
    return tree


def read_value(text: str, source: str, faults: list[Fault], path: Path = ()) -> Tree:
    """One value, such as an override's; `source` is the `where` of every part of it.

    Args:
        text: the value.
        source: its name in faults.
        faults: collects doubled keys, refused tags and numbers; reading continues.
        path: the field that it is for.

    Raises:
        SpecError: it is no YAML, too large or too deep.
    """
    return _read(text, _Reading(source, False, faults), path)


def _read(text: str, reading: "_Reading", path: Path = ()) -> Tree:
    where = at_field(reading.where(0), path)
    if len(text) > MOST_CHARACTERS:
        problem = f"{len(text):,} characters; a spec has at most {MOST_CHARACTERS:,}"
        raise SpecError(Fault(where, problem, "list shards by a range such as {000..131} or by *"))
    try:
        node = yaml.compose(text, Loader=yaml.BaseLoader)
        return Tree(None, reading.where(0)) if node is None else reading.tree(node, _Position((), path))
    except yaml.YAMLError as error:
        raise SpecError(_syntax(error, reading)) from error
    except RecursionError:  # from None: a traceback of thousands of frames helps nobody
        problem = "lists or mappings inside each other, too deep to be read"
        raise SpecError(Fault(where, problem, "check the brackets; a spec is a few levels deep")) from None


def _syntax(error: yaml.YAMLError, reading: "_Reading") -> Fault:
    mark = getattr(error, "problem_mark", None)
    problem = " ".join(filter(None, [getattr(error, "context", None), getattr(error, "problem", None)])) or str(error)
    where = reading.where(mark.line if mark else 0)
    return Fault(where, f"no YAML: {' '.join(problem.split())}", "check quotes, colons and indentation")


@dataclass(frozen=True)
class _Position:
    """The nodes that a node is inside, and its field."""

    above: tuple[yaml.Node, ...]
    path: Path

    def inside(self, node: yaml.Node, name: str | int) -> "_Position":
        return _Position((*self.above, node), (*self.path, name))


class _Reading:
    """Nodes become trees; faults are collected on the way."""

    def __init__(self, source: str, lined: bool, faults: list[Fault]) -> None:
        self.source, self.lined, self.faults, self.values = source, lined, faults, 0

    def where(self, line: int) -> str:
        return f"{self.source}:{line + 1}" if self.lined else self.source

    def tree(self, node: yaml.Node, position: _Position, line: int | None = None) -> Tree:
        """The tree of a node; `line` is that of its key."""
        where = self.where(node.start_mark.line if line is None else line)
        self.values += 1
        if self.values > MOST_VALUES:
            # Aliases of aliases multiply: a few hundred characters could stand for billions of values.
            problem = f"more than {MOST_VALUES:,} values; aliases of aliases grow without end"
            raise SpecError(Fault(at_field(where, position.path), problem, "write the values out"))
        if any(node is other for other in position.above):
            return self._refuse(where, position, "an alias inside its own anchor has no end", "write the value out")
        if isinstance(node, yaml.MappingNode):
            is_refused = self._refuses_tag(node, "map", where, position)
            return Tree(dict(self._members(node, position)), where, is_refused)
        if isinstance(node, yaml.SequenceNode):
            is_refused = self._refuses_tag(node, "seq", where, position)
            inside = [self.tree(child, position.inside(node, number)) for number, child in enumerate(node.value)]
            return Tree(tuple(inside), where, is_refused)
        return self._scalar(node, where, position)

    def _members(self, node: yaml.MappingNode, position: _Position) -> Iterator[tuple[str, Tree]]:
        first: dict[str, int] = {}
        for key, child in node.value:
            line = key.start_mark.line
            if not isinstance(key, yaml.ScalarNode):
                self._refuse(
                    self.where(line), position, "a mapping or list as a key; keys are strings", "write a string"
                )
                continue
            inside = position.inside(node, key.value)
            if key.value in first:
                earlier = self.where(first[key.value])
                problem = f"written twice, {_quoted(child)} here and first at {earlier}; the second would hide it"
                self._refuse(self.where(line), inside, problem, "remove one")
                continue
            first[key.value] = line
            yield key.value, self.tree(child, inside, line)

    def _scalar(self, node: yaml.Node, where: str, position: _Position) -> Tree:
        is_plain = isinstance(node, yaml.ScalarNode) and node.style is None and not _is_tagged(node)
        if not is_plain or node.tag != f"{_CORE}str":
            return Tree(node.value, where, self._refuses_tag(node, "str", where, position))
        try:
            return Tree(read_scalar(node.value), where)
        except ValueError as error:
            hint = f"write at most {MOST_DIGITS} digits, or quotes around a string"
            return self._refuse(where, position, f"{error}; no field takes it", hint)

    def _refuses_tag(self, node: yaml.Node, kind: str, where: str, position: _Position) -> bool:
        if node.tag in (f"{_CORE}{kind}", "!", "", None):
            return False
        tag = node.tag.replace(_CORE, "!!")
        problem = f"tag {tag!r}; a spec is plain data and constructs nothing"
        self._refuse(where, position, problem, "remove the tag")
        return True

    def _refuse(self, where: str, position: _Position, problem: str, hint: str) -> Tree:
        self.faults.append(Fault(at_field(where, position.path), problem, hint))
        return Tree(None, where, is_refused=True)


def _quoted(node: yaml.Node) -> str:
    if isinstance(node, yaml.ScalarNode):
        return shortened(repr(node.value) if node.style is not None or is_word(node.value) else node.value or "null")
    return "a mapping" if isinstance(node, yaml.MappingNode) else "a list"


def _is_tagged(node: yaml.Node) -> bool:
    """Whether the text itself has a tag: `!!str 5` and `5` differ in nothing else once they are nodes."""
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


def flow(value: Any) -> str:
    """A value as YAML on one line, to be shown in a hint."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name}: {flow(child)}' for name, child in value.items())}}}"
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(flow, value))}]"
    if isinstance(value, str):
        is_plain = is_word(value) and re.fullmatch(r"[\w./][\w./ -]*", value) is not None
        return value if is_plain else f'"{value}"'
    return shown(value)


def shortened(text: str, most: int = 60) -> str:
    """The text, cut to `most` characters."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def refused_paths(tree: Tree, path: Path = ()) -> Iterator[Path]:
    """Where in the tree something was refused, whose value says nothing."""
    if tree.is_refused:
        yield path
    inside = tree.value
    members = inside.items() if isinstance(inside, dict) else enumerate(inside if isinstance(inside, tuple) else ())
    for name, child in members:
        yield from refused_paths(child, (*path, name))


def walk(tree: Tree, path: Path) -> Tree | None:
    """The tree at a path, or None where there is none."""
    for part in path:
        inside = tree.value
        members = range(len(inside)) if isinstance(inside, tuple) else inside
        if not isinstance(members, range | dict) or part not in members:
            return None
        tree = inside[part]
    return tree
