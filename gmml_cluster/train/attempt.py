"""One rank of one attempt, from finding its peers to leaving: meet, agree, load, train, save, end."""

import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, NoReturn

import torch
import torch.distributed as dist

from gmml_cluster.data.corpus import background_checksums
from gmml_cluster.data.reader.bad_samples import Limit
from gmml_cluster.data.reader.node_share import decode_threads, read_ahead_bytes
from gmml_cluster.data.reader.order import Order
from gmml_cluster.data.reader.stream import Stream
from gmml_cluster.errors import Fenced, StorageError
from gmml_cluster.methods.build import build
from gmml_cluster.methods.protocol import Method
from gmml_cluster.plan.plan import micro_batch
from gmml_cluster.plan.sample_layout import groups_of_rank, micro_batches
from gmml_cluster.plan.steps import epoch_steps
from gmml_cluster.run import protocol, retention
from gmml_cluster.run.codes import NEVER
from gmml_cluster.run.interval import between_interruptions_s, save_interval_s
from gmml_cluster.run.log import Log
from gmml_cluster.run.root import RunRoot, log_stem, metrics_stem, run_root
from gmml_cluster.spec.job import JobSpec
from gmml_cluster.train.checkpoints.load_trained import full_precision
from gmml_cluster.train.checkpoints.resume import Peers, load
from gmml_cluster.train.checkpoints.save import Saved, Saver
from gmml_cluster.train.checkpoints.warm_start import take_init
from gmml_cluster.train.engines.build import make_engine
from gmml_cluster.train.engines.engine import Engine
from gmml_cluster.train.engines.schedule import Schedule
from gmml_cluster.train.loop import LoopResult, Report, Stepper, run
from gmml_cluster.train.ranks.agreement import StartInfo, Terms, pinned_corpora, settle
from gmml_cluster.train.ranks.cluster_env import preemption_under_way, threads
from gmml_cluster.train.ranks.ending import CODES, Start, leave_alone, leave_early, settled, tell_end, tell_failed_start
from gmml_cluster.train.ranks.log_upload import FIRST_PUBLISH_S, PUBLISH_S, Parts, PartsHandler, log_format
from gmml_cluster.train.ranks.rendezvous import GROUP_TIMEOUT, START_S, KeyValueStore, RankInfo, meet
from gmml_cluster.train.ranks.shutdown import Leaving
from gmml_cluster.train.ranks.signals import Guardian, repeat

LOOK_S = 3.0
PROGRESS_S = 5.0

_log = logging.getLogger(__name__)


@dataclass
class Rank:
    """What a rank of an attempt holds from the agreement on."""

    run: RunRoot
    place: RankInfo
    board: KeyValueStore
    guardian: Guardian
    leaving: Leaving
    terms: Terms
    job: JobSpec
    metrics: Parts
    began: float
    start: Start

    @property
    def is_rank_zero(self) -> bool:
        """Whether this rank writes the log."""
        return self.place.rank == 0


def run_attempt(incarnation: StartInfo, guardian: Guardian) -> NoReturn:
    """Run this rank and end the process."""
    began = time.monotonic()
    place = RankInfo.from_environment()
    root = run_root(incarnation.root, incarnation.run)
    guardian.watches = [lambda: leave_alone(guardian)]
    board, watched = meet(root.store, incarnation.key, place)
    start = Start()
    leaving = Leaving(place, watched, write_end=lambda error: tell_failed_start(root, incarnation, error))
    guardian.watches = [leaving.watch]
    if place.rank == 0:
        if preemption_under_way():
            guardian.orders.give("notice")
        leave_early(root, guardian, leaving, start)
        guardian.watches.append(lambda: leave_early(root, guardian, leaving, start))
    try:
        device = _device(place)
        terms, claim = _agree(root, incarnation, place, board, leaving, start)
        metrics = Parts(root.store, metrics_stem(terms.attempt), "jsonl")
        rank = Rank(root, place, board, guardian, leaving, terms, terms.job(root), metrics, began, start)
        leaving.write_end = lambda error: _end_failed(rank, error)
        _watch(rank)
        code = _train(rank, claim, device)
    except Fenced as fault:
        _log.info("%s", fault)
        code = NEVER
    except BaseException as error:
        leaving.fail(error)
    leaving.leave(code)


def _agree(
    root: RunRoot, incarnation: StartInfo, place: RankInfo, board: KeyValueStore, leaving: Leaving, start: Start
) -> tuple[Terms, protocol.Claim | None]:
    if place.rank != 0:
        return Terms(**board.wait("terms", timeout_s=START_S)), None

    def claimed(attempt: int) -> None:
        leaving.write_end = lambda error: tell_end(root, attempt, error)
        start.attempt = attempt

    terms, claim = settle(root, incarnation, place, claimed)
    board.set("terms", asdict(terms))
    return terms, claim


def _end_failed(rank: Rank, error: dict[str, Any]) -> None:
    try:
        rank.metrics.publish()
    finally:
        tell_end(rank.run, rank.terms.attempt, error, last_step=rank.start.last_step)


def _train(rank: Rank, claim: protocol.Claim | None, device: torch.device) -> int:
    _join_group(rank, device)
    engine, method = _engine(rank, device)
    loading = time.monotonic()
    commit, manifest = load(Peers(rank.run, rank.place, rank.board), claim, engine)
    init = rank.job.init if commit is None else None
    if init is not None:
        take_init(Peers(rank.run, rank.place, rank.board), rank.job, method, engine)
    load_s = time.monotonic() - loading
    first = 0 if commit is None else commit.step + 1
    if first >= rank.terms.steps:
        return _end(rank, "finished", first - 1)
    stepper = _stepper(rank, engine, method, device, manifest, first)
    saver = _saver(rank, engine, stepper, first)
    if rank.is_rank_zero:
        stepper.save_due = _clock(rank, saver)
        start_s = time.monotonic() - rank.began
        protocol.begin(
            rank.run.log,
            rank.terms.attempt,
            resumed=commit,
            init=init.model_dump() if init else None,
            step=first,
            micro=stepper.micro.groups_per_micro * stepper.group,
            start_s=start_s,
            load_s=load_s,
        )
    rank.start.training.set()
    every_steps = rank.job.checkpoint.every.steps
    outcome, last = run(
        stepper, saver, first=first, total=rank.terms.steps, every_steps=every_steps, write=_writer(rank)
    )
    saver.finish()
    return _end(rank, outcome, last)


def _device(place: RankInfo) -> torch.device:
    if torch.cuda.is_available():
        torch.cuda.set_device(place.local_rank)
        return torch.device("cuda", place.local_rank)
    torch.set_num_threads(threads(place.local_ranks) or torch.get_num_threads())
    return torch.device("cpu")


def _join_group(rank: Rank, device: torch.device) -> None:
    full_precision()
    if rank.job.engine.deterministic:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
        torch.use_deterministic_algorithms(True)
    backend = "nccl" if device.type == "cuda" else "gloo"
    store = dist.PrefixStore("group", rank.board.tcp)  # type: ignore[attr-defined]
    dist.init_process_group(
        backend, store=store, rank=rank.place.rank, world_size=rank.place.ranks, timeout=GROUP_TIMEOUT
    )


def _watch(rank: Rank) -> None:
    """Publish this rank's log and metrics from now on; on rank 0 look at the log of the run too."""
    store = rank.run.store
    log = Parts(store, log_stem(rank.terms.attempt, rank.place.rank), "log")
    handler = PartsHandler(log)
    handler.setFormatter(log_format(rank.place.rank))
    logging.getLogger().addHandler(handler)
    rank.leaving.last_words = log.publish
    for parts in (log, rank.metrics):
        repeat(PUBLISH_S, parts.publish, first_s=FIRST_PUBLISH_S)
    if rank.is_rank_zero:
        looking = Log(store)  # of its own: the saving thread's appends may hold the other for minutes
        repeat(LOOK_S, lambda: _look(rank, looking))


def _engine(rank: Rank, device: torch.device) -> tuple[Engine, Method]:
    method = build(rank.job)
    engine = make_engine(method.module, engine=rank.job.engine, optim=rank.job.optim, device=device)
    return engine, method


def _stepper(
    rank: Rank, engine: Engine, method: Method, device: torch.device, manifest: dict[str, Any], first: int
) -> Stepper:
    job, place = rank.job, rank.place
    pinned = pinned_corpora(rank.run, rank.terms.pinned)
    layout = rank.terms.order(pinned)
    background_checksums.start(pinned, place.ranks, place.rank)
    stream = Stream(
        Order(layout),
        pinned,
        job.data,
        seed=job.seed,
        views=method.views,
        ranks=place.ranks,
        rank=place.rank,
        first_step=first,
        threads=decode_threads(place.local_ranks),
        read_ahead_bytes=read_ahead_bytes(job.data.read_ahead, place.local_ranks),
    )
    return Stepper(
        job=job,
        method=method,
        engine=engine,
        batches=stream,
        course=Schedule.of(
            job.optim, batch=job.batch.size, run_steps=rank.terms.steps, epoch_steps=epoch_steps(layout)
        ),
        micro=micro_batches(layout, place.ranks, micro_batch(job, layout, place.ranks, _least_gpu_bytes(device))),
        groups=groups_of_rank(layout, place.ranks, place.rank),
        group=layout.group,
        place=place,
        device=device,
        orders=rank.guardian.orders,
        limit=Limit(pinned, job.data.max_bad),
        attempt=rank.terms.attempt,
        skipped_steps=list(manifest["skipped_steps"]),
        skips_in_a_row=manifest["skips_in_a_row"],
        bad=list(manifest["bad"]),
        unchecked=manifest["unchecked"],
    )


def _least_gpu_bytes(device: torch.device) -> int | None:
    """Memory of the smallest GPU of the ranks: all ranks must cut their share of a step alike. None on CPUs."""
    if device.type != "cuda":
        return None
    total = torch.tensor([torch.cuda.mem_get_info(device)[1]], device=device)
    if dist.is_initialized():
        dist.all_reduce(total, op=dist.ReduceOp.MIN)
    return int(total.item())


def _saver(rank: Rank, engine: Engine, stepper: Stepper, first: int) -> Saver:
    since = first

    def commit(saved: Saved, state: dict[str, Any]) -> None:
        nonlocal since
        rank.metrics.publish()
        protocol.commit(
            rank.run.log,
            rank.terms.attempt,
            step=saved.step,
            manifest=saved.manifest_sha256,
            size=saved.size,
            seconds=saved.seconds,
            skipped=[step for step in state["skipped_steps"] if step >= since],
            bad=state["bad"],
            unchecked=state["unchecked"],
        )
        since = saved.step + 1
        _log.info("checkpoint of step %d committed: %.1f MB in %.1f s", saved.step, saved.size / 1e6, saved.seconds)
        keep = rank.job.checkpoint
        try:
            retention.retire(
                rank.run.store, rank.run.log, rank.terms.attempt, keep=keep.keep, keep_every=keep.keep_every
            )
        except StorageError as error:
            _log.warning("%s; what was to be deleted goes after the next checkpoint", error)

    return Saver(
        rank.run.store,
        rank.board.connect(),
        rank.place,
        attempt=rank.terms.attempt,
        slices=engine.slices,
        commit=commit,
    )


def _clock(rank: Rank, saver: Saver) -> Callable[[], bool]:
    """Rank 0's: whether a save by time is due."""
    every, history = rank.job.checkpoint.every, rank.run.log.refresh()

    def due() -> bool:
        if every.steps is not None or saver.busy:
            return False
        between_s = between_interruptions_s(history, time.time())
        return saver.age_s >= (every.seconds or save_interval_s(saver.cost_s, between_s))

    return due


def _writer(rank: Rank) -> Callable[[Report], None]:
    """Keeps the metric lines and, every 5 s, tells how far the run is; silent on all ranks but rank 0."""
    tell = 0.0

    def write(report: Report) -> None:
        nonlocal tell
        if not rank.is_rank_zero:
            return
        rank.start.last_step = report.line["step"]
        rank.metrics.add(json.dumps(report.line))
        if time.monotonic() >= tell or report.line["step"] == rank.terms.steps - 1:
            tell = time.monotonic() + PROGRESS_S
            _log.info("%s", progress(report.line, rank.terms.steps))

    return write


def progress(line: dict[str, Any], steps: int) -> str:
    """One line for people: step, loss, learning rate, images a second, data wait, time left."""
    left = (steps - 1 - line["step"]) * line["batch"] / line["samples_per_s"]
    loss = "not finite" if line["loss"] is None else f"{line['loss']:.4f}"
    wait = 100 * line["data_wait_s"] / line["step_s"]
    return (
        f"step {line['step'] + 1}/{steps}  loss {loss}  lr {line['lr']:.2e}  {line['samples_per_s']:,.0f} img/s  "
        f"data wait {wait:.0f} %  left {timedelta(seconds=round(left))}"
    )


def _look(rank: Rank, log: Log) -> None:
    """Learn of a person's stop and of a younger attempt."""
    try:
        history = protocol.look(log, rank.terms.attempt)
    except Fenced as fault:
        _log.info("%s", fault)
        rank.leaving.leave(NEVER)
    if history.stopped is not None:
        rank.guardian.orders.give("cancelled")


def _end(rank: Rank, outcome: LoopResult, last: int) -> int:
    if rank.is_rank_zero:
        rank.metrics.publish()
        outcome = settled(rank.run, rank.terms.attempt, outcome)
        protocol.end(rank.run.log, rank.terms.attempt, outcome, step=last)
    _log.info("attempt %d ended: %s, the last step is %d", rank.terms.attempt, outcome, last)
    return CODES[outcome]
