"""What must hold of a run after all its disturbances; each function returns what does not, a line each."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from benchmarks.soak.disturb import Done
from benchmarks.soak.plan import ENDING, Kind
from gmml_cluster.errors import GmmlError
from gmml_cluster.run.history import History
from gmml_cluster.run.log import check
from gmml_cluster.run.results.comparison import parting
from gmml_cluster.run.root import RunRoot
from gmml_cluster.run.saving import retention
from gmml_cluster.run.uploads import metric_lines
from gmml_cluster.train.checkpoints.read import CheckpointReader

_CLOCK_S = 1.0
_STORAGE = ("storage", "lost", "start_failed")
CAUSES: Mapping[Kind, Sequence[str]] = {
    "rank": ("lost", "killed", "start_failed"),
    "notice": ("notice", "lost", "start_failed"),
    "supervisor": ("notice", "lost", "start_failed"),
    "machine": ("lost",),
    "pause": (),
    "store": _STORAGE,
    "outage": _STORAGE,
    "disk": _STORAGE,
}
"""Causes that the log may name where a disturbance ended an attempt. `lost` where nobody was left to write more: both
the notice and the reason of a start that is killed before it has met are known to nobody but us."""


def losses(run: RunRoot, undisturbed: RunRoot) -> list[str]:
    """Metric lines that lack, or differ from those of the undisturbed run."""
    lines = metric_lines(run.store, run.log.refresh())
    theirs = metric_lines(undisturbed.store, undisturbed.log.refresh())
    steps = [line["step"] for line in lines]
    found = [] if steps == list(range(len(steps))) else ["steps have no line each"]
    if len(theirs) < len(lines):
        found.append(f"the undisturbed run has {len(theirs)} steps and not {len(lines)}")
    differ = parting(lines, theirs)
    return found if differ is None else [*found, f"step {differ.step} differs: {dict(differ.fields)}"]


def checkpoints(run: RunRoot, undisturbed: RunRoot) -> tuple[list[str], int]:
    """Listed checkpoints that do not load or hold other bits than the undisturbed run's of that step.

    Returns:
        The faults, and how many could be compared with one of the undisturbed run.
    """
    history, theirs = run.log.refresh(), {c.step: c for c in undisturbed.log.refresh().commits}
    found, compared = [], 0
    for commit in history.commits:
        try:
            reader = CheckpointReader(run.store, commit.folder, commit.manifest)
            reader.verify(0, 1)
            for name in reader.shapes:
                reader.tensor(name)
        except GmmlError as error:
            found.append(str(error))
            continue
        other = theirs.get(commit.step)
        if other is not None:
            compared += 1
            calm = CheckpointReader(undisturbed.store, other.folder, other.manifest)
            if _checksums(reader) != _checksums(calm):
                found.append(f"{commit.folder}: other bits than the undisturbed run's of that step")
    return found, compared


def _checksums(reader: CheckpointReader) -> dict[str, Any]:
    return {file["file"]: file["crc32c"] for file in reader.manifest["files"]}


def orphans(run: RunRoot) -> list[str]:
    """What nothing refers to, and lies in the store all the same."""
    history, store = run.log.refresh(), run.store
    last = history.last_attempt
    names = [found.name for found in store.list_objects("checkpoints/")]
    starts = [found.name for found in store.list_objects("attempts/rendezvous/")]
    left = [*retention.orphans(history, last + 1, names), *retention.past_starts(history, last, starts)]
    unfinished = [write.name for prefix in ("checkpoints/", "attempts/") for write in store.unfinished(prefix)]
    return [f"{name}: nothing refers to it" for name in [*left, *unfinished]]


def account(run: RunRoot, done: Sequence[Done]) -> list[str]:
    """Attempts without an end, ends without a disturbance and the reverse, and faults of the log itself."""
    entries = [entry.document() for entry in run.log.read(0)]
    ends = first_ends(entries)
    claimed = [entry["attempt"] for entry in entries if entry["kind"] == "claim"]
    found = [f"attempt {number} has no end" for number in claimed if number not in ends]
    found += check(run.log)
    for number, end in ends.items():
        if number == claimed[-1]:
            continue
        if not _explained(end, done):
            found.append(f"attempt {number} ended with {end['cause']} and nothing was done to it: {end.get('message')}")
    return found + [
        f"{each.what.kind} {each.what.number}: the log has no end of what it ended"
        for each in done
        if each.what.kind in ENDING and not _in_log(each, entries)
    ]


def first_ends(entries: Sequence[Mapping[str, Any]]) -> dict[int, dict[str, Any]]:
    """The `end` that counts of each attempt, its cause the proved one."""
    found: dict[int, dict[str, Any]] = {}
    for entry in entries:
        if entry["kind"] == "end" and entry["attempt"] is not None:
            found.setdefault(entry["attempt"], dict(entry))
        if entry["kind"] == "cause" and entry["of"] in found:
            found[entry["of"]]["cause"] = entry["cause"]
    return found


def _explained(end: Mapping[str, Any], done: Sequence[Done]) -> bool:
    """Whether something was done to this attempt, or to the one before while it started, that ends with this cause."""
    return any(
        each.attempt <= end["attempt"] <= each.attempt + 1
        and each.began <= end["time"] + _CLOCK_S
        and end["cause"] in CAUSES[each.what.kind]
        for each in done
    )


def _in_log(each: Done, entries: Sequence[Mapping[str, Any]]) -> bool:
    """Whether what it ended is in the log: an attempt or a start with an `end`, or a start that claimed nothing.

    The latter, taken away before it had met, leaves nothing but its number: the next claim's restart is two above.
    """
    after = [entry for entry in entries if entry["time"] >= each.began - _CLOCK_S]
    if any(e["kind"] == "end" and e["attempt"] in (None, each.attempt, each.attempt + 1) for e in after):
        return True
    claims = [entry for entry in entries if entry["kind"] == "claim" and entry["attempt"] >= each.attempt]
    return any(
        one["submit"] != other["submit"] or other["restart"] > one["restart"] + 1 for one, other in pairwise(claims)
    )


def faults(run: RunRoot, undisturbed: RunRoot, done: Sequence[Done]) -> tuple[dict[str, list[str]], int]:
    """All of it by what must hold, and the number of checkpoints compared."""
    loaded, compared = checkpoints(run, undisturbed)
    return {
        "losses are the undisturbed run's, bit for bit": losses(run, undisturbed),
        "every listed checkpoint loads, with the undisturbed run's bits": loaded,
        "the store holds no orphan": orphans(run),
        "the log accounts for every attempt and disturbance": account(run, done),
        "nobody had to help": [f"{each.what}: {each.unexpected}" for each in done if each.unexpected],
    }, compared


def attempts_by_cause(history: History) -> dict[str, int]:
    """Attempts counted by cause, those that the fold has forgotten too."""
    found = dict(history.older)
    for attempt in history.attempts:
        cause = attempt.cause or "lost"
        found[cause] = found.get(cause, 0) + 1
    return found
