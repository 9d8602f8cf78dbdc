"""What commands print that read one run: its log, its steps, what its ranks printed, what was made of its weights."""

from typing import Annotated, Any, Literal

from typing_extensions import Doc, TypedDict

from gmml_cluster.outputs.base import FirstVersion
from gmml_cluster.outputs.status import RankErrorsOutput


class EntryOutput(FirstVersion):
    """An entry of the log, with the fields of its kind ([log.md](log.md))."""

    slot: int
    """Number in the log, from 0."""
    kind: str
    """What it records."""
    attempt: int | None
    """Who wrote it, or, of an `end`, which attempt ended; null for a person."""
    run: str
    """Token of the run."""
    token: str
    """Of this entry."""
    time: float
    """Seconds since 1970 by the writer's clock; orders nothing."""


class LogCheckOutput(FirstVersion):
    """Whether every sum of the log is right; with exit code 3 where one is not."""

    faults: list[str]
    """A line each; empty where every sum is right."""


class MetricsOutput(FirstVersion):
    """A step, of the latest attempt that made it; floats in full.

    Which figures repeat bit for bit is in [exactness.md](exactness.md). Beside these fields are the method's own means:
    of GMML `loss_noise` and `loss_alien`, the loss where noise and where another image shows, `masked`, the share of
    pixels that were changed, `short`, the share of views that fell short of their ratio; of MAE `prediction_std`, the
    deviation within a predicted patch; of methods with a teacher `momentum`, the share of itself that it kept; with AMT
    `map_pass`, the pass over the corpora whose maps mask the step's images, from 1, and 0 before. A step whose weights
    the run scored itself (`evaluate`) has `knn_mean`, `linear_taps` and the like, accuracy in percent, and
    `evaluation_s`, the seconds between it and the next step for that, which are in no `step_s`. Where the profile has a
    `node_cache` there are `cache_hits`, the share of the bytes asked for that lay in the nodes' folders (left out where
    a step asked for none), and `cache_faults`, failures of these folders and damaged entries since the step before,
    over all ranks.
    """

    step: int
    """From 0."""
    samples: int
    """Images drawn by the run up to and with this step."""
    batch: int
    """Images of the step."""
    loss: float | None
    """Mean over its groups, before the update; null where it is not finite."""
    grad_norm: float | None
    """Over all parameters, before clipping; null where it is not finite."""
    lr: float
    """Learning rate."""
    wd: float
    """Weight decay."""
    attempt: int
    """Attempt that made it."""
    time: float
    """When rank 0 read its figures, seconds since 1970 by its clock."""
    unchecked: int
    """Images of the step that no CRC could vouch for."""
    damaged: int
    """JPEGs of the step that decode although their data are corrupt."""
    samples_per_s: float
    """Images a second over all ranks."""
    data_wait_s: float
    """Seconds that the slowest rank waited for images."""
    reads_in_flight: float
    """Requests to the corpora's stores under way when the step took its images, mean over the ranks."""
    read_ahead_bytes: float
    """Encoded bytes that had arrived for later steps then, mean over the ranks."""
    retries: int
    """Requests to stores that all ranks sent again since the step before, and reads repeated because their bytes were
    not those that a checksum promised."""
    step_s: float
    """Seconds of the step on the slowest rank."""
    checkpoint_stall_s: float
    """Seconds of them in which rank 0 waited for a save and copied the state for the next."""
    slow_ranks: list[int]
    """Ranks that keep the others waiting: for a hundred steps, what they did before they first waited for others (data,
    the first forward pass) took a quarter longer than the median of all, and a twentieth of the step."""
    skipped: bool
    """Whether its update was not finite and left out."""


class EventsOutput(FirstVersion):
    """TensorBoard's event file that was written."""

    folder: str
    """Where it lies."""
    steps: int
    """Steps in it."""


class LogsOutput(FirstVersion):
    """What a rank printed."""

    run: str
    """Name."""
    url: str
    """Its folder or URL."""
    attempt: int | None
    """Whose output it is; null where none has begun: then of the start that has not claimed yet."""
    rank: int
    """Which rank."""
    ended: str | None
    """How the attempt ended, in a line; null where it is at work, or said nothing."""
    errors: list[RankErrorsOutput]
    """What its ranks reported, the original first, then those that it caused."""
    text: str
    """What the rank printed, or the last lines of it."""


class TrackerOutput(TypedDict):
    """One tracker."""

    tracker: str
    """Its name."""
    step: int
    """Last step that it has; -1 for none."""
    failed: bool
    """Whether it did not take what it lacked."""


class TrackOutput(FirstVersion):
    """Curves that were passed on to trackers; with exit code 1 where one did not take what it lacked."""

    run: str
    """Name."""
    trackers: list[TrackerOutput]
    """Those that the job names."""


class OrderOutput(FirstVersion):
    """A sample."""

    n: int
    """Sample number."""
    rank: int
    """Rank that draws it."""
    micro_batch: int
    """Micro-batch of the step, from 0. Of a run as its latest attempt with so many ranks cut the step; otherwise as
    `batch.micro` says, where `auto` is what fits a GPU of this machine, and the whole share without one."""
    corpus: int
    """Index of the corpus in the job, from 0."""
    epoch: int
    """Epoch of that corpus, from 0."""
    shard: str
    """URL of the shard."""
    index: int
    """Index in the shard, from 0."""
    member: str
    """Name of the image in it."""


class PlaceOutput(TypedDict):
    """Where an image lies."""

    shard: str
    """URL of the shard."""
    index: int
    """Index in the shard, from 0."""
    member: str
    """Name of the image in it."""


class ShownOutput(TypedDict):
    """A picture beside the views."""

    title: str
    """What it shows."""
    fact: str
    """A figure of it, in words."""


class SeenOutput(PlaceOutput):
    """A sample, and the image that is shown for it."""

    n: int
    """Sample number."""
    step: int
    """That draws it, from 0."""
    corpus: int
    """Index of the corpus in the job, from 0."""
    epoch: int
    """Epoch of that corpus, from 0."""
    label: int | None
    """Its class; null without one."""
    replaces: PlaceOutput | None
    """The bad sample in whose place it is shown, or null."""
    height: int
    """Of the stored image, in pixels."""
    width: int
    """Of the stored image, in pixels."""
    crops: list[list[float]]
    """Top, left, height and width of each view's box in pixels of the stored image; one where the views share it."""
    shown: list[ShownOutput]
    """The pictures beside the views."""


class SeeOutput(FirstVersion):
    """What sample numbers are."""

    name: str
    """Of the job."""
    method: str
    """Its method."""
    batch: int
    """Images of a step."""
    steps: int
    """Of the whole run."""
    picture: str | None
    """The file that was written; null without `-o`."""
    notes: list[str]
    """What cannot be drawn, and why."""
    samples: list[SeenOutput]
    """In the order of their numbers."""


class ExportOutput(FirstVersion):
    """An encoder that was written for another library."""

    run: str
    """Name."""
    step: int
    """Of the checkpoint."""
    format: str
    """Library or format."""
    folder: str
    """What was made."""
    files: list[str]
    """Names of the files in it."""


class LabelledOutput(TypedDict):
    """A corpus with classes."""

    url: str
    """As it was named."""
    samples: int
    """Labelled samples that were read."""
    digest: str
    """Identity of the corpus."""


class EvaluatedOutput(TypedDict):
    """A score, with its settings as further fields."""

    score: str
    """Its name, such as `knn`."""
    feature: str
    """What was read of the encoder."""
    accuracy: float
    """In percent."""
    error: float
    """One standard error of sampling, in percent."""
    samples: int
    """Images that were scored."""
    main: bool
    """Whether this is the number to report among those of its name and feature."""


class EvalOutput(TypedDict):
    """Scores of one run at one step ([evaluation.md](evaluation.md)); a document for each process that scores."""

    version: Literal[2]
    """Of this document: raised when a field goes or changes its meaning."""
    run: str
    """Name."""
    step: int
    """Last step whose update is in the weights; -1 for the network before its first."""
    untrained: bool
    """Whether it is that."""
    protocol: str
    """How images were read and what was trained, in one line."""
    code: str
    """Digest of the code that scored; empty where that was not said."""
    attempt: int | None
    """Of the run, that scored its own weights between two steps; null for `gmml eval`."""
    seconds: float | None
    """That it spent on it; null for `gmml eval`."""
    bank: LabelledOutput
    """What votes and trains the probe."""
    corpus: LabelledOutput
    """What is classified."""
    scores: list[EvaluatedOutput]
    """Of each score and feature all that were tried, the main one among them."""


class ReplayTopologyOutput(TypedDict):
    """Ranks that made steps again, with the recorded topology as further fields."""

    first_step: int
    """First step that they made."""


class ReplayPartsOutput(TypedDict):
    """The first step whose promised figures differ."""

    step: int
    """From 0."""
    fields: dict[str, Any]
    """Name -> value recorded, value computed."""


class ReplayCheckpointOutput(TypedDict):
    """A checkpoint that was compared."""

    step: int
    """Its step."""
    tensors: int
    """How many were compared, weights and moments counted apart."""
    differing: int
    """How many of them differ."""
    first: dict[str, Any] | None
    """The first of these: `tensor`, `key` (`value`, `exp_avg`, `exp_avg_sq`), `crc32c`, `elements` that differ,
    `greatest` difference, or `shapes`; null where none differs."""
    state: dict[str, Any]
    """What differs beside tensors: field -> value recorded, value computed."""
    missing: list[str]
    """What only one has."""


_ReplayFrom = TypedDict("_ReplayFrom", {"from": Annotated[int, Doc("First step that was made again.")]})


class ReplayOutput(_ReplayFrom, FirstVersion):
    """Steps that were made again. Exit code 0: equal; 1: something differs."""

    run: str
    """Name."""
    url: str
    """Its folder or URL."""
    to: int
    """The last step that was asked for."""
    resumed: str | None
    """Folder of the checkpoint that it began from; null from the run's beginning."""
    topologies: list[ReplayTopologyOutput]
    """Of each start of the ranks."""
    equal: bool
    """Whether nothing that was compared differs."""
    steps_compared: int
    """Metric lines compared."""
    parts: ReplayPartsOutput | None
    """The first step whose promised figures differ; null where there is none."""
    checkpoints: list[ReplayCheckpointOutput]
    """Those that were compared."""
    warnings: list[str]
    """Why equality is not promised here, a sentence each."""
