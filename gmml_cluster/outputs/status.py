"""What `gmml status` and `gmml top` print of a run."""

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

State = Literal[
    "empty", "submitted", "queued", "starting", "running", "stopping", "finished", "stopped", "failed", "interrupted"
]


class ProgressOutput(TypedDict):
    """Figures of a live attempt, by the metrics that it uploaded last."""

    attempt: int
    """Whose figures these are."""
    loss: float | None
    """Of its last step; null where it is not finite."""
    samples_per_s: float
    """Images a second over all ranks."""
    data_wait_share: float
    """Share of the time in which the slowest rank waited for images, 0 to 1."""
    slow_ranks: list[int]
    """Ranks that keep the others waiting."""
    left_s: float | None
    """Seconds to the last step at that rate; null before the corpora are pinned."""


class MapPassOutput(TypedDict):
    """A pass that makes maps of attention."""

    step: int
    """Which waits for them."""
    made: int
    """Blocks that are made."""
    blocks: int
    """Blocks of the whole pass."""


class ScoreOutput(TypedDict):
    """A main score that is kept with a run."""

    step: int | None
    """Whose weights were scored; null for the network before its first step."""
    attempt: int | None
    """That scored its own weights while it trained; null for `gmml eval`."""
    score: str
    """Its name, such as `knn`."""
    feature: str
    """What it read of the encoder."""
    accuracy: float
    """In percent."""
    error: float
    """One standard error of sampling, in percent."""
    samples: int
    """Images that were scored."""
    corpus: str
    """URL of what was scored."""
    corpus_digest: str
    """Identity of that corpus."""
    bank: str
    """URL of what it learnt from."""
    bank_digest: str
    """Identity of that corpus."""
    settings: dict[str, Any]
    """What it was made with; scores with other settings are not compared."""


class ScoringOutput(TypedDict):
    """An evaluation that a live attempt makes."""

    attempt: int
    """That scores its own weights."""
    step: int
    """Of the weights."""
    since: float
    """Seconds since 1970."""
    images: int
    """To be scored."""


class GivenUpOutput(TypedDict):
    """An evaluation that failed while training went on."""

    attempt: int
    """That gave it up."""
    step: int
    """Of the weights."""
    time: float
    """Seconds since 1970."""
    reason: str
    """Why."""


class HeadOutput(TypedDict):
    """A run that trains a head for `gmml eval`."""

    score: str | None
    """That it is for."""
    run: str
    """Its name, under the same root."""
    state: str
    """What it is doing."""
    step: int | None
    """Its last step that is known."""
    steps: int | None
    """Steps of the whole run."""
    since: float | None
    """Start of its last attempt, seconds since 1970."""
    problem: str | None
    """Why it failed; null where it has not."""


class UnscoredOutput(TypedDict):
    """Evaluations of a run that have no score."""

    running: ScoringOutput | None
    """What a live attempt scores; null where it scores nothing."""
    given_up: list[GivenUpOutput]
    """What failed."""


class EvaluationsOutput(UnscoredOutput):
    """Evaluations of a run."""

    ran: list[ScoreOutput]
    """Main scores that are kept."""
    heads: list[HeadOutput]
    """Runs under the same root that train heads."""


class RankErrorsOutput(TypedDict):
    """Equal errors of one rank or several."""

    ranks: list[int]
    """Which ranks."""
    hosts: list[str]
    """Their hosts."""
    kind: str
    """`own`, `lost_peer` or `timeout`."""
    cause: str
    """As in the log."""
    message: str
    """Of the first of these ranks."""
    traceback: str
    """Of the same."""


class AttemptOutput(TypedDict):
    """An attempt."""

    attempt: int
    """Its number, from 1."""
    job: str
    """The launcher's id."""
    restart: int
    """How many starts of the same submit came before."""
    started: float
    """Its claim, seconds since 1970."""
    ended: float | None
    """Seconds since 1970; null while it is at work, or where it wrote no end."""
    cause: str | None
    """Why it ended; null while it is at work."""
    first_step: int | None
    """First step that it made, or null."""
    last_step: int | None
    """Last step that the log knows of it, or null."""
    host: str
    """Of rank 0."""
    nodes: int | None
    """Number of nodes, null where its claim does not say."""
    topology: dict[str, Any]
    """Ranks, ranks per node, ZeRO stage, precision, threads; `micro` is what the job says, once the attempt has begun
    the number of images."""
    code: str
    """Digest of its code."""
    evaluation_s: float
    """Seconds between its steps in which it scored its weights."""
    reason: str
    """Why it ended, in words: the proof of its launcher, else what its ranks said."""
    told: NotRequired[dict[str, Any]]
    """Further fields of its end; left out where there are none."""


class CodeOutput(TypedDict):
    """Steps that ran on one code."""

    code: str
    """Its digest."""
    first_step: int
    """First of these steps."""


class PlatformOutput(TypedDict):
    """What an attempt ran on that the one before did not."""

    attempt: int
    """The first with it."""
    changed: dict[str, list[Any]]
    """Device, versions, variables of NCCL: before and from then on."""


class GoodputOutput(TypedDict):
    """Where steps and time went."""

    steps_made: int
    """Steps that attempts made, by the log."""
    steps_kept: int
    """Those of them that count: the others were made again."""
    share: float | None
    """Kept over made; null before any."""
    evaluation_s: float
    """Seconds of all attempts in which they scored their weights."""
    rank_s: dict[str, float]
    """Rank-seconds by kind, which add up to all that were spent ([goodput](reference/goodput.md))."""
    training_share: float | None
    """Those of training in all but `unsaved`, 0 to 1; null before any."""


class LedgerOutput(TypedDict):
    """What the log and the states of the jobs say of a run."""

    state: State
    """What it is doing. `interrupted`: nothing is queued or alive, though it has not finished; `failed`: as that, and
    its last attempt ended with an error, or its `retries` are spent; `empty`: its submission was cut off."""
    stopped: str | None
    """Reason of a stop that no later submit lifted, or null."""
    gave_up: bool
    """Whether that stop was no person's: the job's `retries` are spent."""
    retries: dict[str, list[int]]
    """`failures` and `outages`, each a list of two: attempts that count since the last checkpoint, and how many stop
    the run."""
    excluded: dict[str, str]
    """Nodes that the run avoids, with the reason."""
    step: int | None
    """Last step that is known, from 0: of a live attempt by the metrics that it uploaded last, else by the log (before
    version 3 always the log)."""
    committed_step: int | None
    """Step of the latest checkpoint."""
    checkpoint: str | None
    """Its folder in the run root."""
    job: str | None
    """Id of the last submission's job."""
    launcher: str | None
    """What started it."""
    start_failed: str | None
    """Why the last submission's job ended without an attempt, or null."""
    not_requeued: str | None
    """Why nothing came back after the scheduler took the nodes of a job that must not be requeued, or null."""
    save_s: float | None
    """Seconds that the slowest save took of the checkpoints that there are; null before the first."""
    short_notices: list[str]
    """On SLURM a sentence on each notice (of a time limit, of a preemption) that is shorter than that."""
    attempts: list[AttemptOutput]
    """The latest, at most 50."""
    older_attempts: dict[str, int]
    """Causes of those before, counted."""
    code: list[CodeOutput]
    """Which steps ran on which code."""
    platform_changes: list[PlatformOutput]
    """Other devices and versions of packages than those of the attempt before, at most 19."""
    goodput: GoodputOutput
    """Where steps and time went."""


class StatusOutput(LedgerOutput):
    """What a run is doing."""

    run: str
    """Name."""
    root: str
    """Folder or URL under which it lies."""
    url: str
    """Its own folder or URL."""
    version: Literal[3]
    """Of this document: raised when a field goes or changes its meaning."""
    steps: int | None
    """Steps of the whole run; null before the corpora are pinned."""
    progress: ProgressOutput | None
    """Of a live attempt; null otherwise."""
    map_pass: MapPassOutput | None
    """Of a live attempt that makes maps of attention; null otherwise."""
    queue_reason: str | None
    """Why the job is still queued, is suspended or gave up, in the scheduler's words, or null."""
    expected_start: float | None
    """Seconds since 1970 at which the scheduler expects to start it, or null."""
    misplaced: str | None
    """What is wrong where the run was copied or moved from the location that its log records, or null."""
    lacks_room: str | None
    """That the disk of the run has no room for its next checkpoint, or null."""
    evaluations: EvaluationsOutput | None
    """Of a run that is named; null in a list."""
    errors: list[RankErrorsOutput] | None
    """Of a run that is named, null in a list: what the ranks of the last attempt that has ended reported, the original
    first, then those that it caused."""
