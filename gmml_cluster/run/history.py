"""What a log says so far: an immutable value, and the pure function that adds one entry to it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from gmml_cluster.run import goodput
from gmml_cluster.run.entries import Entry
from gmml_cluster.run.folders import checkpoint_folder, maps_folder
from gmml_cluster.run.goodput import RankTimeAccount

VERSION = 13
KEPT_ATTEMPTS = 50
_KEPT_UNCLAIMED = 20
_DETAILS = ("rank", "host", "node", "message", "proof", "micro")
_MESSAGE_CHARACTERS = 500


@dataclass(frozen=True)
class Commit:
    """A checkpoint: the log has its `commit` and no `drop` of it.

    Attributes:
        manifest: SHA-256 of its `manifest.json`.
        size: bytes of all its files.
        trained_s: rank-seconds of training that it holds, of all attempts.
        save_s: how long the save took.
    """

    slot: int
    attempt: int
    step: int
    manifest: str
    size: int
    trained_s: float = 0.0
    save_s: float = 0.0

    @property
    def folder(self) -> str:
        """Its folder within the run root."""
        return checkpoint_folder(self.step, self.attempt)


@dataclass(frozen=True)
class Maps:
    """The maps of all images that a pass over the corpora made; a `map` entry (docs/reference/maps.md).

    Attributes:
        step: the first step that reads them.
        of_step, of_attempt: the commit whose weights made them.
        manifest: SHA-256 of their `manifest.json`.
        size: bytes of all its files.
    """

    slot: int
    attempt: int
    step: int
    of_step: int
    of_attempt: int
    manifest: str
    size: int

    @property
    def folder(self) -> str:
        """Their folder within the run root."""
        return maps_folder(self.of_step, self.of_attempt)


@dataclass(frozen=True)
class Submit:
    """A `submit` entry: a request, of a person or of a job that needs a successor, to start or continue the run.

    Attributes:
        launcher: which launcher took it.
        job: id that the scheduler gave; None before its `queued`.
        code: digest of the code that its attempts run.
        changed: fields outside the identity that hold for its attempts: name -> [value in spec.yaml, value now].
        bounds: what was asked for, as the launcher's profile and the job say.
        failed: message of a job that ended without a claim; None once a job of this submit has claimed.
        failed_starts: how many have since the last checkpoint.
    """

    slot: int
    token: str
    time: float
    launcher: str
    code: str
    changed: Mapping[str, Any] = field(default_factory=dict)
    bounds: Mapping[str, Any] = field(default_factory=dict)
    job: str | None = None
    failed: str | None = None
    failed_starts: int = 0


@dataclass(frozen=True)
class Attempt:
    """One start of the run that won a claim.

    Attributes:
        topology: what exactness depends on; its `micro` is what the job says, from `begin` on the number of images.
        first_step: the step it began with; None before its `begin`.
        last_step: the last step by its `commit` or `end`; None before the first of them.
        ended: cause in its `end`; None as long as there is none.
        resolved: cause that a later `cause` entry proved.
        details: what its `end` adds, as far as known: message, rank, host, node (that is to blame), proof, micro.
        host, nodes: where rank 0 runs and on how many nodes, by the claim.
        launcher: which took the job, as the submit that it claimed for says.
        evaluation_s: seconds that it spent on scoring its own weights, as far as the scores were kept.
    """

    number: int
    submit: str
    job: str
    restart: int
    time: float
    code: str
    topology: Mapping[str, Any] = field(default_factory=dict)
    first_step: int | None = None
    last_step: int | None = None
    ended: str | None = None
    resolved: str | None = None
    end_time: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    launcher: str = ""
    host: str = ""
    nodes: int | None = None
    evaluation_s: float = 0.0

    @property
    def cause(self) -> str | None:
        """Why it ended: what was proved, else what its `end` says; None while it has no `end`."""
        return self.resolved or self.ended


@dataclass(frozen=True)
class History:
    """The fold of the entries in slots 0 to `slots` - 1.

    Attributes:
        run: the run's token; empty before `open`.
        opened: fields of `open`.
        location: folder or URL of the run, by `open` or the last submit that found it elsewhere; empty in logs of
            earlier versions, which do not record it.
        submit: the latest.
        unclaimed: tokens of the last 20 submits that a later one replaced before any of their jobs had claimed.
        last_attempt: number of the last claim; 0 before the first.
        attempts: the last 50, oldest first; causes of the older ones are counted in `older`.
        commits: checkpoints not dropped, oldest first.
        maps: of each step that begins with new ones, steps rising; the first entry of a step counts.
        begins: (attempt, first step) of the attempts whose steps count, steps rising: an attempt that begins at a step
            removes the earlier ones that began there or after it.
        pin: fields of the first `pin`, with the `corpora` of the last `pin` that has `repinned`.
        excluded: nodes that the run avoids, and why.
        forgiven: the last attempt before a submit that took all nodes again; it and those before blame none.
        stopped: reason of the last `stop`; None once a later submit lifted it.
        gave_up: whether no person stopped it, but its `retries` were spent.
        finished: whether there is an `end finished` and no later submit.
        account: where the time of the ranks went (docs/reference/goodput.md).
    """

    slots: int = 0
    run: str = ""
    opened: Mapping[str, Any] = field(default_factory=dict)
    location: str = ""
    submit: Submit | None = None
    unclaimed: tuple[str, ...] = ()
    last_attempt: int = 0
    attempts: tuple[Attempt, ...] = ()
    older: Mapping[str, int] = field(default_factory=dict)
    commits: tuple[Commit, ...] = ()
    maps: tuple[Maps, ...] = ()
    begins: tuple[tuple[int, int], ...] = ()
    pin: Mapping[str, Any] | None = None
    excluded: Mapping[str, str] = field(default_factory=dict)
    forgiven: int = 0
    stopped: str | None = None
    gave_up: bool = False
    finished: bool = False
    account: RankTimeAccount = field(default_factory=RankTimeAccount)

    @property
    def submitted(self) -> str | None:
        """Token of the latest submit; None before the first."""
        return self.submit.token if self.submit else None

    def attempt(self, number: int) -> Attempt | None:
        """The attempt of this number, if it is among those kept."""
        return next((attempt for attempt in self.attempts if attempt.number == number), None)

    def cut(self, attempt: int) -> int | None:
        """The first step that a later attempt made again; from it on the steps of this one do not count."""
        return next((step for number, step in self.begins if number > attempt), None)

    def to_sum(self) -> dict[str, Any]:
        """The history as JSON values, for the `sum` of an entry."""
        return {"version": VERSION, **asdict(self)}


def from_sum(values: Mapping[str, Any]) -> History | None:
    """The history that a `sum` holds; None where another version of the fold wrote it."""
    if values.get("version") != VERSION:
        return None
    fields = {name: value for name, value in values.items() if name != "version"}
    fields["submit"] = Submit(**fields["submit"]) if fields["submit"] else None
    fields["attempts"] = tuple(Attempt(**attempt) for attempt in fields["attempts"])
    fields["commits"] = tuple(Commit(**commit) for commit in fields["commits"])
    fields["maps"] = tuple(Maps(**maps) for maps in fields["maps"])
    fields["unclaimed"] = tuple(fields["unclaimed"])
    fields["begins"] = tuple((number, step) for number, step in fields["begins"])
    fields["account"] = RankTimeAccount(**fields["account"])
    return History(**fields)


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
    numbered = replace(history, submit=submit, last_attempt=entry.attempt)
    return replace(numbered, attempts=kept[-KEPT_ATTEMPTS:], older=older)


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
