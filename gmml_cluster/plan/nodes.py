"""Nodes and ranks of a run on a cluster: no more ranks than there are lanes."""

from dataclasses import dataclass

from gmml_cluster.errors import Fault, SpecError
from gmml_cluster.plan.machine import Machine, ranks_per_node
from gmml_cluster.plan.sample_layout import SampleLayout
from gmml_cluster.spec.cluster import ClusterProfile
from gmml_cluster.spec.job import JobSpec
from gmml_cluster.spec.rules import group_of
from gmml_cluster.spec.scalars import NodeRange
from gmml_cluster.wording import counted


@dataclass(frozen=True)
class NodePlan:
    """Where the ranks are.

    Attributes:
        nodes: fewest and most nodes, after cuts.
        ranks_per_node: ranks of each, after cuts.
        notes: what was cut, a sentence each.
    """

    nodes: tuple[int, int]
    ranks_per_node: int
    notes: tuple[str, ...]

    @property
    def ranks(self) -> tuple[int, int]:
        """Fewest and most ranks."""
        return self.nodes[0] * self.ranks_per_node, self.nodes[1] * self.ranks_per_node


def nodes_within_lanes(
    job: JobSpec, profile: ClusterProfile, machine: Machine | None, layout: SampleLayout | None
) -> NodePlan:
    """Nodes and ranks of a node, cut to the lanes.

    Raises:
        SpecError: the fewest nodes have more ranks than there are lanes, or the local launcher is to use several.
    """
    nodes, per_node = job.resources.nodes, ranks_per_node(profile, machine)
    notes: list[str] = []
    lanes, there_are = _most_ranks(job, layout)
    if profile.launcher == "local":
        nodes = _this_node(nodes, notes)
    if profile.launcher == "local" and per_node > lanes:
        notes.append(f"{per_node} ranks cut to {lanes}: a rank needs a lane, and {there_are}")
        per_node = lanes
    if nodes.least * per_node > lanes:
        raise SpecError(_too_many_ranks(nodes.least, per_node, lanes, there_are))
    most = min(nodes.most, lanes // per_node)
    if most < nodes.most:
        notes.append(f"{nodes.most} nodes cut to {most}: a rank needs a lane, and {there_are}")
    return NodePlan((nodes.least, most), per_node, tuple(notes))


def _too_many_ranks(nodes: int, per_node: int, lanes: int, there_are: str) -> Fault:
    have = f"{nodes} {'node has' if nodes == 1 else 'nodes have'} {nodes * per_node} ranks"
    hint = f"write {lanes // per_node} at most" if lanes >= per_node else f"use at most {counted(lanes, 'rank')} a node"
    problem = f"{have}, {per_node} each, but {there_are}; a rank needs a lane"
    return Fault("resources.nodes", problem, f"{hint}, or raise batch.size or data.lanes")


def _this_node(nodes: NodeRange, notes: list[str]) -> NodeRange:
    if nodes.least > 1:
        problem = f"{nodes.written} does not fit; the local launcher has this machine alone"
        raise SpecError(Fault("resources.nodes", problem, f"write 1, or 1..{nodes.most}, or choose another --cluster"))
    if nodes.most > 1:
        notes.append(f"{nodes.most} nodes cut to 1: the local launcher has this machine alone")
    return NodeRange(least=1, most=1)


def _most_ranks(job: JobSpec, layout: SampleLayout | None) -> tuple[int, str]:
    """Ranks at most, and in words what there are so many of."""
    lanes = layout.lanes if layout is not None else job.data.lanes
    most = job.batch.size // group_of(job) if lanes == "auto" else lanes
    what = f"{counted(most, 'group')} a step" if lanes == "auto" else counted(most, "lane")
    return most, f"there {'is' if most == 1 else 'are'} {what}"
