"""What methods that learn from classes have in common, without torch: the classes, mixing, and what an image costs."""

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from gmml_cluster.spec.base import Refused, SpecModel
from gmml_cluster.spec.broken import GROUP, METHOD, Broken, broken
from gmml_cluster.spec.methods.counts import Counts, Encoder
from gmml_cluster.spec.methods.encoder_kind import EncoderKind, Rotary

MIXING = (("method", "mixup"), ("method", "cutmix"))


class RotaryBlocks(SpecModel):
    """The blocks of CAPI: rotary positions, registers before the patches, RMS norms, no biases and no class token."""

    bare: ClassVar[tuple[str, ...]] = ("registers",)
    registers: int = Field(16, gt=0, le=1024, multiple_of=4)
    """Register tokens before the patches."""
    rope: Literal["coupled", "halves"] = "coupled"
    """How positions turn the heads, as in CAPI's options."""


class EncoderSwitches(SpecModel):
    """How an encoder differs from a plain one, so that another method's can be taken."""

    bare: ClassVar[tuple[str, ...]] = ("positions",)
    positions: Literal["learned", "relative", "none"] = "learned"
    """Position embeddings; fixed ones of another run are taken as `learned`."""
    class_token: bool = True
    """Whether there is a class token."""
    key_bias: bool = True
    """Whether keys have a bias."""
    layer_scale: bool = False
    """Whether branches are scaled channel by channel."""
    rotary: RotaryBlocks | None = Field(None, examples=[{"registers": 16}])
    """The blocks of CAPI, which take none of the other switches; null for plain ones."""

    @model_validator(mode="after")
    def _rotary_alone(self) -> "EncoderSwitches":
        rest = EncoderSwitches.model_fields.keys() - {"rotary"}
        changed = sorted(name for name in rest if getattr(self, name) != EncoderSwitches.model_fields[name].default)
        if self.rotary is not None and changed:
            raise Refused(f"rotary beside {', '.join(changed)}; its blocks have no such switches", "write rotary alone")
        return self

    @property
    def kind(self) -> EncoderKind:
        """What is built and counted."""
        rotary = self.rotary
        return EncoderKind(
            positions=self.positions,
            class_token=self.class_token,
            key_bias=self.key_bias,
            layer_scale=self.layer_scale,
            rotary=None if rotary is None else Rotary(rotary.registers, halves=rotary.rope == "halves"),
        )


class ClassifierOptions(SpecModel):
    """A method whose loss reads the class of each image."""

    bare: ClassVar[tuple[str, ...]] = ("name",)
    labels: ClassVar[bool] = True
    """Whether batches carry classes; methods that learn from images alone need not say so."""
    advised_group: ClassVar[int] = 8
    """The group where `data.group` is `auto`."""
    classes: int = Field(gt=1, le=10**6, examples=[10])
    """Number of classes; every sample of the corpora has one below it, which their indexes are asked for."""

    encoder: EncoderSwitches | None = Field(None, examples=[{"positions": "relative"}])
    """How the encoder differs from a plain one, where it is another method's; null for a plain one."""

    @property
    def views(self) -> int:
        """Crops an image."""
        return 1

    @property
    def encoder_kind(self) -> EncoderKind:
        """The kind that `encoder` says."""
        return EncoderKind() if self.encoder is None else self.encoder.kind

    @property
    def reads_class_token(self) -> bool:
        """Whether the head reads the class token."""
        return False

    def broken_rules(self, encoder: Encoder, image_size: int, group: int) -> Iterator[Broken]:
        """Rules that the options break together with the model, the image size and the group."""
        if self.reads_class_token and not self.encoder_kind.has_class_token:
            found, value = (
                ("class_token", "false") if self.encoder_kind.rotary is None else ("rotary", "no class token")
            )
            problem = f"{value}, but the head reads the class token"
            yield broken(("method", "encoder", found), problem, "let it read the mean of the patches", METHOD)
        yield from self.encoder_kind.broken_rules(encoder, image_size)


class MixingOptions(ClassifierOptions):
    """A classifier whose encoder is trained, with mixed images and smoothed targets."""

    takes_auxiliary: ClassVar[bool] = True
    """Whether relations of patches can be learned beside it."""
    smoothing: float = Field(0.1, ge=0, lt=1)
    """Share of a target that is spread evenly over all classes."""
    mixup: float = Field(0.8, ge=0, le=1000)
    """Both parameters of the beta distribution of mixup's shares; 0 turns mixup off."""
    cutmix: float = Field(1.0, ge=0, le=1000)
    """The same for CutMix; where both are on, each group draws one of them evenly."""
    pool: Literal["class", "mean"] = "class"
    """What the head reads: the class token, or the mean of the patch tokens, which is normed after the mean."""
    ema: float | None = Field(None, gt=0, lt=1, examples=[0.9999])
    """Share that a moving average of encoder and head keeps of itself in a step; the average is then what is scored and
    exported. null for none."""

    @property
    def mixes(self) -> bool:
        """Whether images are mixed at all."""
        return self.mixup > 0 or self.cutmix > 0

    @property
    def reads_class_token(self) -> bool:
        """Whether the head reads the class token."""
        return self.pool == "class"

    def counts(self, encoder: Encoder, image_size: int) -> Counts:
        """What an image costs.

        Dims: D width, N patches, K classes.
        """
        D, pixels, N = encoder.width, 3 * encoder.patch_size**2, (image_size // encoder.patch_size) ** 2
        stack = self.encoder_kind.stack(encoder, N)
        trained = self.encoder_kind.parameters(encoder, N) + (D + 1) * self.classes
        return Counts(
            views=1,
            trained=trained,
            frozen=0 if self.ema is None else trained,
            stacks=(stack,),
            other_flops=2 * N * pixels * D + 2 * D * self.classes,
            other_values=pixels * N + stack.tokens * D + 2 * self.classes,
            other_bytes=8 * stack.tokens,
            input_values=pixels * N,
        )

    def broken_rules(self, encoder: Encoder, image_size: int, group: int) -> Iterator[Broken]:
        """An image of an odd group would be mixed with itself; and the token that is read exists."""
        yield from super().broken_rules(encoder, image_size, group)
        if self.mixes and group % 2:
            problem = f"{group} is odd; image i of a group is mixed with image {group} - 1 - i"
            yield broken(GROUP, problem, "write an even number, or 0 for mixup and cutmix", METHOD, *MIXING)
