"""Which checkpoints stay, and how the others go: the log drops them first, their files are deleted after."""

import re
from collections.abc import Iterator

from gmml_cluster.run.history import Commit, History
from gmml_cluster.run.log import Log
from gmml_cluster.run.protocol import drop, look
from gmml_cluster.store.protocol import Store

_FOLDER = re.compile(r"checkpoints/(\d+)-(\d+)/.+")


def victims(history: History, *, keep: int, keep_every: int | None) -> tuple[Commit, ...]:
    """Commits that are to be dropped, oldest first.

    Args:
        history: up to now.
        keep: the youngest this many stay; at least 1.
        keep_every: a commit after a multiple of this many steps stays for good; None for no such rule.
    """
    old = history.commits[:-keep]
    return tuple(c for c in old if keep_every is None or (c.step + 1) % keep_every)


def debris(history: History, attempt: int, names: list[str]) -> Iterator[str]:
    """Those of the names that lie in a checkpoint's folder which no commit names and nobody of account still writes.

    An attempt touches folders of its own and older numbers alone, and of its own only those before its last commit: a
    fenced attempt that does not know it yet can then harm nobody.
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


def retire(store: Store, log: Log, attempt: int, *, keep: int, keep_every: int | None) -> None:
    """Drop what need not stay and delete it with all debris, unfinished writes too; rank 0's, after its commit.

    Args:
        store: the run root.
        log: of the run.
        attempt: this one.
        keep: see `victims`.
        keep_every: see `victims`.

    Raises:
        Fenced: a younger attempt has claimed; nothing more is deleted.
    """
    for victim in victims(look(log, attempt), keep=keep, keep_every=keep_every):
        drop(log, attempt, victim)
    names = [found.name for found in store.list_objects("checkpoints/")]
    store.delete(debris(look(log, attempt), attempt, names))
    writes = {write.name: write for write in store.unfinished("checkpoints/")}
    store.discard(writes[name] for name in debris(look(log, attempt), attempt, list(writes)))
