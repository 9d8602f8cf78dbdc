"""What commands print that compare runs, or rehearse them."""

from typing import Any, Literal

from typing_extensions import TypedDict

from gmml_cluster.outputs.base import FirstVersion
from gmml_cluster.outputs.status import CodeOutput, ScoreOutput


class DiffAttemptOutput(TypedDict):
    """An attempt of one of the two runs."""

    attempt: int
    """Its number."""
    first_step: int | None
    """First step that it made, or null."""
    last_step: int | None
    """Last step that the log knows of it, or null."""
    cause: str | None
    """Why it ended; null while it is at work."""
    topology: dict[str, Any]
    """Ranks, ranks per node, ZeRO stage, precision, micro-batch, threads."""


class DiffPartsOutput(TypedDict):
    """The first step whose promised figures differ."""

    step: int
    """From 0."""
    attempts: list[int | None]
    """That made it, of either run."""
    fields: dict[str, list[Any]]
    """Name -> both values."""


class DiffOutput(FirstVersion):
    """Where two runs part. Exit code 0: all steps that both made are equal; 1: they part, or no step is common.

    Pairs are of the first and the second run.
    """

    runs: list[str]
    """Their folders or URLs."""
    spec: dict[str, list[Any]]
    """Dotted field -> both values, of every field that differs, by the spec and the changes of the latest submit."""
    corpora: list[str | None]
    """Digests of the pinned corpora; null before the first attempt."""
    code: list[list[CodeOutput]]
    """Which steps ran on which code."""
    attempts: list[list[DiffAttemptOutput]]
    """Of each run."""
    steps_compared: int
    """How many steps both have made, as far as their lines are uploaded."""
    steps_of_one: list[int]
    """How many steps only the first and only the second has made."""
    fields_of_one: list[list[str]]
    """Names of figures that only the lines of the first and only those of the second have; they are not compared."""
    parts: DiffPartsOutput | None
    """The first step whose promised figures differ; null where there is none."""


class ScoreOfRunOutput(ScoreOutput):
    """The latest score of its kind of a run."""

    run: str
    """Its name."""


class NotComparedOutput(TypedDict):
    """A run that shares no column with another."""

    run: str
    """Its name."""
    reason: str
    """Why, and what would give it one."""


class CompareOutput(FirstVersion):
    """What evaluations found of several runs."""

    scores: list[ScoreOfRunOutput]
    """The latest of each kind, of each run."""
    not_compared: list[NotComparedOutput]
    """Runs that share no column with another."""


class ReportOutput(FirstVersion):
    """A page on runs that was written."""

    page: str
    """The file."""
    bytes: int
    """Its size."""
    runs: list[str]
    """Folder or URL of each run in it."""
    question: str
    """What the page asks."""
    answers: list[str]
    """A sentence a score, or that it cannot be said."""
    caveats: list[str]
    """What limits the answers."""


class DrillOutput(FirstVersion):
    """A run of a drill, the undisturbed one first. Exit code 1: one did not come back, or its losses differ."""

    kind: Literal["preempt", "kill", "hang", "disk", "store"] | None
    """What befell it; null of the undisturbed run."""
    run: str
    """Its name."""
    problem: str
    """Why it did not finish; empty where it did."""
    causes: list[str]
    """Why its attempts ended, in order."""
    steps_lost: int
    """Steps that were made twice."""
    seconds: float | None
    """From its first step to its end, or null."""
    lost_s: float | None
    """By how much that is longer than the undisturbed run's, at least 0; null of that run itself."""
    equal: bool | None
    """Whether each step's figures are the undisturbed run's, bit for bit; null of that run itself."""
