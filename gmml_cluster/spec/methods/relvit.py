"""RelViT without torch: its options, what an image costs, and its rules. The method: `gmml_cluster.methods.relvit`.

Constants and formulas: docs/reference/methods.md.
"""

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from gmml_cluster.spec.broken import IMAGE, METHOD, PATCH, Broken, broken
from gmml_cluster.spec.methods.counts import Counts, Encoder
from gmml_cluster.spec.methods.encoder_kind import EncoderKind
from gmml_cluster.spec.methods.relations import RelationTasks, relation_counts


class RelVitOptions(RelationTasks):
    """Relations of patches (arXiv 2206.00481), as released unless said."""

    bare: ClassVar[tuple[str, ...]] = ("name",)
    advised_group: ClassVar[int] = 8
    """The group where `data.group` is `auto`."""
    advised_drop_path: ClassVar[float] = 0.1
    """The rate where `model.drop_path` is null."""
    recipe: ClassVar[dict[str, Any]] = {
        "data.augment": "relvit",
        "optim.lr_per": None,
        "optim.weight_decay": {"start": 0.1, "end": 0.1},
        "optim.clip": {"norm": 1.0, "by": "global"},
        "optim.schedule.law": "quarter",
    }
    """The released values where the fields' defaults are GMML's; a job file that leaves them out has these."""
    name: Literal["relvit"]
    """Selects the method."""
    position_embeddings: bool = False
    """Whether the encoder has learned position embeddings, from which the places can be read off."""
    permute: bool = False
    """Whether patches are put in random order; without position embeddings it changes nothing."""

    @property
    def takes_mega(self) -> bool:
        """Whether `data.augment.mega` may be given: later uses have whole images, which are larger."""
        return not self.position_embeddings

    @property
    def views(self) -> int:
        """Crops an image."""
        return 1

    @property
    def encoder_kind(self) -> EncoderKind:
        """A plain one, with positions or without."""
        return EncoderKind(positions="learned" if self.position_embeddings else "none")

    def counts(self, encoder: Encoder, image_size: int) -> Counts:
        """What an image costs: an encoder over all tokens, and heads over tokens and pairs.

        Dims: D width, N patches.
        """
        N, pixels, D = (image_size // encoder.patch_size) ** 2, 3 * encoder.patch_size**2, encoder.width
        heads = relation_counts(self, D, N, N)
        return Counts(
            views=1,
            trained=self.encoder_kind.parameters(encoder, N) + heads.parameters,
            frozen=0,
            stacks=(self.encoder_kind.stack(encoder, N),),
            other_flops=2 * N * pixels * D + heads.flops,
            other_values=(1 + N) * D,
            other_bytes=8 * (1 + N) + heads.bytes,
            input_values=pixels * N,
        )

    def broken_rules(self, encoder: Encoder, image_size: int, group: int) -> Iterator[Broken]:
        """Rules that the options break together with the model and the image size."""
        if image_size == encoder.patch_size:
            problem = f"images of {image_size} pixels are one patch of {encoder.patch_size}; a relation takes two"
            yield broken(IMAGE, problem, "take larger images, or smaller patches", METHOD, PATCH)
