"""Semantic segmentation without torch: its options. The method itself: `gmml_cluster.methods.segmentation`.

Constants and sources: docs/reference/methods.md.
"""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from gmml_cluster.spec.broken import METHOD, Broken, broken
from gmml_cluster.spec.methods.classifier import ClassifierOptions
from gmml_cluster.spec.methods.counts import Counts, Encoder

IGNORED = 255
"""What a pixel without a class has in a batch, whatever value its mask has."""
_VALUES = 256


def mask_table(classes: int, *, ignore: int | None, zero_ignored: bool) -> tuple[int, ...]:
    """The class of each value of a mask, `IGNORED` for pixels that do not count, -1 for values that none may have."""
    first = int(zero_ignored)
    table = [value - first if 0 <= value - first < classes else -1 for value in range(_VALUES)]
    if zero_ignored:
        table[0] = IGNORED
    if ignore is not None:
        table[ignore] = IGNORED
    return tuple(table)


class SegmentationOptions(ClassifierOptions):
    """A linear map of each patch token to classes, upsampled to pixels (the linear head of arXiv 2111.07832)."""

    labels: ClassVar[bool] = False
    """Masks are read instead."""
    advised_group: ClassVar[int] = 16
    """The group where `data.group` is `auto`: the batch of the source."""
    needs_init: ClassVar[bool] = True
    """Whether a job without `init` is refused."""
    recipe: ClassVar[dict[str, Any]] = {
        "data.augment": {"crop": {"scale": [0.25, 1.0]}, "flip": True},
        "optim.lr": 8e-4,
        "optim.lr_per": None,
        "optim.weight_decay": {"start": 0.05, "end": 0.05},
        "optim.exempt": "vectors_and_positions",
        "optim.clip": None,
        "optim.schedule.law": "fractional",
        "optim.schedule.warmup": "1500 steps",
        "optim.schedule.final_lr": 0.0,
    }
    """What is advised where the fields' defaults are GMML's; a job file that leaves them out has these."""
    name: Literal["segmentation"]
    """Selects the method."""
    classes: int = Field(gt=1, lt=IGNORED, examples=[150])
    """Number of classes; the values of the masks are 0 to one below it, from 1 with `zero_ignored`."""
    ignore: int | None = Field(255, ge=0, lt=_VALUES)
    """Value of pixels that do not count; null for none."""
    zero_ignored: bool = False
    """Whether 0 means that a pixel does not count and classes begin at 1, as in ADE20K."""
    frozen: bool = True
    """Whether the encoder stays as it was; the head then reads tokens that are normed over the patches of a group."""
    blocks: Annotated[tuple[int, ...], Field(min_length=1)] | None = Field(None, examples=[[4, 6, 8, 12]])
    """Blocks, counted from 1, whose patch tokens the head reads joined, each normed; null: the last alone."""
    layer_decay: float = Field(0.65, gt=0, le=1)
    """Where the encoder is trained: factor of the learning rate from each block to the one before it."""

    @property
    def trains_encoder(self) -> bool:
        """Whether scores of the encoder can change."""
        return not self.frozen

    @property
    def mask_table(self) -> tuple[int, ...]:
        """The class of each value of a mask; that batches carry masks follows from it."""
        return mask_table(self.classes, ignore=self.ignore, zero_ignored=self.zero_ignored)

    def counts(self, encoder: Encoder, image_size: int) -> Counts:
        """What an image costs.

        Dims: D width, N patches of G a row, K classes, S side of a view.
        """
        D, K, G, S = encoder.width, self.classes, image_size // encoder.patch_size, image_size
        N, pixels, read = G * G, 3 * encoder.patch_size**2, D * len(self.blocks or (0,))
        norms, head = len(self.blocks or (0,)), (read + 1) * K
        encoder_values = self.encoder_kind.parameters(encoder, N)
        stack, projection = self.encoder_kind.stack(encoder, N), 2 * N * pixels * D
        head_flops = 2 * N * read * K + 2 * K * S * G * (G + S)
        pixel_bytes = (4 * K + 9) * S * S  # log-probabilities in fp32, classes in 8 bytes, whether it counts
        return Counts(
            views=1,
            trained=head + (0 if self.frozen else encoder_values),
            frozen=encoder_values if self.frozen else 0,
            stacks=() if self.frozen else (stack,),
            other_flops=head_flops + (0 if self.frozen else projection),
            other_values=0 if self.frozen else N * read + stack.tokens * D,
            other_bytes=pixel_bytes + (4 * N * read if self.frozen else 8 * norms * stack.tokens),
            input_values=pixels * N,
            teacher_flops=stack.flops + projection if self.frozen else 0,
        )

    def broken_rules(self, encoder: Encoder, image_size: int, group: int) -> Iterator[Broken]:
        """A value of a mask means one thing."""
        yield from super().broken_rules(encoder, image_size, group)
        yield from _blocks_end_with_the_last(self.blocks, encoder.depth)
        first = int(self.zero_ignored)
        if self.ignore is not None and first <= self.ignore < self.classes + first:
            problem = f"{self.ignore} is the value of class {self.ignore - first} too"
            yield broken(("method", "ignore"), problem, "write 255, null, or fewer classes", METHOD)


def _blocks_end_with_the_last(blocks: tuple[int, ...] | None, depth: int) -> Iterator[Broken]:
    if blocks is not None and (sorted(set(blocks)) != list(blocks) or blocks[0] < 1 or blocks[-1] != depth):
        rule = f"blocks rise, from 1 at least, to the last, which is {depth}"
        hint = f"write {sorted({max(1, depth * third // 6) for third in (2, 3, 4, 6)})}, or leave it out"
        yield broken(("method", "blocks"), f"{list(blocks)} does not fit; {rule}", hint, METHOD, ("model", "depth"))
