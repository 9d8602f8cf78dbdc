"""From files and overrides to one tree: `extends` is followed, overrides are laid on top."""

from collections.abc import Sequence
from pathlib import Path

from gmml_cluster.errors import Fault, SpecError
from gmml_cluster.spec.loading.yaml import Tree, read_value, read_yaml, shown, walk

EXTENDS = "extends"


def compose(path: Path, overrides: Sequence[str], faults: list[Fault]) -> Tree:
    """What a file says with all that it extends, overrides on top.

    Where a base cannot be read, `extends` stays in the tree: what the base would have said is then not known.

    Args:
        path: the file.
        overrides: `a.b=value` each; the value is YAML, later ones win.
        faults: takes what is wrong but leaves a tree.

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
    base = tree.value.get(EXTENDS)
    if base is None:
        return tree
    try:
        below = _base(base, path, (*above, path.resolve()), faults)
    except SpecError as error:
        faults.extend(error.faults)
        return tree
    return merge(below, Tree({name: child for name, child in tree.value.items() if name != EXTENDS}, tree.where))


def _base(named: Tree, path: Path, above: tuple[Path, ...], faults: list[Fault]) -> Tree:
    """What the file that another extends says."""
    if not isinstance(named.value, str):
        raise SpecError(
            Fault(named.where, f"extends: {shown(named.plain())} is no path; write one, relative to this file")
        )
    other = path.parent / named.value
    if other.resolve() in above:
        chain = " -> ".join(each.name for each in (*above, other))
        raise SpecError(Fault(named.where, f"extends: {chain} is a loop; no file can extend itself; cut it somewhere"))
    if not other.is_file():
        raise SpecError(Fault(named.where, f"extends: no file {other}; the path counts from this file; mend it"))
    return _read_file(other, above, faults)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise SpecError(Fault(str(path), f"cannot be read ({error.strerror}); name a YAML file")) from error
    except UnicodeDecodeError as error:
        raise SpecError(Fault(str(path), "not UTF-8 text; a spec is YAML; name another file")) from error


def _override(tree: Tree, text: str, faults: list[Fault]) -> Tree:
    name, equals, value = text.partition("=")
    where = f"override {text}"
    if not equals or not all(name.split(".")):
        faults.append(Fault(where, f"{text!r} is no override; write name=value, such as batch.size=256"))
        return tree
    path = tuple(name.split("."))
    try:
        return _laid(tree, path, read_value(value, where, faults, path), ())
    except SpecError as error:
        faults.extend(error.faults)
        return tree


def _laid(tree: Tree, path: Sequence[str], value: Tree, above: tuple[str, ...]) -> Tree:
    if not path:
        return value
    name, here = path[0], ".".join(above)
    if isinstance(tree.value, dict) or tree.value is None:
        inside = dict(tree.value or {})
        inside[name] = _laid(inside.get(name, Tree(None, value.where)), path[1:], value, (*above, name))
        return Tree(inside, tree.where)
    if not isinstance(tree.value, tuple):
        told = f"{here} is {shown(tree.value)} (at {tree.where}), no mapping; nothing is inside it"
        raise SpecError(Fault(value.where, f"{told}; give {here} a whole mapping"))
    if not (name.isdecimal() and int(name) < len(tree.value)):
        told = f"{here} has no item {name!r}; it has {len(tree.value)}, counted from 0; choose one or write the list"
        raise SpecError(Fault(value.where, told))
    items = list(tree.value)
    items[int(name)] = _laid(items[int(name)], path[1:], value, (*above, name))
    return Tree(tuple(items), tree.where)
