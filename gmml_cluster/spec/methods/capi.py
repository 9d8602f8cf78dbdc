"""CAPI without torch: its options, what an image costs, and its rules. The method itself: `gmml_cluster.methods.capi`.

Constants and formulas: docs/reference/methods.md.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import Field

from gmml_cluster.spec.base import SpecModel
from gmml_cluster.spec.broken import GROUP, IMAGE, METHOD, PATCH, Broken, broken
from gmml_cluster.spec.methods.counts import Counts, Encoder
from gmml_cluster.spec.methods.encoder_kind import EncoderKind, Rotary
from gmml_cluster.spec.methods.rotary import RotaryStack, rotary_stack

RATIO = ("method", "mask_ratio")
COSINE_SHARE = 0.8
"""Share of their half cosine that the learning rate and the momentum run through by the end of the schedule."""
MOST_CLUSTERS_PER_IMAGE = 4
"""Beyond so many clusters an image of the group, most clusters cannot be anybody's target."""


class CapiOptions(SpecModel):
    """Cluster and predict latent patches (arXiv 2502.08769), clusters balanced within a group of images."""

    bare: ClassVar[tuple[str, ...]] = ("name",)
    advised_group: ClassVar[int] = 256
    """The group where `data.group` is `auto`: as many images as there are clusters, as in the released batch."""
    advised_drop_path: ClassVar[float] = 0.2
    """The rate where `model.drop_path` is null."""
    recipe: ClassVar[dict[str, Any]] = {
        "data.augment": {"crop": {"scale": [0.6, 1.0]}, "flip": True},
        "optim.lr": 1e-3,
        "optim.lr_per": None,
        "optim.betas": [0.9, 0.95],
        "optim.weight_decay": {"start": 0.1, "end": 0.1},
        "optim.exempt": "none",
        "optim.clip": None,
        "optim.schedule.law": "truncated",
        "optim.schedule.warmup": "50000 steps",
        "optim.schedule.final_lr": 0,
    }
    """Its authors' values where the fields' defaults are GMML's; a job file that leaves them out has these."""
    name: Literal["capi"]
    """Selects the method."""
    clusters: int = Field(256, ge=2, le=10**6)
    """Clusters of patch features. Released: 16384, with as many images a batch; here the group balances them, so take
    no more than `data.group`."""
    registers: int = Field(16, gt=0, le=1024, multiple_of=4)
    """Register tokens before the patches."""
    predictor_depth: int = Field(12, gt=0, le=1000)
    """Blocks of the predictor, of the encoder's width and heads."""
    mask_ratio: float = Field(0.65, gt=0, lt=1)
    """Share of cells that the encoder does not see."""
    predict_ratio: float = Field(0.05, gt=0, le=1)
    """Share of the masked cells that are predicted; its author later advised 0.2."""
    rope: Literal["coupled", "halves"] = "coupled"
    """`coupled`: rotary positions as released. `halves`: the row turns one half of a head, the column the other."""
    momentum: float = Field(0.999, ge=0, lt=1)
    """Share that the teacher keeps of itself after the warm-up; it begins at 1 and rises towards 1 again."""
    momentum_warmup: float = Field(0.1, ge=0, le=1)
    """Warm-up of the momentum as a share of the schedule; the released one is as long as the learning rate's."""

    @property
    def views(self) -> int:
        """Crops an image."""
        return 1

    @property
    def encoder_kind(self) -> EncoderKind:
        """That of student and teacher."""
        return EncoderKind(rotary=Rotary(self.registers, halves=self.rope == "halves"))

    def counts(self, encoder: Encoder, image_size: int) -> Counts:
        """What an image costs: a teacher over all cells, a student over the visible, a predictor over its queries.

        Dims: D width, K clusters, N cells.
        """
        cells = cells_of(self, image_size // encoder.patch_size)
        D, K, pixels, N = encoder.width, self.clusters, 3 * encoder.patch_size**2, cells.all
        head = D // encoder.heads
        seen = self.registers + cells.visible
        student, teacher = rotary_stack(encoder, seen), self.encoder_kind.stack(encoder, N)
        predictor = _Predictor(self.predictor_depth, cells.predicted, D, encoder.heads, encoder.mlp_ratio, memory=seen)
        branch = self.encoder_kind.parameters(encoder, N) + predictor.parameters + D
        return Counts(
            views=1,
            trained=branch + 2 * K * (D + 1),
            frozen=branch,
            stacks=(student, predictor),
            other_flops=2 * N * pixels * D + 2 * (N + cells.predicted) * D * K,
            other_values=(N + 3 * seen + 5 * cells.predicted) * D,
            # in fp32 whatever the precision: logits, targets and their logarithms, and tables of positions
            other_bytes=12 * N * K + 8 * cells.predicted * (K + head) + 16 * seen * head,
            input_values=pixels * N,
            teacher_flops=teacher.flops + 2 * N * pixels * D,
        )

    def broken_rules(self, encoder: Encoder, image_size: int, group: int) -> Iterator[Broken]:
        """Rules that the options break together with the model, the image size and the group."""
        if group < 2:
            problem = f"{group} is too few; clusters are balanced over the images of a group, and one has no say"
            yield broken(GROUP, problem, f"write {self.clusters}, as many as there are clusters", METHOD)
        yield from self.encoder_kind.broken_rules(encoder, image_size)
        cells = cells_of(self, image_size // encoder.patch_size)
        if not 0 < cells.visible < cells.all:
            problem = f"a mask_ratio of {self.mask_ratio} leaves {cells.visible} of {cells.all} patches visible"
            blamed = RATIO if "mask_ratio" in self.model_fields_set else IMAGE
            hint = "choose another mask_ratio, or more patches"
            yield broken(blamed, f"{problem}; some are visible and some masked", hint, METHOD, RATIO, IMAGE, PATCH)

    def advice(self, encoder: Encoder, image_size: int, group: int) -> Iterator[str]:
        """What the plan notes of options that work, but not well."""
        if self.clusters > MOST_CLUSTERS_PER_IMAGE * group:
            limit = f"no target can be sharper than 1 in {self.clusters / group:.0f} of them"
            yield f"{self.clusters} clusters over groups of {group} images: {limit}; take no more than {group}"


@dataclass(frozen=True)
class _Predictor(RotaryStack):
    """Such blocks whose tokens attend to a memory."""

    memory: int = 0
    """Tokens of the memory."""

    @property
    def flops(self) -> int:
        """FLOP of a forward pass; keys and values are computed of the memory alone."""
        of_memory = 2 * (self.memory - self.tokens) * 2 * self.width**2
        attention = 4 * self.tokens * self.memory * self.width
        return self.blocks * (2 * self.tokens * self.matrix_values + of_memory + attention)

    @property
    def token_values(self) -> tuple[int, int]:
        """Of a query: without k and v, which the memory's tokens keep, k twice as it gets positions."""
        values, in_fp32 = super().token_values
        return values - 4 * self.width + 3 * self.width * self.memory // self.tokens, in_fp32


@dataclass(frozen=True)
class Cells:
    """How many cells of an image have which part; constant, so that shapes are static."""

    all: int
    visible: int
    predicted: int


def cells_of(options: CapiOptions, grid: int) -> Cells:
    """Cells of a grid: masked and predicted ones truncated in floating point, as released; at least 1 is predicted."""
    masked = int(options.mask_ratio * grid**2)
    return Cells(grid**2, grid**2 - masked, max(1, int(options.predict_ratio * masked)))
