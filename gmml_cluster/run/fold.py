"""The pure function that adds an entry of the log to its history."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gmml_cluster.run import goodput
from gmml_cluster.run.entries import Entry
from gmml_cluster.run.history import Attempt, Commit, History, Maps, Submit

KEPT_ATTEMPTS = 50
_KEPT_UNCLAIMED = 20
_KEPT_PLATFORMS = 20
_DETAILS = ("rank", "host", "node", "message", "proof", "micro")
_MESSAGE_CHARACTERS = 500


def fold(history: History, entry: Entry) -> History:
    """The history with one more entry; the entry must be that of slot `history.slots`."""
    if entry.slot != history.slots:
        raise ValueError(f"entry of slot {entry.slot} folded into a history of {history.slots} slots")
    history = replace(history, account=goodput.add(history.account, entry, _trained_s(history, entry)))
    change = _CHANGES.get(entry.kind)
    changed = change(history, entry) if change else history
    return replace(changed, slots=entry.slot + 1)


def _trained_s(history: History, entry: Entry) -> float | None:
    """Training that the checkpoint holds which a `begin` continues; None where it continues none."""
    origin = entry.fields.get("resumed") if entry.kind == "begin" else None
    if origin is None:
        return None
    found = (c.trained_s for c in history.commits if (c.step, c.attempt) == (origin["step"], origin["attempt"]))
    return next(found, None)


def _open(history: History, entry: Entry) -> History:
    fields = entry.fields
    location = f"{fields['root']}/{fields['name']}" if "root" in fields else ""
    return replace(history, run=entry.run, opened=dict(fields), location=location)


def _submit(history: History, entry: Entry) -> History:
    fields = {name: entry.fields[name] for name in ("launcher", "code", "changed", "bounds")}
    submit = Submit(slot=entry.slot, token=entry.token, time=entry.time, **fields)
    location = entry.fields.get("location", history.location)
    unclaimed, before = history.unclaimed, history.submitted
    if before is not None and all(attempt.submit != before for attempt in history.attempts):
        unclaimed = (*unclaimed, before)[-_KEPT_UNCLAIMED:]
    lifted = replace(history, stopped=None, gave_up=False, finished=False)
    if submit.bounds.get("all_nodes"):
        lifted = replace(lifted, excluded={}, forgiven=history.last_attempt)
    return replace(lifted, location=location, submit=submit, unclaimed=unclaimed)


def _queued(history: History, entry: Entry) -> History:
    if history.submit is None or history.submit.token != entry.fields["submit"]:
        return history
    return replace(history, submit=replace(history.submit, job=entry.fields["job"]))


def _claim(history: History, entry: Entry) -> History:
    fields = {name: entry.fields[name] for name in ("submit", "job", "restart")}
    # until format 3 the field was called `layout`; logs that were written then are still read
    fields["topology"] = entry.fields["topology"] if "topology" in entry.fields else entry.fields["layout"]
    machine = entry.fields.get("machine", {})
    fields |= {name: machine[name] for name in ("host", "nodes") if name in machine}
    assert entry.attempt is not None
    submit = replace(history.submit, failed=None) if history.submit else None
    code, launcher = (submit.code, submit.launcher) if submit else ("", "")
    attempt = Attempt(number=entry.attempt, time=entry.time, code=code, launcher=launcher, **fields)
    kept, older = (*history.attempts, attempt), dict(history.older)
    for old in kept[:-KEPT_ATTEMPTS]:
        cause = old.cause or "lost"
        older[cause] = older.get(cause, 0) + 1
    platforms = _platforms(history.platforms, entry.attempt, machine)
    numbered = replace(history, submit=submit, last_attempt=entry.attempt, platforms=platforms)
    return replace(numbered, attempts=kept[-KEPT_ATTEMPTS:], older=older)


def _platforms(
    known: tuple[tuple[int, Mapping[str, Any]], ...], attempt: int, machine: Mapping[str, Any]
) -> tuple[tuple[int, Mapping[str, Any]], ...]:
    platform = {name: value for name, value in machine.items() if name not in ("host", "nodes")}
    if not platform or (known and known[-1][1] == platform):  # a claim of earlier versions has none
        return known
    return (*known, (attempt, platform))[-_KEPT_PLATFORMS:]


def _begin(history: History, entry: Entry) -> History:
    step, number = entry.fields["step"], entry.attempt
    assert number is not None
    begins = (*(begin for begin in history.begins if begin[1] < step), (number, step))
    begun = replace(history, begins=begins)
    attempt = history.attempt(number)
    if attempt is None:
        return begun
    # a claim precedes the pin and the ranks' devices, so it cannot say what `auto` comes to; old logs say it nowhere
    micro = entry.fields.get("micro", attempt.topology.get("micro"))
    return _with_attempt(begun, number, first_step=step, topology={**attempt.topology, "micro": micro})


def _pin(history: History, entry: Entry) -> History:
    if history.pin is None:
        return replace(history, pin=dict(entry.fields))
    if "repinned" not in entry.fields:
        return history
    return replace(history, pin={**history.pin, "corpora": entry.fields["corpora"]})


def _commit(history: History, entry: Entry) -> History:
    fields = entry.fields
    assert entry.attempt is not None
    trained_s = history.account.rank_s.get("training", 0.0)
    named = fields["step"], fields["manifest"], fields["bytes"]
    commit = Commit(entry.slot, entry.attempt, *named, trained_s, fields.get("seconds", 0.0))
    submit = replace(history.submit, failed_starts=0) if history.submit else None
    added = replace(history, commits=(*history.commits, commit), submit=submit)
    return _with_attempt(added, entry.attempt, last_step=commit.step)


def _map(history: History, entry: Entry) -> History:
    fields = entry.fields
    assert entry.attempt is not None
    if any(maps.step == fields["step"] for maps in history.maps):
        return history
    of = fields["of"]
    maps = Maps(
        entry.slot, entry.attempt, fields["step"], of["step"], of["attempt"], fields["manifest"], fields["bytes"]
    )
    return replace(history, maps=tuple(sorted((*history.maps, maps), key=lambda each: each.step)))


def _drop(history: History, entry: Entry) -> History:
    dropped = (entry.fields["step"], entry.fields["of"])
    return replace(history, commits=tuple(c for c in history.commits if (c.step, c.attempt) != dropped))


def _end(history: History, entry: Entry) -> History:
    fields = dict(entry.fields)
    if entry.attempt is None:
        return _start_failed(history, fields)
    attempt = history.attempt(entry.attempt)
    if attempt is None or attempt.ended:  # the first end counts
        return history
    cause, step = fields.pop("cause"), fields.pop("step", None)
    details = {name: fields[name] for name in _DETAILS if name in fields}
    if "message" in details:  # every later `sum` repeats it
        details["message"] = details["message"][:_MESSAGE_CHARACTERS]
    last = attempt.last_step if step is None else step
    ended = replace(history, finished=history.finished or cause == "finished")
    return _with_attempt(ended, entry.attempt, ended=cause, end_time=entry.time, last_step=last, details=details)


def _start_failed(history: History, fields: Mapping[str, Any]) -> History:
    if history.submit is None or history.submit.token != fields["submit"]:
        return history
    message, starts = str(fields.get("message", fields["cause"])), history.submit.failed_starts + 1
    return replace(history, submit=replace(history.submit, failed=message, failed_starts=starts))


def _cause(history: History, entry: Entry) -> History:
    attempt = history.attempt(entry.fields["of"])
    if attempt is None:
        return history
    details = {**attempt.details, **{name: entry.fields[name] for name in ("node", "proof") if name in entry.fields}}
    return _with_attempt(history, attempt.number, resolved=entry.fields["cause"], details=details)


def _exclude(history: History, entry: Entry) -> History:
    return replace(history, excluded={**history.excluded, entry.fields["node"]: entry.fields["reason"]})


def _stop(history: History, entry: Entry) -> History:
    return replace(history, stopped=entry.fields["reason"], gave_up=entry.fields.get("gave_up", False))


def _score(history: History, entry: Entry) -> History:
    """Only what an attempt spends on scoring its own weights; what was found changes nothing."""
    attempt = None if entry.attempt is None else history.attempt(entry.attempt)
    if attempt is None:
        return history
    seconds = attempt.evaluation_s + (entry.fields.get("seconds") or 0.0)
    return _with_attempt(history, attempt.number, evaluation_s=seconds)


def _with_attempt(history: History, number: int, **changes: Any) -> History:
    attempts = tuple(replace(a, **changes) if a.number == number else a for a in history.attempts)
    return replace(history, attempts=attempts)


_CHANGES = {
    "open": _open,
    "submit": _submit,
    "queued": _queued,
    "claim": _claim,
    "begin": _begin,
    "pin": _pin,
    "commit": _commit,
    "map": _map,
    "drop": _drop,
    "end": _end,
    "cause": _cause,
    "exclude": _exclude,
    "stop": _stop,
    "score": _score,
}
