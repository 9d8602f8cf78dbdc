"""Linear probe as a run, without torch: its options. The method itself: `gmml_cluster.methods.linear`."""

from collections.abc import Iterator
from typing import ClassVar, Literal

from gmml_cluster.spec.broken import GROUP, METHOD, Broken, broken
from gmml_cluster.spec.methods.counts import Counts, Encoder
from gmml_cluster.spec.methods.probe import ProbeOptions


class LinearOptions(ProbeOptions):
    """A linear map on a batch-normed feature of a frozen encoder (arXiv 2111.06377)."""

    advised_group: ClassVar[int] = 512
    """The group where `data.group` is `auto`: as many images as one device of the released recipe norms together."""
    name: Literal["linear"]
    """Selects the method."""
    feature: Literal["class", "mean"] = "class"
    """What is classified: the class token, or the mean of the patch tokens, both behind the final norm."""

    def counts(self, encoder: Encoder, image_size: int) -> Counts:
        """What an image costs."""
        D, K = encoder.width, self.classes
        return self.counts_of_head(encoder, image_size, values=(D + 1) * K, flops=2 * D * K, kept=D + 2 * K)

    def broken_rules(self, encoder: Encoder, image_size: int, group: int) -> Iterator[Broken]:
        """A group of one image has no variance; and the token that is read exists."""
        yield from super().broken_rules(encoder, image_size, group)
        if group < 2:
            problem = f"{group} is too few; features are normed over the images of a group"
            yield broken(GROUP, problem, "write at least 128; 512 is advised", METHOD)

    @property
    def reads_class_token(self) -> bool:
        """Whether the head reads the class token."""
        return self.feature == "class"
