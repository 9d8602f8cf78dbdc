"""What evaluations found of a run: one JSON document each in its root, and an entry `score` in its log."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from gmml_cluster.run import protocol
from gmml_cluster.run.root import RunRoot
from gmml_cluster.store.verified import read_verified

FOLDER = "evaluations"


def keep(run: RunRoot, document: Mapping[str, Any]) -> str | None:
    """Write a document of `gmml eval` into the run root, then say so in its log; once, however often it is kept.

    Args:
        run: the run that was evaluated.
        document: with the `step` and the list `scores`, of which the log gets those that are `main`.

    Returns:
        Name of the file within the run root; None where there is no such run.

    Raises:
        StorageError: it cannot be written there.
    """
    if not run.log.refresh().run:
        return None
    data = json.dumps(document, sort_keys=True, indent=1).encode()
    digest = hashlib.sha256(data).hexdigest()
    name = f"{FOLDER}/{max(document['step'], 0):08d}-{digest[:16]}.json"
    if not run.store.list_objects(name):
        run.store.put(name, data)
        main = [_figures(score) for score in document["scores"] if score["main"]]
        protocol.score(run.log, name, digest, step=document["step"], scores=main)
    return name


def _figures(score: Mapping[str, Any]) -> dict[str, Any]:
    return {name: score[name] for name in ("score", "feature", "accuracy", "error", "samples")}


def kept(run: RunRoot) -> list[dict[str, Any]]:
    """The documents kept in a run's root, by step, then by name.

    Raises:
        StorageError: the store does not answer, or a document stays damaged.
    """
    names = [found.name for found in run.store.list_objects(f"{FOLDER}/")]
    return [_read(run, name) for name in names if name.endswith(".json")]


def _read(run: RunRoot, name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(read_verified(lambda: run.store.get(name), json.loads))
    return document


def table(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a main score of the documents: step, what was scored how, on what, accuracy and error in percent."""
    return [
        {
            "step": None if document["untrained"] else document["step"],
            **_figures(score),
            "corpus": document["corpus"]["url"],
            "corpus_digest": document["corpus"].get("digest", ""),
        }
        for document in documents
        for score in document["scores"]
        if score["main"]
    ]
