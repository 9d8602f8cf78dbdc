"""What `gmml corpus` prints."""

from gmml_cluster.outputs.base import FirstVersion


class PackedOutput(FirstVersion):
    """A corpus that was packed; also `packed.json` beside its shards."""

    url: str
    """Its shards, as a job names them."""
    shards: list[str]
    """Their names."""
    samples: int
    """Images in them."""
    classes: dict[str, int]
    """Class -> its samples; -1 counts those without one."""
    class_names: list[str]
    """Names of the classes, where the source named them."""
    masks: int
    """Samples with a mask."""
    mask_values: list[int]
    """Values that the masks have."""
    notes: list[str]
    """What of the source was passed over."""
    left_out: list[str]
    """Images that cannot be decoded, with the reason."""
    damaged: list[str]
    """Images that were packed and whose JPEG data is damaged."""
    mean: list[float]
    """Mean by channel, RGB in 0 to 1; every image counts alike."""
    std: list[float]
    """Standard deviation by channel."""


class IndexedOutput(FirstVersion):
    """A corpus whose shards were indexed; faults of single shards follow, each as the document of an error."""

    url: str
    """As it was named."""
    shards: int
    """How many there are."""
    indexed: int
    """How many of them were read and indexed now."""
    samples: int
    """Samples of those that have an index."""
    labelled: int
    """How many of them have a class."""
    least_label: int | None
    """Least class, or null."""
    greatest_label: int | None
    """Greatest class, or null."""
    masks: int
    """How many have a mask."""
    notes: list[str]
    """What makes no sample, a line a kind."""
