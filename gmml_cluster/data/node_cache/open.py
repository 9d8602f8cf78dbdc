"""The node's cache as the profile asks for it."""

import logging
import os
from pathlib import Path

from gmml_cluster.data.corpus.pin import Pin
from gmml_cluster.data.node_cache.cache import NodeCache
from gmml_cluster.data.node_cache.plan import NodeUsePlan
from gmml_cluster.data.reader.order import Order
from gmml_cluster.errors import Fault, SpecError
from gmml_cluster.plan.sample_layout import SampleLayout, rank_lanes
from gmml_cluster.spec.cluster import NODE_CACHE_VARIABLE, NodeCacheSection
from gmml_cluster.spec.scalars import VARIABLE
from gmml_cluster.wording import counted

_log = logging.getLogger(__name__)


def open_node_cache(order: Order, pin: Pin, *, ranks: int, node_ranks: range) -> NodeCache | None:
    """The cache that the launcher's variable names; None where the profile asks for none.

    Raises:
        SpecError: the folder names a variable that this node does not have.
    """
    given = os.environ.get(NODE_CACHE_VARIABLE)
    if given is None:
        return None
    section = NodeCacheSection.model_validate_json(given)
    folder = os.path.expanduser(os.path.expandvars(section.folder))
    if missing := VARIABLE.search(folder):
        problem = f"{section.folder}: {missing[0]} is not set on this node"
        raise SpecError(Fault("node_cache.folder", problem, "name a folder, or a variable that all nodes have"))
    open_bytes = _open_bytes(pin, order.layout, ranks, node_ranks)
    if open_bytes > section.limit:
        _log.warning(
            "node_cache.limit is %s, less than the %s that the windows of this node's %s hold: it will seldom help",
            f"{section.limit / 2**30:.3g} GiB",
            f"{open_bytes / 2**30:.3g} GiB",
            counted(len(node_ranks), "rank"),
        )
    return NodeCache(Path(folder), section.limit, NodeUsePlan(order, pin, ranks, node_ranks))


def _open_bytes(pin: Pin, layout: SampleLayout, ranks: int, node_ranks: range) -> int:
    """What all open windows of the node's lanes hold at about the longest sample mean."""
    corpora = [corpus.shards for corpus in pin.corpora]
    mean = max(int(shards.sizes.sum()) / int(shards.samples.sum()) for shards in corpora)
    lanes = sum(len(rank_lanes(layout.lanes, ranks, rank)) for rank in node_ranks)
    return min(int(lanes * layout.window * mean), sum(int(shards.sizes.sum()) for shards in corpora))
