"""Attentive probe without torch: its options. The method itself: `gmml_cluster.methods.attentive`."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from gmml_cluster.spec.broken import METHOD, Broken, broken
from gmml_cluster.spec.methods.counts import Counts, Encoder
from gmml_cluster.spec.methods.probe import ProbeOptions

QUERIES = ("method", "queries")


class AttentiveOptions(ProbeOptions):
    """Learned queries over the patch tokens of a frozen encoder: efficient probing (arXiv 2506.10178)."""

    name: Literal["attentive"]
    """Selects the method."""
    queries: int = Field(32, gt=0, le=10**4)
    """Learned queries; each pools its own share of the values, so they divide the width."""

    def counts(self, encoder: Encoder, image_size: int) -> Counts:
        """What an image costs.

        Dims: D width, N patches, M queries, K classes.
        """
        D, N, M, K = encoder.width, (image_size // encoder.patch_size) ** 2, self.queries, self.classes
        flops = 2 * N * D**2 + 2 * M * N * D + 2 * N * D + 2 * D * K
        values = M * D + D**2 + (D + 1) * K
        return self.counts_of_head(encoder, image_size, values=values, flops=flops, kept=2 * N * D + 2 * M * N + D + K)

    def broken_rules(self, encoder: Encoder, image_size: int, group: int) -> Iterator[Broken]:
        """Queries share the width out evenly."""
        yield from super().broken_rules(encoder, image_size, group)
        if encoder.width % self.queries:
            problem = f"{self.queries} queries do not divide the width of {encoder.width}"
            yield broken(QUERIES, problem, "write a divisor", METHOD, ("model", "width"))
