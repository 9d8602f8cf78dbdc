"""One submission as its driver has it: what each rank runs, and what Ray sets aside for it."""

from collections.abc import Mapping
from dataclasses import dataclass

from gmml_cluster.launch.ray.room import ranks_held, ranks_on


@dataclass(frozen=True)
class DriverJob:
    """One submission.

    Attributes:
        nodes: fewest and most.
        rank_resources: what Ray sets aside for each rank, by name.
        labels: what a rank's node must have.
    """

    root: str
    run: str
    submit: str
    id: str
    module: str
    nodes: tuple[int, int]
    ranks_per_node: int
    rank_resources: dict[str, float]
    placement: str
    labels: dict[str, str]

    def command(self, restart: int) -> list[str]:
        """What a rank runs, after its Python."""
        named = {"root": self.root, "run": self.run, "submit": self.submit, "job": self.id, "restart": str(restart)}
        return [
            "-P",
            "-u",
            "-m",
            self.module,
            *(word for name, value in named.items() for word in (f"--{name}", value)),
        ]

    def nodes_in(self, free: Mapping[str, Mapping[str, float]]) -> int:
        """As many nodes as fit into what is free, within the bounds; the fewest where less is free.

        Args:
            free: resources by name, of each node.
        """
        least, most = self.nodes
        return max(least, min(most, self._held(free)))

    def fits(self, capacity: Mapping[str, Mapping[str, float]]) -> bool:
        """Whether the fewest nodes fit into what these nodes have."""
        return self._held(capacity) >= self.nodes[0]

    def _held(self, offered: Mapping[str, Mapping[str, float]]) -> int:
        ranks = ranks_held([ranks_on(each, self.rank_resources) for each in offered.values()], self.placement)
        return ranks // self.ranks_per_node
