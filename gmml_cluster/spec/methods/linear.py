"""Linear probe as a run, without torch: its options. The method itself: `gmml_cluster.methods.linear`.

Constants and sources: docs/reference/methods.md.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from gmml_cluster.spec.base import Refused
from gmml_cluster.spec.methods.counts import Counts, Encoder
from gmml_cluster.spec.methods.probe import RECIPE, ProbeOptions


def _named_apart(rates: tuple[float, ...]) -> tuple[float, ...]:
    """Metrics name a head by its factor in six digits."""
    if len({f"{rate:g}" for rate in rates}) < len(rates):
        raise Refused(f"{list(rates)} names a factor twice", "leave one out")
    return rates


Factor = Annotated[float, Field(gt=0, le=10**6)]


class LinearOptions(ProbeOptions):
    """A linear map on a batch-normed feature of a frozen encoder (arXiv 2111.06377)."""

    recipe: ClassVar[dict[str, Any]] = {
        **RECIPE,
        "data.augment": {"crop": {"scale": [0.08, 1.0], "clamped": True}, "flip": True},
        "optim.name": "lars",
        "optim.lr": 0.1,
        "optim.schedule.law": "fractional",
        "optim.schedule.warmup": "10 epochs",
        "optim.schedule.final_lr": 0.0,
    }
    """Values of its source where the fields' defaults are GMML's; a job file that leaves them out has these."""
    name: Literal["linear"]
    """Selects the method."""
    feature: Literal["class", "mean"] = "class"
    """What is classified: the class token, or the mean of the patch tokens, both behind the final norm."""
    rates: Annotated[tuple[Factor, ...], Field(min_length=1, max_length=64), AfterValidator(_named_apart)] = (1.0,)
    """Factors of the learning rate that are tried at once, by a head for each; which one is scored is chosen
    on held-out images then."""

    def counts(self, encoder: Encoder, image_size: int) -> Counts:
        """What an image costs.

        Dims: D width, R heads, K classes.
        """
        D, K, R = encoder.width, self.classes, len(self.rates)
        values, flops, kept = R * (D + 1) * K, 2 * D * K * R, D + 2 * K * R
        return self.counts_of_head(encoder, image_size, values=values, flops=flops, kept=kept)

    @property
    def reads_class_token(self) -> bool:
        """Whether the head reads the class token."""
        return self.feature == "class"
