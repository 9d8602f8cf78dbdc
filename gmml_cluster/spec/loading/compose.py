"""From files and overrides to one tree: `extends` is followed, overrides are laid on top."""

import os
from collections.abc import Sequence
from pathlib import Path

from gmml_cluster.errors import Fault, SpecError
from gmml_cluster.spec.loading.yaml import Tree, at_field, dotted, read_value, read_yaml, shortened, shown, walk

EXTENDS = "extends"
OVERRIDE = "override "
"""How the place of an overridden value begins."""
MOST_FILES = 32
"""Files of a chain of `extends`: more is a mistake of whatever wrote them, and would exhaust the stack."""


def compose(path: Path, overrides: Sequence[str], faults: list[Fault]) -> Tree:
    """What a file says with all that it extends, overrides on top.

    If a base cannot be read, `extends` stays in the tree: what the base would have said is then not known.

    Args:
        path: the file.
        overrides: `a.b=value` each; the value is YAML, later ones win.
        faults: collects what is wrong but leaves a tree.

    Raises:
        SpecError: the file is missing or no YAML.
    """
    tree = _read_file(path, (), faults)
    for text in overrides:
        tree = _override(tree, text, faults)
    return tree


def merge(base: Tree, over: Tree) -> Tree:
    """`over` laid on `base`: mappings are merged name by name, all else is replaced.

    So is a `method` of another name: options of one method mean nothing to another.
    """
    if not (isinstance(base.value, dict) and isinstance(over.value, dict)):
        return over
    merged = dict(base.value)
    for name, child in over.value.items():
        is_whole = name not in merged or (name == "method" and _is_another(merged[name], child))
        merged[name] = child if is_whole else merge(merged[name], child)
    return Tree(merged, over.where)


def _is_another(base: Tree, over: Tree) -> bool:
    names = [walk(tree, ("name",)) for tree in (base, over)]
    return None not in names and len({name.value for name in names if name}) == 2


def _read_file(path: Path, above: tuple[Path, ...], faults: list[Fault]) -> Tree:
    tree = read_yaml(_text(path), str(path), faults)
    if EXTENDS not in tree.value:
        return tree
    try:
        below = _base(tree.value[EXTENDS], path, (*above, path.resolve()), faults)
    except SpecError as error:
        faults.extend(error.faults)
        return tree
    return merge(below, Tree({name: child for name, child in tree.value.items() if name != EXTENDS}, tree.where))


def _base(named: Tree, path: Path, above: tuple[Path, ...], faults: list[Fault]) -> Tree:
    """The tree of the file that `path` extends."""
    where = at_field(named.where, (EXTENDS,))
    if not isinstance(named.value, str):
        problem = f"{shown(named.plain())} is no path"
        raise SpecError(Fault(where, problem, "write one, relative to this file, or leave `extends` out"))
    other = path.parent / named.value
    # os.path.isfile and not Path.is_file, which raises for a NUL or a name that is too long.
    if not os.path.isfile(other):
        raise SpecError(
            Fault(where, f"no file {shortened(str(other), 200)!r}", "write a path that counts from this file")
        )
    if other.resolve() in above:
        chain = " -> ".join(each.name for each in (*above, other))
        raise SpecError(Fault(where, f"{chain} is a loop; no file can extend itself", "remove one `extends` of it"))
    if len(above) >= MOST_FILES:
        raise SpecError(Fault(where, f"more than {MOST_FILES} files extend each other", "merge some of them"))
    return _read_file(other, above, faults)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise SpecError(Fault(str(path), f"cannot be read ({error.strerror})", "name a YAML file")) from error
    except UnicodeDecodeError as error:
        raise SpecError(Fault(str(path), "not UTF-8 text; a spec is YAML", "name another file")) from error
    except ValueError as error:
        raise SpecError(Fault(repr(str(path)), f"is no path ({error})", "name a YAML file")) from error


def _override(tree: Tree, text: str, faults: list[Fault]) -> Tree:
    name, equals, value = text.partition("=")
    where = f"{OVERRIDE}{shortened(text)}"
    path = tuple(name.split("."))
    try:
        if not equals or not all(path):
            raise SpecError(Fault(where, f"{text!r} is no override", "write name=value, such as batch.size=256"))
        if path == (EXTENDS,):
            raise SpecError(Fault(where, "files alone extend files", "write `extends` into the job file"))
        return _laid(tree, path, read_value(value, where, faults, path), ())
    except SpecError as error:
        faults.extend(error.faults)
        return tree


def _laid(tree: Tree, path: Sequence[str], value: Tree, above: tuple[str, ...]) -> Tree:
    """The tree with `value` at a path below `above`; mappings on the way are made, items of lists must exist."""
    if not path:
        return value
    name = path[0]
    if isinstance(tree.value, dict) or tree.value is None:
        inside = dict(tree.value or {})
        inside[name] = _laid(inside.get(name, Tree(None, value.where)), path[1:], value, (*above, name))
        return Tree(inside, tree.where)
    where, here = at_field(value.where, (*above, *path)), dotted(above)
    if not isinstance(tree.value, tuple):
        problem = f"{here} is {shortened(shown(tree.value))} (at {tree.where}), no mapping; nothing is inside it"
        raise SpecError(Fault(where, problem, f"give {here} a whole mapping"))
    if not (name.isdecimal() and int(name) < len(tree.value)):
        problem = f"{here} has no item {name!r}; it has {len(tree.value)}, counted from 0"
        raise SpecError(Fault(where, problem, "choose one, or write the whole list"))
    items = list(tree.value)
    items[int(name)] = _laid(items[int(name)], path[1:], value, (*above, name))
    return Tree(tuple(items), tree.where)
