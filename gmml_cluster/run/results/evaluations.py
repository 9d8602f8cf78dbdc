"""What evaluations found of a run: one JSON document each in its root, and an entry `score` in its log."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gmml_cluster.outputs.status import ScoreOutput
from gmml_cluster.run import protocol
from gmml_cluster.run.root import RunRoot
from gmml_cluster.run.uploads import Line
from gmml_cluster.store.verified import read_verified

FOLDER = "evaluations"
_FIGURES = ("score", "feature", "accuracy", "error", "samples")
_OF_CLASSES = ("metric", "pixel_accuracy", "iou")


def keep(run: RunRoot, document: Mapping[str, Any], attempt: int | None = None) -> str | None:
    """Write a document of an evaluation into the run root, then say so in its log; once, however often it is kept.

    Args:
        run: the run that was evaluated.
        document: with the `step` and the list `scores`, of which the log gets those that are `main`.
        attempt: that scores its own weights; None for `gmml eval`.

    Returns:
        Name of the file within the run root; None where there is no such run.

    Raises:
        StorageError: it cannot be written there.
        Fenced: a later attempt has claimed.
    """
    if not run.log.refresh().run:
        return None
    data = json.dumps(document, sort_keys=True, indent=1).encode()
    digest = hashlib.sha256(data).hexdigest()
    name = f"{_prefix(document['step'])}{digest[:16]}.json"
    if run.store.list_objects(name):
        # whoever wrote it may have been killed before the entry: only then is the log worth its many requests
        if any(entry.fields["file"] == name for entry in run.log.read() if entry.kind == "score"):
            return name
    else:
        run.store.put(name, data)
    main = [_figures(score) for score in document["scores"] if score["main"]]
    seconds = document.get("seconds")
    protocol.score(run.log, name, digest, step=document["step"], scores=main, attempt=attempt, seconds=seconds)
    return name


def find(run: RunRoot, step: int, asked: Mapping[str, Any]) -> dict[str, Any] | None:
    """The document that answers a request, where there is one.

    Args:
        run: the run that was evaluated.
        step: of the weights.
        asked: `protocol`; the digests `bank` and `corpus`; `scores`: pairs of score and feature, at least.

    Raises:
        StorageError: the store does not answer, or a document stays damaged.
    """
    for listed in run.store.list_objects(_prefix(step)):
        document = _read(run, listed.name)
        found = {(score["score"], score["feature"]) for score in document["scores"]}
        about = [document["step"], document["protocol"], document["bank"]["digest"], document["corpus"]["digest"]]
        if about == [step, asked["protocol"], asked["bank"], asked["corpus"]] and found >= set(asked["scores"]):
            return document
    return None


def _prefix(step: int) -> str:
    return f"{FOLDER}/{max(step, 0):08d}-"


def _figures(score: Mapping[str, Any]) -> dict[str, Any]:
    return {name: score[name] for name in _FIGURES}


def _settings(score: Mapping[str, Any]) -> dict[str, Any]:
    """The rate of a linear probe belongs to its result, as it was chosen on the bank; so do the figures of classes."""
    passed_over = {*_FIGURES, *_OF_CLASSES, "main", *(["lr"] if score["score"] == "linear" else [])}
    return {name: value for name, value in score.items() if name not in passed_over}


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


def table(documents: list[dict[str, Any]]) -> list[ScoreOutput]:
    """One row a main score of the documents: step, what was scored how, on what, accuracy and error in percent.

    `attempt` is that which scored its own weights while it trained; None for `gmml eval`.
    `settings` are those that make scores of one kind incomparable where they differ.
    """
    return [
        {
            "step": None if document["untrained"] else document["step"],
            "attempt": document.get("attempt"),
            "score": score["score"],
            "feature": score["feature"],
            "accuracy": score["accuracy"],
            "error": score["error"],
            "samples": score["samples"],
            "corpus": document["corpus"]["url"],
            "corpus_digest": document["corpus"].get("digest", ""),
            "bank": document["bank"]["url"],
            "bank_digest": document["bank"].get("digest", ""),
            "settings": {"bank images": document["bank"]["samples"], **_settings(score)},
        }
        for document in documents
        for score in document["scores"]
        if score["main"]
    ]


def name_of(score: Mapping[str, Any]) -> str:
    """Under which name a score stands among the figures of a step."""
    return f"{score['score']}_{score['feature']}"


def with_scores(lines: Sequence[Line], documents: Iterable[Mapping[str, Any]]) -> list[Line]:
    """Metric lines, those of steps that were scored while the run trained with `<score>_<feature>` in percent.

    They have `evaluation_s` too: the seconds that passed between that step and the next for it.
    """
    found: dict[int, Line] = {}
    for document in documents:
        if document.get("attempt") is not None:
            scores = {name_of(each): each["accuracy"] for each in document["scores"] if each["main"]}
            line = found.setdefault(document["step"], {"evaluation_s": 0.0})
            line.update(scores, evaluation_s=line["evaluation_s"] + document["seconds"])
    return [{**line, **found.get(line["step"], {})} for line in lines]
