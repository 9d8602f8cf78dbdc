"""How a view is made of an image: crop, flip, colours, blur, normalisation, and their presets."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from gmml_cluster.spec.base import Refused, SpecModel


def _ascending(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise Refused(f"{list(bounds)} runs backwards; the least comes first", f"write {list(bounds[::-1])}")
    return bounds


Share = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0, le=1000)]


class Crop(SpecModel):
    """Random resized crop."""

    scale: Annotated[tuple[Share, Share], AfterValidator(_ascending)] = (0.05, 1.0)
    """Least and greatest area as a share of the image's."""
    ratio: Annotated[tuple[Positive, Positive], AfterValidator(_ascending)] = (0.75, 4 / 3)
    """Least and greatest width over height."""
    clamped: bool = False
    """Whether the first try counts, with its sides cut to the image's, as in MAE's linear probe; else the first of ten
    that fits."""


class Jitter(SpecModel):
    """Colour jitter; each factor is uniform on 1 plus or minus its strength, hue on plus or minus its strength."""

    probability: float = Field(0.3, ge=0, le=1)
    """How often a view is jittered."""
    brightness: float = Field(0.1, ge=0, lt=1)
    """Strength of the brightness."""
    contrast: float = Field(0.1, ge=0, lt=1)
    """Strength of the contrast."""
    saturation: float = Field(0.1, ge=0, lt=1)
    """Strength of the saturation."""
    hue: float = Field(0.01, ge=0, le=0.5)
    """Strength of the hue, in turns of the colour circle."""


class Blur(SpecModel):
    """Gaussian blur."""

    probability: float = Field(0.1, ge=0, le=1)
    """How often a view is blurred."""
    radius: Annotated[tuple[Positive, Positive], AfterValidator(_ascending)] = (0.1, 2.0)
    """Least and greatest standard deviation in pixels."""


class RandAugment(SpecModel):
    """Random operations out of fifteen, each applied with probability 0.5; 9 and 0.5 are `rand-m9-mstd0.5-inc1`."""

    bare: ClassVar[tuple[str, ...]] = ("magnitude",)

    magnitude: float = Field(9.0, ge=0, le=10)
    """Mean strength of an operation on a scale of 10; every operation is stronger the greater it is."""
    deviation: float = Field(0.5, ge=0, le=10)
    """Standard deviation of the strength, which is drawn anew for each operation and cut to 0 to 10."""
    operations: int = Field(2, gt=0, le=10)
    """Operations drawn for a view."""


class Erase(SpecModel):
    """Random erasing: a rectangle of standard normal noise, after normalisation."""

    bare: ClassVar[tuple[str, ...]] = ("probability",)

    probability: float = Field(0.25, ge=0, le=1)
    """How often a view loses a rectangle."""


class PatchJitter(Jitter):
    """Colour jitter of a patch, by default in the strength of RelViT's released code."""

    probability: float = Field(0.8, ge=0, le=1)
    """How often a patch is jittered."""
    brightness: float = Field(0.4, ge=0, lt=1)
    """Strength of the brightness."""
    contrast: float = Field(0.4, ge=0, lt=1)
    """Strength of the contrast."""
    saturation: float = Field(0.4, ge=0, lt=1)
    """Strength of the saturation."""
    hue: float = Field(0.1, ge=0, le=0.5)
    """Strength of the hue, in turns of the colour circle."""


class PatchAugment(SpecModel):
    """Augmentation of each patch by draws of its own, as RelViT does: neighbouring patches must not match at edges."""

    crop: float = Field(1.15, ge=1, le=4)
    """Side of a patch over that of a random crop of it, which is resized back to the patch; 1 for none."""
    jitter: PatchJitter | None = PatchJitter()
    """Colour jitter; null for none."""
    grey: float = Field(0.2, ge=0, le=1)
    """How often a patch loses its colours."""
    after_normalise: bool = False
    """Whether colours are changed after normalisation, as released: jitter then cuts normalised values to 0 to 1."""


class Mega(SpecModel):
    """Mega-patches: rows and columns of patches are put together at random, and each block is resized to a patch."""

    bare: ClassVar[tuple[str, ...]] = ("blocks",)

    blocks: int = Field(gt=1, le=1000, examples=[5])
    """Blocks a row and a column; fewer than the patches."""
    own_columns: bool = False
    """Whether columns are cut by a draw of their own; the released code cuts them like the rows."""


class Augment(SpecModel):
    """What is drawn of a view. Presets: `none`, `gmml`, `mae`, `simmim`, `conmim`, `relvit`, `ijepa`, `finetune`."""

    crop: Crop | None = None
    """Random resized crop; null takes the central square."""
    flip: bool = False
    """Whether half of the views are mirrored."""
    rand_augment: RandAugment | None = None
    """RandAugment, before colours; null for none."""
    jitter: Jitter | None = None
    """Colour jitter; null for none."""
    grey: float = Field(0.0, ge=0, le=1)
    """How often a view loses its colours."""
    blur: Blur | None = None
    """Gaussian blur; null for none."""
    solarise: float = Field(0.0, ge=0, le=1)
    """How often values of a view from 128 of 255 on are inverted."""
    aligned: bool = False
    """Whether all views of an image have one crop and one flip, so that they show the same at each pixel."""
    weak_first: bool = False
    """Whether colours and blur are for the views after the first alone."""
    mega: Mega | None = None
    """Mega-patches; null for none. A view is then of `blocks` patches a side."""
    patches: PatchAugment | None = None
    """Augmentation of each patch by itself; null for none."""
    erase: Erase | None = None
    """Random erasing; null for none."""


AUGMENTS: dict[str, Augment] = {
    "none": Augment(),
    "gmml": Augment(crop=Crop(), flip=True, jitter=Jitter(), blur=Blur()),
    "mae": Augment(crop=Crop(scale=(0.2, 1.0)), flip=True),
    "simmim": Augment(crop=Crop(scale=(0.67, 1.0)), flip=True),
    "conmim": Augment(
        crop=Crop(scale=(0.08, 1.0)),
        flip=True,
        jitter=Jitter(probability=0.8, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1),
        grey=0.2,
        blur=Blur(),
        solarise=0.2,
        aligned=True,
        weak_first=True,
    ),
    "relvit": Augment(crop=Crop(scale=(0.08, 1.0)), flip=True, patches=PatchAugment()),
    "ijepa": Augment(crop=Crop(scale=(0.3, 1.0))),
    "finetune": Augment(crop=Crop(scale=(0.08, 1.0)), flip=True, rand_augment=RandAugment(), erase=Erase()),
}


class Normalise(SpecModel):
    """Per-channel normalisation of RGB in [0, 1]. `imagenet` is the name of a preset."""

    mean: tuple[float, float, float] = Field(examples=[[0.5, 0.5, 0.5]])
    """Mean subtracted."""
    std: tuple[Positive, Positive, Positive] = Field(examples=[[0.5, 0.5, 0.5]])
    """Standard deviation divided by."""


NORMALISATIONS: dict[str, Normalise] = {
    "imagenet": Normalise(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    "half": Normalise(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
}


def preset(table: dict[str, Any], model: type[SpecModel]) -> BeforeValidator:
    """Replaces the name of a preset by its model."""

    def look_up(given: Any) -> Any:
        if isinstance(given, str) and given not in table:
            raise Refused(f"{given!r} is no preset", f"write {', '.join(table)}, or a mapping")
        if not isinstance(given, str | dict | model):
            raise Refused(f"{given!r} does not fit", f"write {', '.join(table)}, or a mapping")
        return table[given] if isinstance(given, str) else given

    return BeforeValidator(look_up, json_schema_input_type=Literal[*table] | model)
