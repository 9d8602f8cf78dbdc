"""What came of what a command did to runs: submitted, cancelled, waited for, deleted."""

from collections.abc import Mapping
from typing import Any, Literal

from typing_extensions import TypedDict

from gmml_cluster.errors import GmmlError
from gmml_cluster.outputs.base import ErrorOutput, FirstVersion, error_document


class SubmitOutput(FirstVersion):
    """What came of one run's submission or resumption."""

    run: str
    """Name."""
    root: str
    """Folder or URL under which it lies."""
    url: str
    """Its own folder or URL."""
    action: Literal["submitted", "resumed", "already", "stopping", "finished"]
    """`submitted`: a new run; `resumed`: another attempt of one; `already`: a job of it is queued or lives, and nothing
    was done; `stopping`: the same, and it was cancelled; `finished`: nothing is left to do."""
    job: str
    """The launcher's id; empty where there is none."""
    changed: dict[str, Any]
    """Fields outside the identity that hold from now on: field -> [value in `spec.yaml`, value now]."""
    notes: list[str]
    """What the plan found worth knowing, such as what each corpus holds; empty where nothing was done."""


class MemberOutput(SubmitOutput):
    """One run of a sweep that was taken, or needed nothing."""

    overrides: list[str]
    """What makes it, `FIELD=VALUE` each; empty where runs were resumed."""


class FailedOutput(ErrorOutput):
    """One of several runs of which nothing came, with the fields of an error."""

    run: str
    """Name."""
    problem: str
    """Why, in one text."""


def failures(failed: Mapping[str, GmmlError]) -> list[FailedOutput]:
    """The runs of which nothing came, by name."""
    return [{**error_document(error), "run": name, "problem": str(error)} for name, error in failed.items()]


class ResumedOutput(FirstVersion):
    """What came of resuming several runs."""

    runs: list[MemberOutput]
    """Those that were taken or needed nothing."""
    failed: list[FailedOutput]
    """Those that were not taken."""


class SweepOutput(ResumedOutput):
    """What came of a sweep's submission."""

    sweep: str
    """Name, which stands for all its runs."""
    root: str
    """Folder or URL under which its runs lie."""


class CancelledOutput(TypedDict):
    """One run that was asked to stop."""

    run: str
    """Name."""
    url: str
    """Its folder or URL."""
    action: Literal["stopping", "stopped", "already", "finished"]
    """`stopping`: its attempt saves and leaves, or its queued job is cancelled; `stopped`: nothing worked on it, and
    nothing will before it is resumed; `already`: it was stopped before; `finished`: it has finished. After the last two
    nothing was done."""
    done: str
    """What was done, in words."""


class CancelOutput(FirstVersion):
    """What came of `gmml cancel`; empty lists where no run is at work."""

    runs: list[CancelledOutput]
    """Those that were asked to stop."""
    failed: list[FailedOutput]
    """Those that could not be."""


Outcome = Literal["finished", "ended", "at_work"]


class WaitedOutput(TypedDict):
    """One run that was waited for."""

    run: str
    """Name."""
    url: str
    """Its folder or URL."""
    outcome: Outcome
    """`ended`: nothing works on it any more and it has not finished; `at_work`: the time was over."""
    problem: str
    """Why it has not finished; empty where it has, or is at work."""


class WaitOutput(FirstVersion):
    """How runs ended that were waited for."""

    runs: list[WaitedOutput]
    """Each of them."""


class RemovedOutput(FirstVersion):
    """A run that was deleted."""

    run: str
    """Name."""
    url: str
    """Where it lay."""


class NewOutput(FirstVersion):
    """A job file that was written."""

    file: str
    """Its path."""
