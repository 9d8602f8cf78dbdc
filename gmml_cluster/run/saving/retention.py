"""Which checkpoints stay, and how the others go: the log drops them first, their files are deleted after.

Files that nothing refers to (orphans) go with them, so that a run of many restarts does not grow without end.
"""

import re
import time
from collections.abc import Iterable, Iterator

from gmml_cluster.run.history import Commit, History
from gmml_cluster.run.log import Log
from gmml_cluster.run.protocol import drop, look
from gmml_cluster.store.protocol import Store

FORGOTTEN_S = 24 * 3600.0
"""Age from which on a write that did not end counts as abandoned; clocks of nodes and file servers differ by less."""
_FOLDER = re.compile(r"checkpoints/(\d+)-(\d+)/.+")
_MAPS = re.compile(r"maps/(\d+)-(\d+)/.+")
_PART = re.compile(r"attempts/(\d+)/.+")
_STARTS = "attempts/rendezvous/"
_START = re.compile(rf"{_STARTS}([^-]+)-.+-(\d+)\.json")


def to_drop(history: History, *, keep: int, keep_every: int | None) -> tuple[Commit, ...]:
    """Commits that are to be dropped, oldest first.

    Args:
        history: up to now.
        keep: the latest this many stay; at least 1.
        keep_every: a commit after a multiple of this many steps stays for good; None for no such rule.
    """
    old = history.commits[:-keep]
    return tuple(c for c in old if keep_every is None or (c.step + 1) % keep_every)


def orphans(history: History, attempt: int, names: Iterable[str]) -> Iterator[str]:
    """Files in checkpoint folders that no commit references and no live attempt can be writing.

    Only folders of this attempt and older ones, and of its own only those before its last commit: an attempt that was
    fenced and has not noticed yet then cannot delete what a later one writes.
    """
    live = {(commit.step, commit.attempt) for commit in history.commits}
    own = max((commit.step for commit in history.commits if commit.attempt == attempt), default=-1)
    for name in names:
        match = _FOLDER.fullmatch(name)
        if match is None:
            continue
        step, writer = int(match[1]), int(match[2])
        if (step, writer) not in live and (writer < attempt or (writer == attempt and step < own)):
            yield name


def unread_maps(history: History, attempt: int, names: Iterable[str]) -> Iterator[str]:
    """Files of maps that no attempt reads any more, or that were begun from a commit which is gone.

    An attempt that resumes from the oldest commit reads the maps that hold at the step after it, and all later ones.
    Those that a commit is the origin of stay with it: a pass may be making them now, or be continued.
    """
    live = {(commit.step, commit.attempt) for commit in history.commits}
    oldest = min((commit.step for commit in history.commits), default=-1) + 1
    ends = [*(maps.step for maps in history.maps[1:]), None]
    read = {
        (maps.of_step, maps.of_attempt)
        for maps, end in zip(history.maps, ends, strict=False)
        if end is None or end > oldest
    }
    for name in names:
        match = _MAPS.fullmatch(name)
        if match is None:
            continue
        origin = int(match[1]), int(match[2])
        if origin not in read and origin not in live and origin[1] <= attempt:
            yield name


def past_starts(history: History, attempt: int, names: Iterable[str]) -> Iterator[str]:
    """Address files, by which the ranks of a start find rank 0, of starts that are over: one is written a start.

    Over are the starts of a submit up to the one that became this attempt or an older one, and those of submits before
    the latest, which may claim no more. A later start may be waiting for its file right now.
    """
    known = [old for old in history.attempts if old.number <= attempt]
    for name in names:
        match = _START.fullmatch(name)
        if match is None:
            continue
        submit, restart = match[1], int(match[2])
        claimed = any(old.submit == submit for old in known)
        replaced = submit in history.unclaimed or (claimed and submit != history.submitted)
        if replaced or any(old.submit == submit and restart <= old.restart for old in known):
            yield name


def retire(store: Store, log: Log, attempt: int, *, keep: int, keep_every: int | None) -> None:
    """Drop what need not stay, and delete it with all orphans and unfinished writes; rank 0 does so after its commit.

    Args:
        store: the run root.
        log: of the run.
        attempt: this one.
        keep: see `to_drop`.
        keep_every: see `to_drop`.

    Raises:
        Fenced: a later attempt has claimed; nothing more is deleted.
    """
    for commit in to_drop(look(log, attempt), keep=keep, keep_every=keep_every):
        drop(log, attempt, commit)
    names = [found.name for found in store.list_objects("checkpoints/")]
    # the log is looked at after each listing: what is listed was written before, by an attempt that the log knows
    store.delete(orphans(look(log, attempt), attempt, names))
    writes = {write.name: write for write in store.unfinished("checkpoints/")}
    store.discard(writes[name] for name in orphans(look(log, attempt), attempt, writes))
    if look(log, attempt).maps:
        names = [found.name for found in store.list_objects("maps/")]
        store.delete(unread_maps(look(log, attempt), attempt, names))
    starts = [found.name for found in store.list_objects(_STARTS)]
    store.delete(past_starts(look(log, attempt), attempt, starts))
    # any process may be appending to the log right now, so only writes too old for a living process are discarded
    forgotten = time.time() - FORGOTTEN_S
    for prefix in ("log/", _STARTS):
        store.discard(write for write in store.unfinished(prefix) if write.since < forgotten)


def discard_parts(store: Store, log: Log, attempt: int) -> None:
    """Discard metric lines and logs that ranks of earlier attempts were writing when they were killed.

    Once an attempt, after its first commit: the parts of a long run are too many to be listed after each. A rank that
    is fenced and writes on loses lines of its log at most.

    Raises:
        Fenced: a later attempt has claimed; nothing is discarded.
    """
    writes = [(write, _PART.fullmatch(write.name)) for write in store.unfinished("attempts/")]
    look(log, attempt)
    store.discard(write for write, match in writes if match and int(match[1]) < attempt)
