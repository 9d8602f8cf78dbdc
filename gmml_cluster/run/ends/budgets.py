"""How often a run starts again by itself: what is left of the job's `retries`, and which nodes are to blame.

A function of the log. Counts run from the last checkpoint or the last submission, whichever is later.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields

from gmml_cluster.run.ends.causes import COUNTED, OUTSIDE
from gmml_cluster.run.history import Attempt, History

FIRST_PAUSE_S = 10.0
_STRIKES = 2


@dataclass(frozen=True)
class Budgets:
    """`retries` of the job; a submit's `bounds` hold those that it was made with.

    Attributes:
        failures: attempts that may end by a counted cause within the run's own machines; the last stops the run.
        outages: attempts that may end by a cause of `OUTSIDE`.
        errors: attempts that may end by an error.
        longest_pause_s: before a start.
    """

    failures: int = 3
    outages: int = 20
    errors: int = 2
    longest_pause_s: float = 600.0


def budgets(history: History) -> Budgets:
    """Those of the latest submit."""
    given = history.submit.bounds.get("retries", {}) if history.submit else {}
    return Budgets(**{field.name: given[field.name] for field in fields(Budgets) if field.name in given})


def counted(history: History) -> list[str]:
    """The counted causes since the last checkpoint, starts that failed before their claim last."""
    causes = [attempt.cause for attempt in _tried(history) if attempt.number > _saved_by(history)]
    starts = history.submit.failed_starts if history.submit else 0
    return [*(cause for cause in causes if cause in COUNTED), *["start_failed"] * starts]


def spent(history: History) -> str | None:
    """Why the run is not started again after what is counted; None while something of the budget is left."""
    found, limits = counted(history), budgets(history)
    outages = [cause for cause in found if cause in OUTSIDE]
    failures = [cause for cause in found if cause not in OUTSIDE]
    for name, causes, most in (("failures", failures, limits.failures), ("outages", outages, limits.outages)):
        if len(causes) >= most:
            return f"no new checkpoint in {_listed(causes)}; retries.{name} is {most}"
    return None


def pause_s(tries: int, longest_s: float) -> float:
    """Seconds before the next start, after so many counted attempts: none, 10, 20, 40, up to the longest.

    The first try is at once: most causes are over when the processes are.
    """
    return 0.0 if tries < 2 else min(FIRST_PAUSE_S * 2.0 ** (tries - 2), longest_s)


def is_worth_a_try(history: History, attempt: Attempt) -> bool:
    """Whether an attempt that failed by the run's own code or data may be followed by another all the same.

    After an error of an attempt that made steps, as long as `retries.errors` lets it, and not where an attempt before
    ended with the same words: they name what failed, and it fails each time. After `out_of_memory` where less will be
    held, and otherwise as after an error.
    """
    if attempt.cause == "out_of_memory" and "micro" in attempt.details:
        return True
    if attempt.cause not in ("error", "out_of_memory") or attempt.last_step is None:
        return False
    earlier = [a for a in _tried(history) if a.cause == attempt.cause and a.number < attempt.number]
    if any(a.details.get("message") == attempt.details.get("message") for a in earlier):
        return False
    return sum(a.number >= _saved_by(history) for a in earlier) + 1 < budgets(history).errors


def to_exclude(history: History) -> dict[str, str]:
    """Nodes that the run is to avoid and does not yet, with the reason.

    One whose hardware failed is avoided at once, any other when it was to blame for two counted attempts. A store that
    fails does so everywhere, and whichever rank met it first is not to blame.
    """
    blamed: dict[str, list[Attempt]] = {}
    for attempt in history.attempts:
        if attempt.number <= history.forgiven:
            continue
        if attempt.cause in COUNTED and attempt.cause != "storage" and attempt.details.get("node"):
            blamed.setdefault(attempt.details["node"], []).append(attempt)
    return {
        node: " and ".join(f"attempt {attempt.number} ended with {attempt.cause}" for attempt in attempts)
        for node, attempts in blamed.items()
        if node not in history.excluded and (len(attempts) >= _STRIKES or attempts[0].cause == "hardware")
    }


def _tried(history: History) -> list[Attempt]:
    return [attempt for attempt in history.attempts if attempt.submit == history.submitted]


def _saved_by(history: History) -> int:
    return history.commits[-1].attempt if history.commits else 0


def _listed(causes: Sequence[str]) -> str:
    many = ", ".join(f"{count} x {cause}" for cause, count in Counter(causes).items())
    return f"{len(causes)} attempt{'s' if len(causes) > 1 else ''} ({many})"
