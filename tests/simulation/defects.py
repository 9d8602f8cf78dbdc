"""Defects that the simulation must find, each put into the product by replacing one function of it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from gmml_cluster.launch import restart
from gmml_cluster.launch.local import lock
from gmml_cluster.run import protocol
from gmml_cluster.run.growth import Growth
from gmml_cluster.run.history import History
from gmml_cluster.run.log import Log
from gmml_cluster.run.saving import retention
from gmml_cluster.store.posix import PosixStore
from tests.simulation import bucket, folder

_advance, _retire = Log._advance, retention.retire


def _forgets_token(log: Log, token: str | None) -> object:
    return _advance(log, None)


def _deletes_first(store: object, log: Log, attempt: int, *, keep: int, keep_every: int | None) -> None:
    for commit in retention.to_drop(log.refresh(), keep=keep, keep_every=keep_every):
        store.delete([found.name for found in store.list_objects(commit.folder)])
    _retire(store, log, attempt, keep=keep, keep_every=keep_every)


def _renames(store: PosixStore, temporary: folder.Path, path: folder.Path) -> None:
    folder.System.replace(temporary, path)


def _puts(self: bucket.Bucket, *, IfNoneMatch: str = "", **request: object) -> object:
    return _put_object(self, **request)


_refusal = protocol.refusal
_put_object = bucket.Bucket.put_object


def _knows_its_own_job_alone(history: History, submit: str, job: str, restart: int) -> str | None:
    own = tuple(attempt for attempt in history.attempts if attempt.job == job)
    return _refusal(replace(history, attempts=own), submit, job, restart)


def _grows_at_once(growth: Growth, could: int, last_commit: Callable[[], int]) -> bool:
    growth.proof = f"there is room for {could} nodes"
    return could > growth.nodes


DEFECTS: dict[str, tuple[tuple[object, str, Callable[..., object]], ...]] = {
    "a fenced attempt is not stopped": ((protocol, "demand_latest", lambda log, history, attempt: None),),
    "an entry is not recognised after a lost reply": ((Log, "_advance", _forgets_token),),
    "files go before their drop": ((retention, "retire", _deletes_first),),
    "a fenced start is requeued": ((restart, "_is_past", lambda history, start: False),),
    "any job may claim": ((protocol, "refusal", lambda history, submit, job, restart: None),),
    "a start does not know its successor": ((protocol, "refusal", _knows_its_own_job_alone),),
    "a supervisor's locks hold nobody": ((lock, "take", lambda file, kind: True),),
    "a run grows without a checkpoint": ((Growth, "is_due", _grows_at_once),),
    "a slot may be created again": ((PosixStore, "_link", _renames), (bucket.Bucket, "put_object", _puts)),
}

CONDITIONS: dict[str, dict[str, Any]] = {
    "a fenced attempt is not stopped": {"cluster": "slurm", "only": "a person takes over"},
    "any job may claim": {"cluster": "slurm", "only": "a person takes over"},
    "a fenced start is requeued": {"cluster": "slurm", "only": "a person takes over"},
    "a start does not know its successor": {
        "cluster": "slurm",
        "requeues": False,
        "escapes": 1,
        "horizon": 1200.0,
    },
    "a supervisor's locks hold nobody": {"cluster": "local"},
    "a run grows without a checkpoint": {"cluster": "ray", "nodes_asked": 2, "room": (1, 1), "only": "a node joins"},
}
"""Under which a defect shows soon that seldom does."""


@contextmanager
def broken(name: str) -> Iterator[None]:
    """The product with one of the defects."""
    patches = [patch.object(*replacement) for replacement in DEFECTS[name]]
    for each in patches:
        each.start()
    try:
        yield
    finally:
        for each in patches:
            each.stop()
