"""The section `evaluate`: scores of the encoder between two steps of its training."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from gmml_cluster.spec.base import Refused, SpecModel
from gmml_cluster.spec.corpora import ImageField, Shards
from gmml_cluster.spec.scalars import Length

MOST_IMAGES = 10**9
Images = Annotated[int, Field(gt=0, le=MOST_IMAGES)]


class Evaluate(SpecModel):
    """Scores of the frozen encoder at some steps of its training, on images with classes.

    They change nothing of the training, and nothing is chosen by them. Name a held-out part of the training data, not
    the test set: whoever looks at these figures and then decides has used the images.
    """

    bare: ClassVar[tuple[str, ...]] = ("every",)

    every: Length = Field(examples=["5 epochs"])
    """How often, as `5 epochs`, `500 steps` or `100000 samples`, and after the last step. Such a step is saved too."""
    scores: tuple[Literal["knn", "linear"], ...] = Field(("knn",), min_length=1)
    """`knn`: 20 nearest neighbours, cheap. `linear`: MAE's probe, which one rank trains while the others wait."""
    features: tuple[Literal["class", "mean", "taps"], ...] = Field(("mean",), min_length=1)
    """What is read of the encoder: `mean` of the patches, `class` token, or `taps`, the mean of the tapped blocks."""
    bank: Shards | None = None
    """Labelled shards that vote and train the probe; null takes the run's first corpus."""
    corpus: Shards | None = None
    """Labelled shards that are scored, none of them in the bank; null holds a tenth of the bank out."""
    image: ImageField | None = None
    """Field of the images in both; null takes that of the run's first corpus."""
    bank_images: Images | None = 20_000
    """Most images of the bank that are read, drawn once for all steps and runs; null reads all."""
    corpus_images: Images | None = 5_000
    """Most images that are scored, drawn likewise; null scores all."""

    @field_validator("every")
    @classmethod
    def _passes(cls, every: Length) -> Length:
        if not (every.epochs or every.steps or every.samples):
            raise Refused(f"{every.written!r} never passes", "write a length above 0, such as '5 epochs'")
        return every
