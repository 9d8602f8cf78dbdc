"""Linear probe as a run, without torch: its options. The method itself: `gmml_cluster.methods.linear`."""

from typing import Literal

from gmml_cluster.spec.methods.counts import Counts, Encoder
from gmml_cluster.spec.methods.probe import ProbeOptions


class LinearOptions(ProbeOptions):
    """A linear map on a batch-normed feature of a frozen encoder (arXiv 2111.06377)."""

    name: Literal["linear"]
    """Selects the method."""
    feature: Literal["class", "mean"] = "class"
    """What is classified: the class token, or the mean of the patch tokens, both behind the final norm."""

    def counts(self, encoder: Encoder, image_size: int) -> Counts:
        """What an image costs."""
        D, K = encoder.width, self.classes
        return self.counts_of_head(encoder, image_size, values=(D + 1) * K, flops=2 * D * K, kept=D + 2 * K)

    @property
    def reads_class_token(self) -> bool:
        """Whether the head reads the class token."""
        return self.feature == "class"
