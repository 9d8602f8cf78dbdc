"""What the ranks of an attempt agree on before training: rank 0 reads the log and claims, and broadcasts the result."""

import importlib.metadata
import logging
import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch

from gmml_cluster.data.corpus.classes import class_faults
from gmml_cluster.data.corpus.listing import indexes_below
from gmml_cluster.data.corpus.pin import Pin, pin
from gmml_cluster.data.corpus.repin import repin
from gmml_cluster.data.reader.decode import VIEWS_VERSION, decoder_name, views_version
from gmml_cluster.errors import Fault, PreflightError, SpecError
from gmml_cluster.models.vit import attention_kernels
from gmml_cluster.plan.engine_choice import with_engine_chosen, with_zero
from gmml_cluster.plan.sample_layout import SampleLayout
from gmml_cluster.plan.steps import layout_of, total_steps
from gmml_cluster.run import protocol
from gmml_cluster.run.ends import consequences
from gmml_cluster.run.history import History
from gmml_cluster.run.ledger import change_in_words, platform_changes
from gmml_cluster.run.protocol import Claim
from gmml_cluster.run.root import RunRoot, corpora_name
from gmml_cluster.spec.engine import Zero
from gmml_cluster.spec.job import JobSpec
from gmml_cluster.store.probe import probe
from gmml_cluster.store.protocol import Store
from gmml_cluster.train.ranks.cluster_env import killed_before
from gmml_cluster.train.ranks.devices import processor
from gmml_cluster.train.ranks.rendezvous import RankInfo

_ROUNDED = "sums may be rounded otherwise from here on, so that losses need not be equal to the bit"
_DIFFERS = "pixels may differ in the last bit, and which samples are bad"
_VERSIONS = ("torch", "deepspeed", "numpy", "opencv-python-headless", "simplejpeg", "Pillow")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StartInfo:
    """Which start of which job this process belongs to, as the launcher says.

    Attributes:
        until: the last step that it makes, of a replay; None for that of the run.
        began: when the process started, by `time.monotonic`.
    """

    root: str
    run: str
    submit: str
    job: str
    restart: int
    until: int | None = None
    began: float = field(default_factory=time.monotonic)

    @property
    def key(self) -> str:
        """A name that no other start shares."""
        return f"{self.submit}-{self.job}-{self.restart}"


@dataclass(frozen=True)
class Agreement:
    """What holds for an attempt, on every rank alike.

    Attributes:
        changed: fields outside the identity that hold for this attempt: name -> [value in spec.yaml, value now].
        layout: the order of samples, without the shards' counts.
        pinned: digest of the pinned corpora.
        steps: updates of the whole run.
        zero: `engine.zero`, chosen where the job says `auto`: what the claim has.
        maps: those of images that the log has, as fields of `Maps`.
        most_held: images that a rank may hold at once, after attempts of this submit that ran out of memory; None
            where none did.
        resumes: whether the log has a checkpoint, so that no initial weight is of any use: it is loaded, or, where
            every one is damaged, the attempt fails.
    """

    attempt: int
    changed: dict[str, Any]
    layout: dict[str, Any]
    pinned: str
    steps: int
    zero: Zero
    maps: list[dict[str, Any]] = field(default_factory=list)
    most_held: int | None = None
    resumes: bool = False

    def job(self, run: RunRoot) -> JobSpec:
        """The run's spec with this attempt's changes, and its engine."""
        return with_zero(run.job(self.changed), self.zero)

    def order(self, pinned: Pin) -> SampleLayout:
        """The order of samples of the pinned corpora."""
        return SampleLayout.from_json(self.layout, pinned.shapes)


def agree(
    run: RunRoot,
    start: StartInfo,
    rank_info: RankInfo,
    device_bytes: int | None,
    claimed: Callable[[int], None],
    read: Callable[[Zero], None],
) -> tuple[Agreement, Claim]:
    """Rank 0's: probe the store, claim, and pin the corpora, or check that they still are what was pinned.

    Args:
        device_bytes: memory of the smallest GPU of the ranks; None on CPUs.
        claimed: called with the attempt's number as soon as it is claimed: from then on its `end` is owed.
        read: called with the engine as soon as it is chosen, before what takes long: to claim, to list the shards.

    Raises:
        Fenced: this job has no right to claim.
        PreflightError: the store lacks what a run needs.
        SpecError, DataError: the corpora do not fit the spec.
        ShardChanged: a shard no longer holds what was pinned.
    """
    probe(run.store)
    history = run.log.refresh()
    job = with_engine_chosen(run.job(history.submit.changed if history.submit else {}), rank_info.ranks, device_bytes)
    zero = job.engine.chosen_zero
    read(zero)
    claim = protocol.claim(
        run.log,
        submit=start.submit,
        job=start.job,
        restart=start.restart,
        start_s=time.monotonic() - start.began,
        topology=topology_fields(job, rank_info),
        machine=machine_fields(rank_info),
        proofs=partial(_proof, history, start),
        claimed=claimed,
    )
    # read again: another submit may have changed fields between the first look and the claim; the engine stays the
    # one that the claim has and that the other ranks import by now
    job = run.job(claim.changed)
    pinned = _pin(run, claim.attempt, job) if claim.pin is None else _pinned_before(run, claim.attempt, job, claim.pin)
    changed = dict(claim.changed)
    history = consequences.draw(run.log, start.submit)
    _warn_of_platform(history, claim.attempt)
    maps, most_held = [asdict(maps) for maps in history.maps], _most_held(history)
    agreed = Agreement(
        claim.attempt,
        changed,
        pinned["layout"],
        pinned["corpora"],
        pinned["steps"],
        zero,
        maps,
        most_held,
        resumes=bool(claim.commits),
    )
    return agreed, claim


def _warn_of_platform(history: History, attempt: int) -> None:
    """Say what this attempt runs on that the one before did not: a run carries its code, and not its packages."""
    for change in platform_changes(history):
        if change["attempt"] == attempt:
            _log.warning("unlike in the attempt before, %s; %s", change_in_words(change), _ROUNDED)


def _proof(history: History, start: StartInfo, number: int) -> tuple[str, str] | None:
    """Cause and proof of an attempt without an `end`, if it was the start of this job before this one; else None."""
    attempt = history.attempt(number)
    if attempt is None or (attempt.job, attempt.restart) != (start.job, start.restart - 1):
        return None
    return killed_before()


def _most_held(history: History) -> int | None:
    """What the `end` of attempts of the latest submit leaves to those after them."""
    ended = (attempt for attempt in history.attempts if attempt.submit == history.submitted)
    return min((attempt.details["micro"] for attempt in ended if "micro" in attempt.details), default=None)


def _pin(run: RunRoot, attempt: int, job: JobSpec) -> dict[str, Any]:
    pinned = pin(job.data.corpora, indexes(run))
    faults = class_faults(job, pinned.summaries)
    if faults:
        raise SpecError(faults)
    layout = layout_of(job, pinned.shapes)
    _put(run, pinned)
    fields = {"corpora": pinned.digest, "layout": layout.to_json(), "steps": total_steps(job, layout)}
    return dict(protocol.pin(run.log, attempt, {**fields, "decoder": decoder_name()}))


def _pinned_before(run: RunRoot, attempt: int, job: JobSpec, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The run's `pin`, brought up to date: shards that were rewritten with the same samples, a run that grew."""
    demand_same_views(run, fields["decoder"])
    old = pinned_corpora(run, fields["corpora"])
    now = repin(old, indexes(run))
    if now is not old:
        rewritten = len(set(now.files) - set(old.files))
        _log.warning("%d shards have another size or version than before, and the same samples", rewritten)
        _put(run, now)
        protocol.repin(run.log, attempt, now.digest, rewritten)
    if decoder_name() != fields["decoder"]:
        _log.warning("images are decoded by %s, the run began with %s; %s", decoder_name(), fields["decoder"], _DIFFERS)
    layout = SampleLayout.from_json(fields["layout"], now.shapes)
    steps = fields["steps"] if job.optim.schedule.samples is None else total_steps(job, layout)
    return {**fields, "corpora": now.digest, "steps": steps}


def demand_same_views(run: RunRoot, decoder: str) -> None:
    """Refuse a run whose images this code would decode or crop otherwise.

    Args:
        run: named in the error.
        decoder: what decoded its images, by its `pin`.

    Raises:
        PreflightError: it is of another version.
    """
    began_with = views_version(decoder)
    if began_with != VIEWS_VERSION:
        problem = f"it began with version {began_with} of decoding and cropping, this code has version {VIEWS_VERSION}"
        hint = "continue it with the code that it began with, or start a run under another name"
        raise PreflightError(Fault(run.name, f"{problem}, which gives other images", hint))


def _put(run: RunRoot, pinned: Pin) -> None:
    run.store.put(corpora_name(pinned.digest), pinned.to_bytes())


def pinned_corpora(run: RunRoot, digest: str) -> Pin:
    """The corpora as the first attempt found them."""
    return Pin.from_bytes(run.corpora(digest), indexes(run))


def indexes(run: RunRoot) -> Store:
    """Where indexes of shards lie that cannot lie beside them."""
    return indexes_below(run.root)


def topology_fields(job: JobSpec, rank_info: RankInfo) -> dict[str, Any]:
    """What grade B of exactness depends on, beside versions; see docs/reference/exactness.md."""
    return {
        "ranks": rank_info.ranks,
        "ranks_per_node": rank_info.local_ranks,
        "zero": job.engine.chosen_zero,
        "precision": job.engine.precision,
        "micro": job.batch.micro,
        "deterministic": job.engine.deterministic,
        "compile": job.engine.compile,
        "attention": ", ".join(attention_kernels(job.engine.deterministic)),
        "threads": torch.get_num_threads(),
    }


def machine_fields(rank_info: RankInfo) -> dict[str, Any]:
    """Where the attempt runs, and on what versions: of packages, and on GPUs of CUDA, cuDNN and NCCL."""
    versions = {name: _version(name) for name in _VERSIONS}
    nodes = rank_info.ranks // rank_info.local_ranks
    if not torch.cuda.is_available():
        return {"host": socket.gethostname(), "nodes": nodes, "device": processor(), **versions}
    return {
        "host": socket.gethostname(),
        "nodes": nodes,
        "device": torch.cuda.get_device_name(),
        **versions,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        "nccl": ".".join(map(str, torch.cuda.nccl.version())),  # type: ignore[no-untyped-call]
        # they choose algorithms and rings, and with them the order of sums
        "nccl_environment": {name: value for name, value in sorted(os.environ.items()) if name.startswith("NCCL_")},
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
