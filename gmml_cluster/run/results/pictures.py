"""What a run's network made of the same images at its checkpoints: a JSON document each in `pictures/` of the run root.

They are kept because checkpoints are not: what was drawn of one that retention has dropped since can still be shown.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from gmml_cluster.run.root import RunRoot
from gmml_cluster.store.protocol import NotFound, Store
from gmml_cluster.store.verified import read_verified

FOLDER = "pictures"
VERSION = 1
UNTRAINED = -1
"""Step of the network before its first."""


def name_of(step: int, attempt: int, corpus: str) -> str:
    """Name of the document within the run root.

    Args:
        step, attempt: of the commit; step -1 and attempt 0 before the first step.
        corpus: identity of the corpus that the images are of.
    """
    which = "untrained" if step == UNTRAINED else f"{step:08d}-{attempt:04d}"
    return f"{FOLDER}/{which}-{hashlib.sha256(corpus.encode()).hexdigest()[:16]}.json"


def is_kept(store: Store, name: str) -> bool:
    """Whether the document is there.

    Raises:
        StorageError: the store does not answer.
    """
    try:
        store.stat(name)
    except NotFound:
        return False
    return True


def write(store: Store, name: str, document: Mapping[str, Any]) -> None:
    """Keep a document.

    Raises:
        StorageError: it cannot be written.
    """
    store.put(name, json.dumps({"version": VERSION, **document}).encode())


def kept(run: RunRoot) -> list[dict[str, Any]]:
    """The documents of a run with their `file`, by step; of several corpora those of the one that was drawn last alone.

    Raises:
        StorageError: the store does not answer, or a document stays damaged.
    """
    names = [found.name for found in run.store.list_objects(f"{FOLDER}/") if found.name.endswith(".json")]
    documents = [{**_read(run.store, name), "file": name} for name in names]
    known = [each for each in documents if each["version"] == VERSION]
    latest = max((each["made"] for each in known), default=None)
    corpora = [each["corpus"]["digest"] for each in known if each["made"] == latest]
    return sorted((each for each in known if each["corpus"]["digest"] in corpora), key=lambda each: each["step"])


def _read(store: Store, name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(read_verified(lambda: store.get(name), json.loads))
    return document
