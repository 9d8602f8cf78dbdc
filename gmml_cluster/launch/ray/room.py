"""How many ranks the nodes of a Ray cluster can hold. Without Ray: whoever looks at a cluster says what it has."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from gmml_cluster.wording import counted

Free = dict[str, dict[str, float]]
"""Resources by name, of each node by its id."""


def ranks_on(offered: Mapping[str, float], needed: Mapping[str, float]) -> int:
    """How many ranks of these needs a node with these resources can hold."""
    return int(min(offered.get(name, 0.0) // need for name, need in needed.items() if need))


def ranks_held(by_node: Sequence[int], placement: str) -> int:
    """How many ranks nodes hold together that hold so many each.

    Args:
        by_node: ranks that each can hold.
        placement: Ray's strategy; a strict one takes one node alone, or one rank of each.
    """
    if placement == "STRICT_PACK":
        return max(by_node, default=0)
    if placement == "STRICT_SPREAD":
        return sum(ranks > 0 for ranks in by_node)
    return sum(by_node)


def has_labels(node: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a node, as `ray.nodes()` has it, lives and has these labels."""
    return bool(node["Alive"]) and labels.items() <= node.get("Labels", {}).items()


def usable(
    nodes: Iterable[Mapping[str, Any]],
    available: Mapping[str, Mapping[str, float]],
    draining: Collection[str],
    labels: Mapping[str, str],
) -> Free:
    """What is free on the nodes that ranks may be placed on: those with the labels that Ray does not take away."""
    wanted = {node["NodeID"] for node in nodes if has_labels(node, labels)} - set(draining)
    return {node: dict(free) for node, free in available.items() if node in wanted}


NODE_ID = "ray.io/node-id"
"""A label that Ray gives each node."""


def without_nodes(labels: Mapping[str, str], nodes: Collection[str]) -> dict[str, str]:
    """A selector of nodes with these labels and none of these ids; labels that name nodes by themselves stand."""
    avoided = {NODE_ID: f"!in({', '.join(nodes)})"} if nodes else {}
    return {**avoided, **labels}


def is_selected(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    """Whether a node with these labels is one of those that a selector of `without_nodes` names."""
    for name, wanted in selector.items():
        if wanted.startswith("!in("):
            if labels.get(name) in wanted.removeprefix("!in(").removesuffix(")").split(", "):
                return False
        elif labels.get(name) != wanted:
            return False
    return True


def asked_for(ranks: int, each: Mapping[str, float], labels: Mapping[str, str]) -> str:
    """Ranks, what each needs and where, in words."""
    needs = ", ".join(f"{need:g} {name}" for name, need in each.items())
    return f"{counted(ranks, 'rank')} of {needs}" + (f" on nodes labelled {dict(labels)}" if labels else "")


def without_ranks(free: Free, places: Iterable[str], needed: Mapping[str, float]) -> Free:
    """What would be free if the ranks on these nodes were not there; a node that is not usable stays out."""
    found = {node: dict(each) for node, each in free.items()}
    for node in places:
        if node in found:
            for name, need in needed.items():
                found[node][name] = found[node].get(name, 0.0) + need
    return found
