"""The job spec: what is trained. Where it runs is in the profile (`cluster.py`)."""

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from gmml_cluster.spec.augment import AUGMENTS, NORMALISATIONS, Augment, Normalise, preset
from gmml_cluster.spec.base import Refused, SpecModel
from gmml_cluster.spec.corpora import ImageField, Shards
from gmml_cluster.spec.engine import EngineSpec
from gmml_cluster.spec.evaluate import Evaluate
from gmml_cluster.spec.methods.counts import divisor_of_width
from gmml_cluster.spec.methods.registry import MethodOptions, advised_drop_path
from gmml_cluster.spec.methods.relations import Auxiliary
from gmml_cluster.spec.metrics import Metrics
from gmml_cluster.spec.notify import Notify
from gmml_cluster.spec.scalars import Duration, Interval, Length, Location, NodeRange, Size

MOST_STEPS = 10**9
MOST_SAMPLES = 10**15
MOST_BATCH = 10**7
_MOST_PIXELS_OF_A_SIDE = 10**4
_RUN_NAME = r"^[a-z0-9][a-z0-9._-]{0,62}$"


def run_name(given: str) -> str:
    """The name, if a run may have it.

    Raises:
        Refused: it may not.
    """
    if not re.fullmatch(_RUN_NAME, given):
        rule = "a run's name has 1 to 63 of a-z, 0-9, '.', '_' and '-' and begins with a letter or digit"
        raise Refused(f"{given!r} does not fit; {rule}", "choose another")
    return given


RunName = Annotated[str, AfterValidator(run_name), Field(json_schema_extra={"pattern": _RUN_NAME})]

SIZES: dict[str, dict[str, int]] = {
    "tiny": {"width": 192, "depth": 12, "heads": 3, "patch_size": 16},
    "small": {"width": 384, "depth": 12, "heads": 6, "patch_size": 16},
    "base": {"width": 768, "depth": 12, "heads": 12, "patch_size": 16},
    "large": {"width": 1024, "depth": 24, "heads": 16, "patch_size": 16},
    "huge": {"width": 1280, "depth": 32, "heads": 16, "patch_size": 14},
}


def _size_or_all(schema: dict[str, Any]) -> None:
    schema["anyOf"] = [{"required": ["size"]}, {"required": schema.pop("required")}]


class Model(SpecModel):
    """A plain vision transformer; `size` fills what is not given."""

    bare: ClassVar[tuple[str, ...]] = ("size",)

    model_config = ConfigDict(json_schema_extra=_size_or_all)

    size: Literal["tiny", "small", "base", "large", "huge"] | None = Field(None, examples=["small"])
    """A standard size; fields given beside it win."""
    width: int = Field(gt=0, le=10**6, multiple_of=4, examples=[384])
    """Width of a token."""
    depth: int = Field(gt=0, le=1000, examples=[12])
    """Number of blocks."""
    heads: int = Field(gt=0, examples=[6])
    """Heads of the attention; they divide the width."""
    patch_size: int = Field(gt=0, le=_MOST_PIXELS_OF_A_SIDE, examples=[16])
    """Side of a patch in pixels."""
    mlp_ratio: float = Field(4.0, gt=0, le=100)
    """Hidden width of the MLP over the width."""
    drop_path: float | None = Field(None, ge=0, lt=1)
    """Stochastic depth of the last block; it falls linearly to 0 at the first. With CAPI it is that of every block.
    null takes the method's: GMML 0.1 as released, MAE 0, CAPI 0.2."""

    @model_validator(mode="before")
    @classmethod
    def _fill_size(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        needed = SIZES["small"]
        if given.get("size") is None and set(given) <= set(cls.model_fields) - set(needed):
            raise Refused("neither `size` nor the fields that it fills", f"write size: small, or {', '.join(needed)}")
        size = given.get("size")
        return {**SIZES[size], **given} if isinstance(size, str) and size in SIZES else given

    @field_validator("heads")
    @classmethod
    def _divides_width(cls, heads: int, others: ValidationInfo) -> int:
        return divisor_of_width(heads, others.data.get("width"))


class CorpusSpec(SpecModel):
    """A set of tar shards or of parquet files."""

    bare: ClassVar[tuple[str, ...]] = ("url",)

    url: Shards = Field(examples=["train-*.tar"])
    """Shards: a path or `s3://` URL, with `{000..131}` ranges or `*`, or a folder whose shards are listed."""
    weight: float = Field(1.0, gt=0, le=10**6)
    """Share of the samples drawn, relative to the other corpora."""
    samples: int | None = Field(None, gt=0, le=MOST_SAMPLES)
    """Number of samples, for plans made before the corpus is indexed; checked against the index."""
    image: ImageField | None = None
    """Which member of a sample is its image: all of the member's name after the first dot, such as `left.jpg` of
    `000017.left.jpg`; of parquet files the column of images. null takes the first member that is a jpg, jpeg, png or
    webp, or the only column of images."""
    refuse_damaged: bool = False
    """Whether an image that decodes although its JPEG data are damaged is a bad sample; else it is only counted."""


Auto = Annotated[int, Field(gt=0, le=MOST_BATCH)] | Literal["auto"]


class Data(SpecModel):
    """The corpora and how samples are drawn from them."""

    corpora: tuple[CorpusSpec, ...] = Field(min_length=1, examples=[[{"url": "train-*.tar"}]])
    """The corpora that are read; lanes are shared out by weight."""
    image_size: int = Field(224, gt=0, le=_MOST_PIXELS_OF_A_SIDE)
    """Side of a view in pixels."""
    augment: Annotated[Augment, preset(AUGMENTS, Augment)] = AUGMENTS["gmml"]
    """Preset or mapping; drawn per sample number and view."""
    normalise: Annotated[Normalise, preset(NORMALISATIONS, Normalise)] = NORMALISATIONS["imagenet"]
    """Preset or mapping."""
    group: Auto = "auto"
    """Consecutive samples that may be coupled (alien patches, denominators). `auto`: what the method advises."""
    lanes: Auto = "auto"
    """Parallel stretches of the corpora; there are at most so many ranks. `auto`: the largest that suits."""
    window: Auto = "auto"
    """Samples shuffled together within a lane, a multiple of the group."""
    spans: Auto = "auto"
    """Pieces each shard is cut into, permuted anew each epoch."""
    max_bad: float = Field(0.001, ge=0, le=1)
    """Share of a corpus that may be undecodable before the run ends; 8 samples are always allowed."""
    max_pixels: int = Field(50_000_000, gt=0, le=2**40)
    """Images of more pixels are bad samples."""
    read_ahead: Literal["auto"] | Size = "auto"
    """Memory of a rank for encoded images that are fetched before they are decoded, such as `1 GiB`. `auto`: a
    sixteenth of the node's memory divided by its ranks, 64 MiB to 1 GiB. It changes no image and no order."""


class Batch(SpecModel):
    """How many images make a step."""

    bare: ClassVar[tuple[str, ...]] = ("size",)

    size: int = Field(gt=0, le=MOST_BATCH, examples=[256])
    """Images a step, over all ranks."""
    micro: Auto = "auto"
    """Images a rank holds at once, a multiple of the group. `auto`: all of a rank's share."""


class WeightDecay(SpecModel):
    """Decoupled decay, moving from `start` to `end` on a half cosine over the run."""

    bare: ClassVar[tuple[str, ...]] = ("start", "end")

    start: float = Field(0.04, ge=0, le=1000)
    """Decay at the first step."""
    end: float = Field(0.4, ge=0, le=1000)
    """Decay at the last step."""


class Clip(SpecModel):
    """Clipping of gradients."""

    bare: ClassVar[tuple[str, ...]] = ("norm",)

    norm: float = Field(3.0, gt=0)
    """Greatest norm."""
    by: Literal["tensor", "global"] = "tensor"
    """Whether each tensor's norm is bounded, as GMML does, or the norm over all."""


class ScheduleSpec(SpecModel):
    """The learning rate over the run."""

    law: Literal["steps", "fractional", "next", "quarter", "truncated", "tenth"] = "steps"
    """`steps`: GMML's (warm-up ends on its last step). `fractional`: MAE's (warm-up ends on the step after). `next`:
    I-JEPA's (each step takes what `fractional` gives the next one, its weight decay too). `quarter`: RelViT's (a
    quarter of a cosine, counted from step 0). `truncated`: CAPI's (as `steps`, but the cosine stops at 0.8 of its half
    turn, above `final_lr`). `tenth`: SimMIM's (constant, then a tenth of it in the last eighth; no `final_lr`)."""
    warmup: Length = Length(epochs=10)
    """Linear warm-up, as `10 epochs`, `500 steps` or `100000 samples`."""
    start_lr: float = Field(0.0, ge=0, le=1000)
    """Learning rate from which the warm-up begins, absolute."""
    final_lr: float = Field(1e-6, ge=0, le=1000)
    """Learning rate at the end, absolute."""
    samples: int | None = Field(None, gt=0, le=MOST_SAMPLES)
    """Length of the schedule; null ties it to the run. With it, `run` may grow later."""


Beta = Annotated[float, Field(ge=0, lt=1)]


class Optim(SpecModel):
    """The optimizer; the defaults are GMML's as released."""

    name: Literal["adamw", "lars"] = "adamw"
    """`adamw`, or `lars` for linear probes (MAE's): SGD with the first of `betas` as momentum, the gradient of each
    matrix scaled to 0.001 of the matrix's norm; without decay and clip."""

    lr: float = Field(5e-4, gt=0, le=1000)
    """Base learning rate."""
    lr_per: Annotated[int, Field(gt=0, le=MOST_BATCH)] | None = 256
    """Images a step that `lr` is meant for; it is scaled to the batch. null: `lr` is absolute."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """Decays of Adam's moments."""
    eps: float = Field(1e-8, gt=0, le=1)
    """Adam's epsilon."""
    weight_decay: WeightDecay = WeightDecay()
    """Decoupled weight decay."""
    exempt: Literal["vectors", "vectors_and_positions", "none"] = "vectors"
    """What is never decayed: tensors of one dimension and biases, or these and positions and tokens, or nothing but
    what the method itself exempts."""
    clip: Clip | None = Clip()
    """Clipping; null for none."""
    schedule: ScheduleSpec = ScheduleSpec()
    """Learning rate over the run."""

    def peak_lr(self, batch: int) -> float:
        """The learning rate after warm-up, for so many images a step."""
        return self.lr if self.lr_per is None else self.lr * batch / self.lr_per


class RunSpec(SpecModel):
    """How long it trains; exactly one of the three."""

    bare: ClassVar[tuple[str, ...]] = ("epochs",)

    epochs: float | None = Field(None, gt=0, le=10**6, examples=[100])
    """Passes over the first corpus."""
    steps: int | None = Field(None, gt=0, le=MOST_STEPS)
    """Updates of the weights."""
    samples: int | None = Field(None, gt=0, le=MOST_SAMPLES)
    """Images drawn, rounded up to whole steps."""

    @model_validator(mode="before")
    @classmethod
    def _is_no_length(cls, given: Any) -> Any:
        if isinstance(given, str):
            number, unit = Length.model_validate(given).written.split()
            raise Refused(f"{given!r} does not fit", f"write {{{unit}: {number}}}")
        return given

    @model_validator(mode="after")
    def _exactly_one(self) -> "RunSpec":
        given = [name for name in ("epochs", "steps", "samples") if getattr(self, name) is not None]
        if len(given) != 1:
            problem = f"{' and '.join(given) or 'nothing'} given"
            raise Refused(problem, "give exactly one of epochs, steps, samples, and null for others")
        return self


class Checkpoint(SpecModel):
    """When the state is saved and what is kept. The end of the run and a notice save always."""

    every: Interval = Interval()
    """`500 steps`, `30 min`, or `auto`: by what a save takes and how often the run is interrupted."""
    keep: int = Field(3, gt=0, le=MOST_STEPS)
    """Latest checkpoints kept."""
    keep_every: Annotated[int, Field(gt=0, le=MOST_STEPS)] | None = None
    """Steps whose multiples are kept for good; null for none."""


class Resources(SpecModel):
    """How much of a cluster it wants."""

    bare: ClassVar[tuple[str, ...]] = ("nodes",)

    nodes: NodeRange = Field(NodeRange(least=1, most=1), examples=["1..4"])
    """Nodes: a number, or `2..16`."""


class Retries(SpecModel):
    """How often the run starts again by itself; a checkpoint or a new submission sets all counts to zero."""

    failures: int = Field(3, gt=0, le=1000)
    """Attempts that are killed, hang, lose a rank, or end by hardware or before they begin; the last stops the run."""
    outages: int = Field(20, gt=0, le=1000)
    """Attempts that lose a node or whose storage fails; the last stops the run."""
    errors: int = Field(2, gt=0, le=1000)
    """Attempts that make steps and end with an error of the code or the data, or for lack of memory; the last stops the
    run. The same error twice stops it at once."""
    longest_pause: Duration = 600.0
    """Longest wait before a start: nothing before the second, then 10 s, 20 s, 40 s and so on up to this."""


class Init(SpecModel):
    """What a run of its own begins from at step 0: a commit of another run, or a file of weights."""

    bare: ClassVar[tuple[str, ...]] = ("run",)

    run: Annotated[Location, Field(min_length=1)] | None = Field(None, examples=["other-run"])
    """Another run: its name under the same root, or its folder or URL. Exactly one of `run` and `url` is given."""
    url: Annotated[Location, Field(min_length=1)] | None = Field(None, examples=["weights/mae_pretrain_vit_base.pth"])
    """A file of weights of timm, MAE, DINO or GMML: a path or `s3://` URL that ends in `.safetensors`, `.pth` or `.pt`,
    or a folder with one such file."""
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of that file; null takes what the file has when this run is first submitted."""
    step: Annotated[int, Field(ge=0)] | None = None
    """Step of the other run's commit; null takes the latest when this run is first submitted."""
    what: Literal["weights", "encoder", "all"] = "weights"
    """`weights`: all of a run of the same method, else the encoder's, and of a file MAE's decoder too where it fits;
    `encoder`: those alone, whatever the method; `all`: AdamW's moments and step count too, from a run of the same
    method."""

    @model_validator(mode="after")
    def _one_source(self) -> "Init":
        if (self.run is None) == (self.url is None):
            problem = "run and url given" if self.run else "neither run nor url given"
            raise Refused(problem, "give exactly one of them")
        if self.run is not None and self.sha256 is not None:
            raise Refused("sha256 given; a run's commits have digests of their own", "leave sha256 out")
        if self.url is not None and (self.step is not None or self.what == "all"):
            given = "step" if self.step is not None else "what: all"
            raise Refused(f"{given} given beside url; a file has neither steps nor moments", f"leave {given} out")
        return self


class JobSpec(SpecModel):
    """A pre-training run."""

    name: RunName = Field(examples=["my-run"])
    """Name of the run; its folder under the profile's root."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Every random draw is a function of this."""
    init: Init | None = None
    """Commit of another run, or file of weights, to begin from; null begins from weights that the seed draws."""
    model: Model = Field(examples=[{"size": "small"}])
    """The encoder."""
    method: MethodOptions = Field(examples=[{"name": "gmml"}])
    """The method of pre-training; `name` selects it."""
    auxiliary: Auxiliary | None = None
    """Relations of patches, learned beside what the method learns; null for none."""
    data: Data = Field(examples=[{"corpora": [{"url": "train-*.tar"}]}])
    """The images and how they are drawn."""
    batch: Batch = Field(examples=[{"size": 256}])
    """Images a step."""
    optim: Optim = Optim()
    """How weights are updated."""
    run: RunSpec = Field(examples=[{"epochs": 100}])
    """How long it trains."""
    engine: EngineSpec = EngineSpec()
    """ZeRO stage, precision, and what saves memory."""
    checkpoint: Checkpoint = Checkpoint()
    """When the state is saved and what is kept."""
    evaluate: Evaluate | None = None
    """Scores of the encoder while it trains; null for none."""
    resources: Resources = Resources()
    """Nodes that the run may use."""
    retries: Retries = Retries()
    """How often it starts again by itself."""
    metrics: Metrics = Metrics()
    """Where its curves go besides its run root."""
    notify: Notify | None = None
    """Who learns what becomes of it; null for nobody."""

    @model_validator(mode="before")
    @classmethod
    def _fill_drop_path(cls, given: Any) -> Any:
        """A spec that is written holds the number, so that a later default makes no other run of it."""
        if not isinstance(given, dict):
            return given
        model, method = given.get("model"), given.get("method")
        if not (isinstance(model, dict) and isinstance(method, dict)) or model.get("drop_path") is not None:
            return given
        advised = advised_drop_path(method.get("name"))
        return given if advised is None else {**given, "model": {**model, "drop_path": advised}}
