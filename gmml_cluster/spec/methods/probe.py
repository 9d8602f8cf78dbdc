"""What methods on a frozen encoder have in common, without torch."""

from collections.abc import Iterator
from typing import Any, ClassVar

from gmml_cluster.spec.broken import GROUP, METHOD, Broken, broken
from gmml_cluster.spec.methods.classifier import ClassifierOptions
from gmml_cluster.spec.methods.counts import Counts, Encoder

RECIPE: dict[str, Any] = {
    "data.augment": {"crop": {"scale": [0.08, 1.0]}, "flip": True},
    "optim.lr": 1e-3,
    "optim.weight_decay": {"start": 0.0, "end": 0.0},
    "optim.clip": None,
}


class ProbeOptions(ClassifierOptions):
    """A head that is trained on the encoder of another run, which stays as it was."""

    advised_group: ClassVar[int] = 512
    """The group where `data.group` is `auto`: as many images as one device of MAE's released probe norms together."""
    needs_init: ClassVar[bool] = True
    """Whether a job without `init` is refused."""
    trains_encoder: ClassVar[bool] = False
    """Whether scores of the encoder can change."""
    recipe: ClassVar[dict[str, Any]] = RECIPE
    """What is advised where the fields' defaults are GMML's; a job file that leaves them out has these."""

    def broken_rules(self, encoder: Encoder, image_size: int, group: int) -> Iterator[Broken]:
        """A group of one image has no variance; and the token that is read exists."""
        yield from super().broken_rules(encoder, image_size, group)
        if group < 2:
            problem = f"{group} is too few; features are normed over the images of a group"
            yield broken(GROUP, problem, "write at least 128; 512 is advised", METHOD)

    def counts_of_head(self, encoder: Encoder, image_size: int, *, values: int, flops: int, kept: int) -> Counts:
        """What an image costs: a forward pass of the encoder that keeps nothing, and the head.

        Args:
            encoder: the frozen encoder.
            image_size: side of a view in pixels.
            values: parameters of the head.
            flops: FLOP of its forward pass.
            kept: values that it keeps for its backward pass.
        """
        pixels, N = 3 * encoder.patch_size**2, (image_size // encoder.patch_size) ** 2
        forward = self.encoder_kind.stack(encoder, N).flops + 2 * N * pixels * encoder.width
        return Counts(
            views=1,
            trained=values,
            frozen=self.encoder_kind.parameters(encoder, N),
            stacks=(),
            other_flops=flops,
            other_values=kept,
            other_bytes=0,
            input_values=pixels * N,
            teacher_flops=forward,
        )
