"""A broken rule: fields of a job that do not go together.

The shared rules are in `rules`; those of a method are beside its options.
"""

from collections.abc import Collection
from dataclasses import dataclass

from gmml_cluster.spec.loading.yaml import Path

PATCH = ("model", "patch_size")
IMAGE = ("data", "image_size")
GROUP = ("data", "group")
METHOD = ("method", "name")


@dataclass(frozen=True)
class Broken:
    """A rule that a job breaks.

    Attributes:
        field: the field to change.
        problem: the value and the rule that it breaks.
        hint: what to write instead.
        uses: all fields that the rule reads.
    """

    field: Path
    problem: str
    hint: str
    uses: frozenset[Path]

    def touches(self, paths: Collection[Path]) -> bool:
        """Whether the rule reads one of these fields, or something inside one."""
        return any(used[: len(path)] == path for used in self.uses for path in paths)


def broken(field: Path, problem: str, hint: str, *others: Path) -> Broken:
    """A broken rule that reads `field` and `others`."""
    return Broken(field, problem, hint, frozenset([field, *others]))
