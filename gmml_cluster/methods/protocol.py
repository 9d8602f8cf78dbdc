"""What a method is, and what it is built from: `Method`, and what some methods have beside it.

Dims: n images of whole groups, g groups, V views, C channels, S side of an image, L blocks.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from gmml_cluster.errors import Fault, SpecError
from gmml_cluster.models.encoders import AnyEncoder
from gmml_cluster.models.rope_vit import RopeEncoder, RopeShape
from gmml_cluster.models.vit import Positions, VisionTransformer
from gmml_cluster.spec.job import JobSpec, Model
from gmml_cluster.spec.methods.amt import AmtOptions
from gmml_cluster.spec.methods.encoder_kind import EncoderKind, Rotary
from gmml_cluster.spec.methods.registry import MethodOptions
from gmml_cluster.spec.methods.relations import Auxiliary
from gmml_cluster.spec.rules import group_of, view_size

LABEL = "label"
"""The draw that is not drawn: the class of each image, int64 (n,), where the method's options say `labels`."""
MASK = "mask"
"""A third: the class of each pixel of the first view, uint8 (n, S, S), 255 for none, where there is a `mask_table`."""
MAP = "map"
"""The other one: each view's map of attention in bytes, 1 to 255, uint8 (n, V, N); there once AMT masks by it."""
ROLE = "role"
"""What becomes of each patch under AMT: 0 visible, 1 masked, 2 thrown; uint8, drawn by the map."""
Draws = dict[str, Tensor]
Forward = Callable[..., Any]


@dataclass(frozen=True)
class Setting:
    """All that decides what a method computes.

    Attributes:
        model: the encoder.
        options: the method's own options.
        image_size: side of a view in pixels.
        group: consecutive samples that may be coupled.
        checkpointing: whether blocks are recomputed in the backward pass.
        auxiliary: what is learned beside.
    """

    seed: int
    model: Model
    options: MethodOptions
    image_size: int
    group: int
    checkpointing: bool = False
    auxiliary: Auxiliary | None = None

    @classmethod
    def of(cls, job: JobSpec) -> "Setting":
        """The setting of a job that keeps the rules of `gmml_cluster.spec.rules`."""
        return cls(
            seed=job.seed,
            model=job.model,
            options=job.method,
            image_size=view_size(job),
            group=group_of(job),
            checkpointing=job.engine.activation_checkpointing,
            auxiliary=job.auxiliary,
        )

    @property
    def patches(self) -> int:
        """Patches of a view."""
        return int((self.image_size // self.model.patch_size) ** 2)

    def encoder(
        self,
        *,
        positions: Positions = "learned",
        class_token: bool = True,
        key_bias: bool = True,
        layer_scale: bool = False,
    ) -> VisionTransformer:
        """The encoder that the job asks for, under `module.encoder` in every method, with its switches."""
        return VisionTransformer(
            width=self.model.width,
            depth=self.model.depth,
            heads=self.model.heads,
            patch_size=self.model.patch_size,
            image_size=self.image_size,
            mlp_ratio=self.model.mlp_ratio,
            positions=positions,
            class_token=class_token,
            key_bias=key_bias,
            layer_scale=layer_scale,
            checkpointing=self.checkpointing,
        )

    def encoder_of(self, kind: EncoderKind) -> AnyEncoder:
        """The encoder of some kind, such as that of the run from which a classifier begins."""
        if kind.rotary is None:
            return self.encoder(**kind.switches)
        shape, model = self.rotary_shape(kind.rotary), self.model
        return RopeEncoder(shape, model.depth, patch_size=model.patch_size, checkpointing=self.checkpointing)

    def rotary_shape(self, rotary: Rotary) -> RopeShape:
        """What an encoder with rotary positions and its predictor have in common."""
        return RopeShape(
            width=self.model.width,
            heads=self.model.heads,
            grid=self.image_size // self.model.patch_size,
            mlp_ratio=self.model.mlp_ratio,
            registers=rotary.registers,
            halves=rotary.halves,
        )


@dataclass(frozen=True)
class Losses:
    """What a method computes from some groups.

    Attributes:
        groups: loss of each group (g,).
        scalars: metrics: name to (g, 2), sum and count of what is averaged over groups, ranks and micro-batches.
        outputs: for evaluation, detached: prediction, mask and the like.
    """

    groups: Tensor
    scalars: dict[str, Tensor]
    outputs: dict[str, Tensor]


@dataclass(frozen=True)
class InitDistribution:
    """Distribution of an initial parameter.

    Attributes:
        kind: `constant`: the value `scale`. `uniform`: on [-scale, scale). `normal`: standard deviation `scale`.
            `truncated`: that, cut at one standard deviation on both sides, as BEiT and those after it have it.
        like: another parameter whose draws it takes, so that it begins equal to it, as a teacher does to its student.
    """

    kind: Literal["constant", "uniform", "normal", "truncated"]
    scale: float
    like: str | None = None


@dataclass(frozen=True)
class EmaUpdate:
    """Frozen parameters that move towards trained ones: target + weight * (source - target).

    Attributes:
        targets: names of the frozen.
        sources: names of the trained, each of its target's shape.
        weight: 0 to 1; 1 less the momentum of a teacher.
    """

    targets: tuple[str, ...]
    sources: tuple[str, ...]
    weight: float


class Method(Protocol):
    """A way to learn from images alone; one file, one class.

    Attributes:
        views: crops of an image.
        module: trained and frozen parameters; `module.encoder` is what pre-training yields, or what
            `exported` names; all else is thrown away.
        taps: blocks, counted from 1, whose outputs are averaged to give the feature `taps`.
    """

    views: int
    module: nn.Module
    taps: tuple[int, ...]

    def draw(self, numbers: Tensor, device: torch.device) -> Draws:
        """Draws of each sample number (n,), made on the device; a function of seed and number alone."""

    def init_distribution(self, name: str, shape: torch.Size) -> InitDistribution:
        """How a parameter is initialised."""

    def loss(self, forward: Forward, images: Tensor, draws: Draws) -> Losses:
        """Losses of whole groups.

        Args:
            forward: calls `module`, or the engine's wrapping of it.
            images: normalised float (n, V, 3, S, S), groups of consecutive numbers.
            draws: of `draw`; with `LABEL` where the method's options say that it wants labels.
        """


def exported_name(method: Method) -> str:
    """Name of the submodule that pre-training yields: `encoder`, or what the method has as `exported`.

    A method whose teacher is the better encoder says `exported = "teacher.encoder"`.
    """
    return getattr(method, "exported", "encoder")


@runtime_checkable
class Verifiable(Method, Protocol):
    """A method that can be held against a second implementation, by `gmml_cluster.methods.reference`."""

    def draw(
        self,
        numbers: Tensor,
        device: torch.device,
        *,
        names: Collection[str] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Draws:
        """As `Method.draw`, of which it may leave draws out.

        Args:
            numbers: int64 (n,).
            device: where they are made.
            names: which to make; None makes all.
            dtype: type of those that are not integers.
        """

    def accept(self, given: Draws, count: int) -> Draws:
        """Draws from outside for `count` images, checked, and completed by what follows from them.

        Raises:
            SpecError: one is unknown, absent or of another shape.
        """


@runtime_checkable
class Guided(Verifiable, Protocol):
    """A method that can mask by maps of attention.

    Attributes:
        amt: its options for that; None: all masks are random.
    """

    amt: AmtOptions | None

    def draw(
        self,
        numbers: Tensor,
        device: torch.device,
        *,
        names: Collection[str] | None = None,
        dtype: torch.dtype = torch.float32,
        given: Draws | None = None,
    ) -> Draws:
        """As `Verifiable.draw`; random masks as long as nothing is `given`.

        Args:
            numbers: as there.
            device: as there.
            names: as there.
            dtype: as there.
            given: what decides on masks: `MAP`, or `ROLE` itself; it is among the draws that are returned.
        """


@dataclass(frozen=True)
class Picture:
    """The first views of some images as the network saw them and as it reconstructed them, normalised.

    Attributes:
        kinds: how each image was corrupted, as a caption; images of one kind are shown together.
        corrupted: what the network was given (n, 3, S, S).
        reconstructed: what it made of it (n, 3, S, S).
        made: what that is, in a word.
        boxes: int (n, M, 4), as of `Panel`; outlined in both.
    """

    kinds: tuple[str, ...]
    corrupted: Tensor
    reconstructed: Tensor
    made: str = "reconstructed"
    boxes: Tensor | None = None


@runtime_checkable
class Shows(Protocol):
    """A method whose reconstructions can be shown."""

    def show(self, images: Tensor, draws: Draws, outputs: dict[str, Tensor], *, grey: Tensor) -> Picture:
        """The corrupted and the reconstructed views.

        Args:
            images: as `loss` got them.
            draws: as `loss` got them.
            outputs: of `loss`.
            grey: a middle grey (3,), normalised like the images, for what was removed.
        """


@dataclass(frozen=True)
class Panel:
    """One picture of each of some images: something that the network is given of it.

    Attributes:
        title: what it shows.
        images: normalised (n, 3, S, S).
        facts: of each image what the picture does not say, in a few words; empty where it says all.
        boxes: int (n, M, 4), rectangles to be outlined: top, left, height and width in pixels; one without an area is
            none.
    """

    title: str
    images: Tensor
    facts: Sequence[str] = ()
    boxes: Tensor | None = None


@runtime_checkable
class ShowsInput(Protocol):
    """A method that shows what it makes of views before a network sees them: masks, corruption, targets."""

    def show_input(self, images: Tensor, draws: Draws, numbers: Tensor, *, grey: Tensor) -> Sequence[Panel]:
        """Pictures from the draws alone; none where networks see the views as they are.

        Args:
            images: as `loss` gets them.
            draws: as `loss` gets them.
            numbers: sample numbers (n,), to name other images of a group by.
            grey: a middle grey (3,), normalised like the images, for what is hidden.
        """


@runtime_checkable
class Summarises(Protocol):
    """A method with a feature of whole images beside those of its encoder's tokens: `global` of evaluation."""

    def summary(self, images: Tensor, encoder: nn.Module) -> Tensor:
        """The feature (n, D) of normalised images (n, 3, S, S), by the module's weights.

        Args:
            images: of any size that the encoder reads.
            encoder: the one that is exported, which may have been brought to another image size.
        """


@runtime_checkable
class AfterStep(Protocol):
    """A method with a teacher: frozen parameters that follow trained ones."""

    def after_step(self, step: int, steps: int) -> EmaUpdate:
        """The teacher's update of a step, applied after the optimizer's; skipped where that was skipped.

        Args:
            step: counted from 0.
            steps: length of the schedule of the learning rate.
        """


@runtime_checkable
class Multiplies(Protocol):
    """A method whose parameters have learning rates or decays of their own."""

    def multipliers(self, name: str) -> tuple[float, float]:
        """What a trained parameter's scheduled learning rate and weight decay are multiplied by.

        AdamW multiplies the decay by the learning rate, so the first number acts on both.
        """


def check_labels(labels: Tensor, classes: int) -> None:
    """Refuse labels from outside that are no classes.

    Raises:
        SpecError: one is.
    """
    if labels.is_floating_point() or int(labels.min()) < 0 or int(labels.max()) >= classes:
        problem = f"holds {labels.min().item()} to {labels.max().item()}; classes are integers 0 to {classes - 1}"
        raise SpecError(Fault(f"draws.{LABEL}", problem, "fix the array"))


def check_draws(given: Draws, shapes: dict[str, tuple[int, ...]], needed: Collection[str]) -> None:
    """Refuse draws that are unknown, absent though needed, or of another shape, all at once.

    Args:
        given: draws by name.
        shapes: the shape of each that is known.
        needed: names that may not be absent.

    Raises:
        SpecError: with a fault for each.
    """
    faults = [
        Fault(f"draws.{name}", f"shape {tuple(value.shape)}; it is {shapes[name]}", "fix the array")
        for name, value in given.items()
        if name in shapes and tuple(value.shape) != shapes[name]
    ]
    for name in sorted(set(given) - set(shapes)):
        faults.append(Fault(f"draws.{name}", f"unknown; known are {', '.join(shapes)}", "leave it out"))
    for name in sorted(set(needed) - set(given)):
        faults.append(Fault(f"draws.{name}", "absent, and so is `first`, which says what to draw", "give one of them"))
    if faults:
        raise SpecError(faults)
