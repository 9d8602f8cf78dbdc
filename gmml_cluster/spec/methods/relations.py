"""Relations of patches without torch: which tasks are asked, their parameters and cost.

The tasks themselves: `gmml_cluster.methods.relations`.

Constants and formulas: docs/reference/methods.md.
"""

from dataclasses import dataclass, replace

from pydantic import Field, model_validator

from gmml_cluster.spec.base import Refused, SpecModel
from gmml_cluster.spec.methods.counts import Counts

TASKS = ("relations", "positions", "distances", "angles")
CLASSES = 9
"""Where one patch lies relative to another: three rows by three columns."""


class RelationTasks(SpecModel):
    """What is asked of pairs of patches and of single patches; each task that is on adds its loss with weight 1."""

    relations: bool = True
    """Whether the class of the relative position of each pair of patches is predicted."""
    positions: bool = True
    """Whether each patch's place in the image is predicted."""
    distances: bool = False
    """Whether the distance of each pair is predicted."""
    angles: bool = False
    """Whether the angle of each pair, seen from beyond the image's corner, is predicted."""
    relation_width: int | None = Field(None, gt=0, le=10**6)
    """Width of the queries and keys of a class of relations; null takes a ninth of the encoder's, rounded down."""
    add_class_token: bool = False
    """Whether the class token is added to each patch's before the heads."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """Those that are on."""
        return tuple(task for task in TASKS if getattr(self, task))

    @model_validator(mode="after")
    def _asks_something(self) -> "RelationTasks":
        if not self.tasks:
            raise Refused("no task is on", "set relations, positions, distances or angles")
        return self


class Auxiliary(RelationTasks):
    """Relations of patches (RelViT) as a loss beside the method's own, read from its encoder's tokens."""

    weight: float = Field(1.0, gt=0, le=1000)
    """What the sum of the tasks' losses is multiplied by before it is added."""


@dataclass(frozen=True)
class RelationCounts:
    """What the heads cost for one view."""

    parameters: int
    flops: int
    """FLOP of a forward pass of a view."""
    bytes: int
    """Bytes kept for the backward pass: in fp32 whatever the precision, as pairs are scored in it."""


def class_width(options: RelationTasks, width: int) -> int:
    """Width e of the queries and keys of a class: floor(D / 9) as released."""
    return options.relation_width or max(1, width // CLASSES)


def relation_counts(options: RelationTasks, width: int, places: int, held: int) -> RelationCounts:
    """Parameters and cost of the heads; the logits of pairs grow with the square of the patches held.

    Args:
        options: the tasks.
        width: D of the encoder.
        places: N patches of an image.
        held: K patches that the encoder holds.
    """
    heads = [(CLASSES, class_width(options, width))] if options.relations else []
    heads += [(1, width)] * (options.distances + options.angles)
    projected = sum(classes * e for classes, e in heads)
    # of a pair: nine log-probabilities and the class, a 64-bit integer; or the difference to a number
    pairs = 11 * options.relations + options.distances + options.angles
    places = places if options.positions else 0
    return RelationCounts(
        parameters=2 * projected * width + places * (width + 1),
        flops=4 * held * width * projected + 2 * held**2 * projected + 2 * held * width * places,
        bytes=4 * (held * width + 2 * held * projected + held**2 * pairs + held * (places + 2 * options.positions)),
    )


def counts_beside(counts: Counts, options: Auxiliary, width: int, patches: int) -> Counts:
    """What an image costs under a method and the heads beside it; the method's first stack is its encoder."""
    held = min(patches, counts.stacks[0].tokens - 1)
    heads = relation_counts(options, width, patches, held)
    return replace(
        counts,
        later=None if counts.later is None else counts_beside(counts.later, options, width, patches),
        trained=counts.trained + heads.parameters,
        other_flops=counts.other_flops + heads.flops,
        other_bytes=counts.other_bytes + heads.bytes,
    )
