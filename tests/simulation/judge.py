"""What must hold in every history, by an account of its own: nothing here folds with the product's code."""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import google_crc32c

_SLOT = re.compile(r"log/(\d{8})\.json")
_CHECKPOINT = re.compile(r"checkpoints/(\d+)-(\d+)/[^.].*")
_OWN = ("begin", "pin", "commit", "drop", "map", "score")
_FAILURES = ("hardware", "killed", "hang", "lost", "start_failed")
FAILURES = 3
"""Of `retries`, by default."""


class Broken(AssertionError):
    """A promise does not hold."""


@dataclass
class Account:
    """What the entries of one run say, counted here.

    Attributes:
        live: (step, attempt) -> manifest's SHA-256 of each checkpoint that exists.
        claims: attempt -> its claim.
        causes: attempt -> cause of its first `end`, or what a `cause` proved.
    """

    entries: list[dict[str, Any]] = field(default_factory=list)
    submit: str | None = None
    stopped: bool = False
    finished: bool = False
    finished_at: int | None = None
    claims: dict[int, dict[str, Any]] = field(default_factory=dict)
    causes: dict[int, str] = field(default_factory=dict)
    ends: dict[int, str] = field(default_factory=dict)
    live: dict[tuple[int, int], str] = field(default_factory=dict)
    last_commit_of: dict[int, int] = field(default_factory=dict)
    first_commit_of: dict[int, int] = field(default_factory=dict)
    last_step_of: dict[int, int] = field(default_factory=dict)

    @property
    def last(self) -> int:
        """The latest attempt."""
        return max(self.claims, default=0)


class Judge:
    """Watches every change of the store.

    Attributes:
        broken: what does not hold, in the order of time.
        removal: whether a removal has begun and no run was opened since.
        get: reads an object of the run; None where there is none.
    """

    def __init__(self, get: Callable[[str], bytes | None], who: Callable[[], str], note: Callable[..., None]) -> None:
        self.get, self._who, self._note = get, who, note
        self.account, self.broken, self.tokens = Account(), list[str](), set[str]()
        self.removal = False

    def changes(self, name: str, old: bytes | None, new: bytes | None) -> None:
        """An object of the run is about to change."""
        found, checkpoint = _SLOT.fullmatch(name), _CHECKPOINT.fullmatch(name)
        if new is None and old is not None and (found or checkpoint or name == "run.json") and self._removes():
            self._begin_removal()
        if self.removal and not (found and int(found[1]) == 0 and new is not None):
            return
        if found:
            self._slot(int(found[1]), old, new)
        elif checkpoint and (int(checkpoint[1]), int(checkpoint[2])) in self.account.live and new != old:
            self._break(f"{name} is {'deleted' if new is None else 'overwritten'} although a live commit names it")

    def _removes(self) -> bool:
        """Whether who deletes is a person's `rm`, or a submission that failed; attempts collect in the same folders."""
        return self._who().startswith(("rm", "submit"))

    def _begin_removal(self) -> None:
        """From here to the next `open` nothing of the run can be relied on: `gmml rm` cures what is left."""
        kinds = [entry["kind"] for entry in self.account.entries]
        withdrawn = any(entry.get("reason") == "its submission failed" for entry in self.account.entries)
        if not self.removal and self._who().startswith("submit") and "submit" in kinds and not withdrawn:
            self._break("a submission that failed deletes a run that others rely on")
        self.removal = True

    def judged(self, start: Any, seen: int, verdict: Any, what: str) -> None:
        """A verdict of restart on a start; `seen` slots were there before it read the log."""
        entries = self.account.entries[:seen]
        if not verdict.again or len(entries) < seen or self.removal:
            return
        key = (start.submit, start.job, start.restart)
        submits = [e["token"] for e in entries if e["kind"] == "submit"]
        claims = [e for e in entries if e["kind"] == "claim"]
        own = [e["attempt"] for e in claims if (e["submit"], e["job"], e["restart"]) == key]
        # a scheduler that gives two starts one number is told apart by nobody: see docs/reference/log.md
        if own and claims[-1]["attempt"] > own[-1] and claims[-1]["restart"] != start.restart:
            self._break(f"job {start.job}.{start.restart} starts again ({what}), though attempt {own[-1]} is fenced")
        if submits and submits[-1] != start.submit:
            self._break(f"job {start.job}.{start.restart} starts again ({what}), though there is a later submit")
        since = entries[[e["kind"] for e in entries].index("submit") :] if submits else []
        latest = max((i for i, e in enumerate(since) if e["kind"] == "submit"), default=0)
        if any(e["kind"] == "stop" or (e["kind"] == "end" and e["cause"] == "finished") for e in since[latest:]):
            self._break(f"job {start.job}.{start.restart} starts again ({what}), though the run is stopped or finished")
        if failures(entries, start.submit) >= FAILURES and failures(self.account.entries, start.submit) >= FAILURES:
            self._break(f"job {start.job}.{start.restart} starts again ({what}) after its retries are spent")

    # entries

    def _slot(self, slot: int, old: bytes | None, new: bytes | None) -> None:
        if new is None or (old is not None and old != new):
            self._break(f"slot {slot} is {'deleted' if new is None else 'written twice'}")
        if new is None or old is not None:
            return
        if self.removal:
            self.account, self.removal = Account(), False
        account = self.account
        entry = json.loads(new)
        if slot != len(account.entries):
            self._break(f"slot {slot} is created, though the first free one is {len(account.entries)}")
        if entry["token"] in self.tokens:
            self._break(f"slot {slot} repeats an entry")
        self.tokens.add(entry["token"])
        self._note(self._who(), f"slot {slot}", _named(entry))
        if account.entries and entry["run"] != account.entries[0]["run"]:
            self._break(f"slot {slot} is of another run")
        self._enter(entry)
        account.entries.append(entry)

    def _enter(self, entry: dict[str, Any]) -> None:
        account, kind, attempt = self.account, entry["kind"], entry["attempt"]
        if kind in _OWN and attempt is not None and attempt != account.last:
            self._break(f"{_named(entry)} by a fenced attempt: {account.last} has claimed")
        change = getattr(self, f"_{kind}", None)
        if change is not None:
            change(entry)

    def _submit(self, entry: dict[str, Any]) -> None:
        account = self.account
        account.submit, account.stopped, account.finished = entry["token"], False, False

    def _stop(self, entry: dict[str, Any]) -> None:
        self.account.stopped = True

    def _claim(self, entry: dict[str, Any]) -> None:
        account = self.account
        if entry["attempt"] != account.last + 1:
            self._break(f"{_named(entry)} follows attempt {account.last}")
        if entry["submit"] != account.submit or account.stopped or account.finished:
            self._break(f"{_named(entry)} without the right to")
        same = [c["restart"] for c in account.claims.values() if c["submit"] == entry["submit"]]
        if max(same, default=-1) > entry["restart"]:
            self._break(f"{_named(entry)}, though start {max(same)} of its submit has claimed")
        account.claims[entry["attempt"]] = entry

    def _begin(self, entry: dict[str, Any]) -> None:
        account, resumed = self.account, entry["resumed"]
        latest = list(account.live)[-1] if account.live else None
        if resumed is None and latest is not None:
            self._break(f"{_named(entry)} at the beginning, though {latest} is committed")
        if resumed is not None and (resumed["step"], resumed["attempt"]) != latest:
            self._break(f"{_named(entry)} continues {resumed}, but the latest commit is {latest}")

    def _commit(self, entry: dict[str, Any]) -> None:
        account, key = self.account, (entry["step"], entry["attempt"])
        if account.finished_at is not None and entry["step"] <= account.finished_at:
            self._break(f"{_named(entry)}, though the run finished with step {account.finished_at}")
        if key in account.live:
            self._break(f"{_named(entry)} twice")
        account.live[key] = entry["manifest"]
        account.last_commit_of[entry["attempt"]] = entry["step"]
        account.first_commit_of.setdefault(entry["attempt"], entry["step"])
        self.whole(key)

    def _drop(self, entry: dict[str, Any]) -> None:
        if self.account.live.pop((entry["step"], entry["of"]), None) is None:
            self._break(f"{_named(entry)}: there is no such checkpoint")
        if not self.account.live:
            self._break(f"{_named(entry)}: it was the only one")

    def _end(self, entry: dict[str, Any]) -> None:
        account, attempt = self.account, entry["attempt"]
        if attempt is None:
            if entry["submit"] != account.submit:
                self._break(f"{_named(entry)} for a submit that is not the latest")
            return
        if attempt in account.ends:
            self._break(f"{_named(entry)}: its second end")
        if attempt < account.last and entry["cause"] == "finished":
            self._break(f"{_named(entry)}: a fenced attempt finishes")
        account.ends.setdefault(attempt, entry["cause"])
        account.causes.setdefault(attempt, entry["cause"])
        account.last_step_of.setdefault(attempt, entry.get("step", -1))
        if entry["cause"] == "finished":
            account.finished, account.finished_at = True, entry.get("step")

    def _cause(self, entry: dict[str, Any]) -> None:
        if entry["of"] != self.account.last:
            self._break(f"{_named(entry)} of a fenced attempt")
        self.account.causes[entry["of"]] = entry["cause"]
        ended, saved = self.account.last_step_of.get(entry["of"], -1), self.account.first_commit_of
        if entry["proof"].startswith("there is room") and saved.get(entry["of"], ended) >= ended:
            self._break(f"{_named(entry)}: it was ended for more nodes without a checkpoint")

    # checkpoints

    def whole(self, key: tuple[int, int]) -> None:
        """Break where a committed checkpoint is not there to the byte."""
        step, attempt = key
        folder = f"checkpoints/{step:08d}-{attempt:04d}"
        manifest = self.get(f"{folder}/manifest.json")
        if manifest is None or hashlib.sha256(manifest).hexdigest() != self.account.live[key]:
            self._break(f"the manifest of {folder} is not the committed one")
            return
        for file in json.loads(manifest)["files"]:
            data = self.get(f"{folder}/{file['file']}")
            if data is None or len(data) != file["size"] or google_crc32c.value(data) != file["crc32c"][0]:
                self._break(f"{folder}/{file['file']} is not what its manifest says")

    def _break(self, problem: str) -> None:
        self._note("judge", "BROKEN", problem)
        self.broken.append(problem)


def failures(entries: list[dict[str, Any]], submit: str) -> int:
    """Attempts and starts of a submit that failed behind the last checkpoint; recounted from the entries."""
    causes: dict[int, str] = {}
    mine, saved_by, starts = set[int](), 0, 0
    for entry in entries:
        if entry["kind"] == "claim" and entry["submit"] == submit:
            mine.add(entry["attempt"])
        elif entry["kind"] == "commit":
            saved_by, starts = entry["attempt"], 0
        elif entry["kind"] == "end" and entry["attempt"] is None:
            starts += entry["submit"] == submit
        elif entry["kind"] == "end":
            causes.setdefault(entry["attempt"], entry["cause"])
        elif entry["kind"] == "cause":
            causes[entry["of"]] = entry["cause"]
    return starts + sum(a in mine and a > saved_by and cause in _FAILURES for a, cause in causes.items())


def _named(entry: dict[str, Any]) -> str:
    """An entry in a few words."""
    shown = {
        name: entry[name] for name in ("attempt", "step", "of", "cause", "submit", "job", "restart") if name in entry
    }
    if "submit" in shown:
        shown["submit"] = str(shown["submit"])[:6]
    token = f" token={entry['token'][:6]}" if entry["kind"] == "submit" else ""
    return " ".join([entry["kind"], *(f"{name}={value}" for name, value in shown.items() if value is not None)]) + token
