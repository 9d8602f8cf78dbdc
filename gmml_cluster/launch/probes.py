"""The jobs of `gmml eval --with attentive,finetune`: a run that begins from the encoder that is evaluated."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from gmml_cluster.data.corpus.classes import class_faults
from gmml_cluster.data.corpus.listing import list_shards, shared_shards
from gmml_cluster.data.corpus.summary import Summary
from gmml_cluster.errors import DataError, Fault, SpecError
from gmml_cluster.launch.checks.indexed import count, look_up
from gmml_cluster.launch.checks.mask_values import mask_value_faults
from gmml_cluster.run.results.evaluation_progress import head_name
from gmml_cluster.run.root import RunRoot, commit_of
from gmml_cluster.spec.job import CorpusSpec, JobSpec
from gmml_cluster.spec.loading.validate import dump, parse_job
from gmml_cluster.spec.methods.encoder_kind import EncoderKind, kind_of
from gmml_cluster.spec.methods.registry import mask_table_of

EPOCHS = {"attentive": 30.0, "finetune": 50.0, "segmentation": 30.0}
"""Passes over the bank; ours, for sets of some ten thousand images."""
_METHODS: dict[str, dict[str, Any]] = {"attentive": {}, "finetune": {"layer_decay": 0.75}, "segmentation": {}}
_LR = {"attentive": 5e-3, "finetune": 1e-3, "segmentation": 5e-3}
"""Of AdamW, whatever the batch; ours."""
_QUERIES = (32, 16, 8, 4, 2, 1)
_BATCHES = ((5120, 256), (1280, 64), (0, 16))
"""Least samples of a bank, and images a step, so that an epoch has at least some twenty."""
_WARM_UP = 0.1


@contextmanager
def _bank_is_blamed() -> Iterator[None]:
    """Faults of the corpus of a job that nobody wrote point at the option that it was made of."""
    try:
        yield
    except SpecError as error:
        of_bank = [(fault, "data.corpora.0.url" in fault.where) for fault in error.faults]
        raise type(error)([replace(fault, where="--bank") if is_it else fault for fault, is_it in of_bank]) from error


@_bank_is_blamed()
def probe_job(
    source: RunRoot,
    method: str,
    *,
    step: int | None,
    bank: str | None,
    image: str | None,
    epochs: float | None,
    image_size: int | None = None,
    masks: dict[str, Any] | None = None,
) -> JobSpec:
    """The job that trains `method` from a run's encoder on a bank with classes, with the run's own crops and flips.

    The same request gives the same name, so that a second one finds the run that the first has trained.

    Args:
        source: the run that is evaluated.
        method: of `EPOCHS`.
        step: its checkpoint; the latest by default.
        bank: URL of labelled shards; the run's first corpus by default.
        image: field of the images; that of the run's first corpus by default.
        epochs: passes over the bank; `EPOCHS` by default.
        image_size: side of the images that the encoder reads; the run's by default.
        masks: of segmentation: `classes` and `zero_ignored`.

    Raises:
        CheckpointError: there is no such checkpoint.
        SpecError: the bank has samples without a class.
    """
    theirs = source.job({})
    first = theirs.data.corpora[0]
    corpus = {"url": bank or first.url, "image": image or first.image}
    spec = _spec(theirs, method, corpus, epochs or EPOCHS[method])
    spec["init"] = {"run": source.url, "step": commit_of(source, step).step, "what": "encoder"}
    spec["data"]["image_size"] = image_size or theirs.data.image_size
    held = _held(parse_job({**spec, "name": "bank"}), source.root)
    spec["method"] |= masks or {"classes": max(held.greatest_label + 1, 2)}
    size = next(size for least, size in _BATCHES if held.samples >= least)
    spec["batch"] = {"size": size}
    spec["data"]["group"] = size if method == "attentive" else 8
    parsed = parse_job({**spec, "name": "bank"})
    faults = class_faults(parsed, [held]) or mask_value_faults(parsed, source.root, [held], "--classes")
    if faults:
        raise SpecError(faults)
    digest = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:8]
    return parse_job({**spec, "name": head_name(source.name, method, digest)})


def refuse_corpus(job: JobSpec, corpus: str, root: str) -> None:
    """Refuse a corpus on which the job's head could not be scored, before hours are spent on training it.

    Args:
        job: what `probe_job` gave.
        corpus: URL of the shards that are to be scored.
        root: where indexes may lie that are not beside their shards.

    Raises:
        SpecError: it shares shards with the bank.
        DataError: it has no shards, or nothing to compare with.
    """
    bank = job.data.corpora[0]
    shards, learnt = ([shard.url for shard in list_shards(url, bank.image)] for url in (corpus, bank.url))
    if shared := shared_shards(shards, learnt, "the bank"):
        raise SpecError(Fault("--corpus", f"{corpus} {shared}; what is trained on is not scored", "name other shards"))
    data = job.data.model_copy(update={"corpora": (CorpusSpec(url=corpus, image=bank.image),)})
    scored = job.model_copy(update={"data": data})
    held = _known(scored, root)
    if held is None:
        return
    if mask_table_of(job.method) is not None:
        if not held.masks:
            hint = "pack images with masks (gmml corpus pack --masks), or index an older corpus by index --anew"
            raise DataError(Fault("--corpus", f"no sample of {corpus} has a mask", hint))
        if faults := mask_value_faults(scored, root, [held], "--classes"):
            raise DataError(faults[0])
        return
    classes: int = getattr(job.method, "classes", 0)
    if not held.labelled:
        raise DataError(Fault("--corpus", f"no sample of {corpus} has a class", "name shards with a .cls for each"))
    if held.greatest_label >= classes:
        problem = f"{corpus} has the class {held.greatest_label}, but the bank has {classes}"
        raise DataError(Fault("--corpus", problem, "name a corpus of the same classes"))


def _spec(theirs: JobSpec, method: str, corpus: dict[str, Any], epochs: float) -> dict[str, Any]:
    given = dump(theirs)
    trains_encoder = method == "finetune"
    options: dict[str, Any] = {"name": method, "classes": 2, **_METHODS[method], "encoder": _encoder(theirs) or None}
    if method == "attentive":
        options["queries"] = next(queries for queries in _QUERIES if theirs.model.width % queries == 0)
    augment = {"crop": given["data"]["augment"]["crop"], "flip": given["data"]["augment"]["flip"]}
    decay = 0.05 if trains_encoder else 0.0
    return {
        "seed": theirs.seed,
        "model": {**given["model"], "drop_path": 0.1 if trains_encoder else 0.0},
        "method": options,
        "data": {
            "corpora": [corpus],
            "augment": augment,
            "normalise": given["data"]["normalise"],
            "group": 8,
        },
        "batch": {"size": 16},
        "optim": {
            "lr": _LR[method],
            "lr_per": None,
            "weight_decay": {"start": decay, "end": decay},
            "exempt": "vectors_and_positions",
            "clip": None,
            "schedule": {"law": "fractional", "warmup": f"{_WARM_UP * epochs:g} epochs", "final_lr": 0},
        },
        "run": {"epochs": epochs},
        "engine": {"zero": "ddp", "precision": theirs.engine.precision},
        "checkpoint": {"keep": 1},
    }


def _encoder(theirs: JobSpec) -> dict[str, Any]:
    """How the run's encoder is written; a plug-in's that says nothing of its own is held for a plain one."""
    return (kind_of(theirs.method) or EncoderKind()).written


def _held(job: JobSpec, root: str) -> Summary:
    """What the bank holds, by its indexes or, in folders, by the shards' headers."""
    known = _known(job, root)
    if known is None:
        url = job.data.corpora[0].url
        raise SpecError(
            Fault("--bank", f"{url} has no index, so its classes are not known", f"gmml corpus index {url}")
        )
    return known


def _known(job: JobSpec, root: str) -> Summary | None:
    """The same; None of an object store's shards without indexes."""
    held = (*look_up(job, root).held, *count(job).held)
    return next((summary for summary in held if summary is not None), None)
