"""One rank of one attempt, from finding its peers to leaving: meet, agree, load, train, save, end."""

import logging
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, NoReturn

import torch

from gmml_cluster.data.corpus import background_checksums
from gmml_cluster.data.corpus.pin import Pin
from gmml_cluster.data.node_cache.open import open_node_cache
from gmml_cluster.data.reader.bad_samples import Limit
from gmml_cluster.data.reader.map_table import MapTable
from gmml_cluster.data.reader.node_share import decode_threads, read_ahead_bytes
from gmml_cluster.data.reader.order import Order
from gmml_cluster.data.reader.stream import Stream
from gmml_cluster.errors import Fenced
from gmml_cluster.methods.build import build
from gmml_cluster.methods.protocol import Method, Multiplies
from gmml_cluster.plan.sample_layout import MicroBatches, SampleLayout, groups_of_rank, micro_batches
from gmml_cluster.plan.shares import micro_batch
from gmml_cluster.plan.steps import epoch_steps
from gmml_cluster.run import protocol
from gmml_cluster.run.codes import NEVER
from gmml_cluster.run.growth import NO_COMMIT, Growth
from gmml_cluster.run.history import Commit, Maps
from gmml_cluster.run.log import Log
from gmml_cluster.run.root import RunRoot, log_stem, metrics_stem, run_root
from gmml_cluster.running_time import running_time
from gmml_cluster.spec.engine import Zero
from gmml_cluster.spec.job import JobSpec
from gmml_cluster.spec.methods.registry import mask_table_of, wants_labels
from gmml_cluster.train.checkpoints.load_trained import full_precision
from gmml_cluster.train.checkpoints.resume import Peers, load
from gmml_cluster.train.checkpoints.save import Saver
from gmml_cluster.train.checkpoints.warm_start import take_init
from gmml_cluster.train.engines.adamw import unscaled
from gmml_cluster.train.engines.build import import_ahead, make_engine
from gmml_cluster.train.engines.engine import Engine
from gmml_cluster.train.engines.schedule import Schedule
from gmml_cluster.train.evaluation import Evaluate, Evaluation, Scored
from gmml_cluster.train.loop import run
from gmml_cluster.train.maps import MapMaker, map_table
from gmml_cluster.train.ranks import groups, slurm_growth, tracking
from gmml_cluster.train.ranks.agreement import Agreement, StartInfo, agree, pinned_corpora
from gmml_cluster.train.ranks.before_kill import BeforeKill
from gmml_cluster.train.ranks.cluster_env import may_grow, preemption_under_way
from gmml_cluster.train.ranks.devices import check_devices, choose_device, gather_devices, least_memory_bytes
from gmml_cluster.train.ranks.drill import rehearsed
from gmml_cluster.train.ranks.log_upload import FIRST_PUBLISH_S, PUBLISH_S, Parts, PartsHandler, log_format
from gmml_cluster.train.ranks.rendezvous import START_S, KeyValueStore, RankInfo, address_name, meet
from gmml_cluster.train.ranks.shutdown import Shutdown
from gmml_cluster.train.ranks.signals import SignalThread, repeat
from gmml_cluster.train.ranks.watchdog import LONGEST_S, watchdog
from gmml_cluster.train.records import Commits, StepRecord, save_clock
from gmml_cluster.train.stepper import LoopResult, Stepper

LOG_LOOK_S = 3.0

_log = logging.getLogger(__name__)


@dataclass
class Rank:
    """What a rank of an attempt holds from the agreement on."""

    run: RunRoot
    rank_info: RankInfo
    kv: KeyValueStore
    signals: SignalThread
    shutdown: Shutdown
    agreement: Agreement
    job: JobSpec
    metrics: Parts
    began: float
    until: int | None = None
    tracker: "subprocess.Popen[bytes] | None" = None

    @property
    def is_rank_zero(self) -> bool:
        """Whether this rank writes the log."""
        return self.rank_info.rank == 0

    @cached_property
    def pinned(self) -> Pin:
        """The corpora, read once: of millions of shards they are hundreds of megabytes."""
        return pinned_corpora(self.run, self.agreement.pinned)

    @cached_property
    def layout(self) -> SampleLayout:
        """The order of the corpora's samples."""
        return self.agreement.order(self.pinned)

    @property
    def end_step(self) -> int:
        """The step before which this attempt is done: all of the run's, or of a replay those up to its last."""
        steps = self.agreement.steps
        return steps if self.until is None else min(steps, self.until + 1)


def run_attempt(start: StartInfo, signals: SignalThread, evaluate: Evaluate) -> NoReturn:
    """Run this rank and end the process; `evaluate` makes what scores the weights where the job asks for it."""
    rank_info = RankInfo.from_environment()
    root = run_root(start.root, start.run)
    kv, watched = meet(root.store, start.key, rank_info)
    shutdown = Shutdown(rank_info, watched, root, start, signals.stop_request)
    if rank_info.rank == 0:
        signals.noticed = BeforeKill().notice
        if preemption_under_way():
            signals.stop_request.give("notice")
    signals.check = shutdown.check
    try:
        device = choose_device(rank_info)
        agreement, claim = _agree(start, rank_info, kv, shutdown, device)
        metrics = Parts(root.store, metrics_stem(agreement.attempt), "jsonl")
        job = agreement.job(root)
        rank = Rank(root, rank_info, kv, signals, shutdown, agreement, job, metrics, start.began, start.until)
        _upload_and_look(rank)
        if rank.is_rank_zero and rank.until is None:
            rank.tracker = tracking.start(root.url, job.metrics)
        code = _train(rank, claim, device, evaluate)
    except Fenced as fault:
        _log.info("%s", fault)
        code = NEVER
    except BaseException as error:
        shutdown.fail(error)
    shutdown.leave(code)


def _agree(
    start: StartInfo, rank_info: RankInfo, kv: KeyValueStore, shutdown: Shutdown, device: torch.device
) -> tuple[Agreement, protocol.Claim | None]:
    devices = gather_devices(kv, rank_info, device)
    if rank_info.rank != 0:
        import_ahead(kv.wait("engine", timeout_s=START_S), device)
        return Agreement(**kv.wait("agreement", timeout_s=START_S)), None
    for difference in check_devices(devices):
        _log.warning("%s", difference)
    shutdown.run.store.delete([address_name(start.key)])  # all ranks have met, and it holds their secret

    def read(zero: Zero) -> None:
        kv.set("engine", zero)
        import_ahead(zero, device)

    agreement, claim = agree(shutdown.run, start, rank_info, least_memory_bytes(devices), shutdown.claimed, read)
    kv.set("agreement", asdict(agreement))
    return agreement, claim


def _upload_and_look(rank: Rank) -> None:
    """From now on upload this rank's log, and metrics; on rank 0 read the run's log too."""
    store = rank.run.store
    log = Parts(store, log_stem(rank.agreement.attempt, rank.rank_info.rank), "log")
    handler = PartsHandler(log)
    handler.setFormatter(log_format(rank.rank_info.rank))
    logging.getLogger().addHandler(handler)
    rank.shutdown.upload_log, rank.shutdown.upload_metrics = log.publish, rank.metrics.publish
    for parts in (log, rank.metrics):
        repeat(PUBLISH_S, parts.publish, first_s=FIRST_PUBLISH_S)
    if rank.is_rank_zero:
        own = Log(store)  # the saving thread's appends may hold the lock of `rank.run.log` for minutes
        repeat(LOG_LOOK_S, lambda: _look(rank, own))


def _look(rank: Rank, log: Log) -> None:
    """Leave where a later attempt has claimed; request a stop where a person asked for one."""
    try:
        history = protocol.look(log, rank.agreement.attempt)
    except Fenced as fault:
        _log.info("%s", fault)
        rank.shutdown.leave(NEVER)
    if history.stopped is not None:
        rank.signals.stop_request.give("cancelled")


def _train(rank: Rank, claim: protocol.Claim | None, device: torch.device, evaluate: Evaluate) -> int:
    full_precision()
    if rank.job.engine.deterministic:
        groups.be_deterministic()
    groups.join(rank.kv, rank.rank_info, device)
    rank.shutdown.group_problem = groups.group_problem
    method = build(rank.job, drawn=not rank.agreement.resumes)
    engine = make_engine(
        method.module,
        engine=rank.job.engine,
        optim=rank.job.optim,
        device=device,
        multipliers=method.multipliers if isinstance(method, Multiplies) else unscaled,
    )
    loading = running_time()
    commit, manifest = load(Peers(rank.run, rank.rank_info, rank.kv), claim, engine)
    init = rank.job.init if commit is None else None
    if init is not None:
        take_init(Peers(rank.run, rank.rank_info, rank.kv), rank.job, method, engine)
    load_s = running_time() - loading
    first = 0 if commit is None else commit.step + 1
    evaluation = _evaluation(rank, method, engine, evaluate)
    if first >= rank.end_step:
        rank.shutdown.training()
        _catch_up(evaluation, first - 1)
        return rank.shutdown.end("finished", first - 1)
    table = _map_table(rank)
    stepper, stream = _stepper(rank, engine, method, device, manifest, first, table)
    maps = None if table is None else _map_maker(rank, table, stream, device)
    commits = _commits(rank, first)
    saver = _saver(rank, engine, commits, lambda: stepper.waited_s)
    if rank.is_rank_zero:
        stepper.save_due = save_clock(rank.job.checkpoint.every, rank.run.log.refresh(), saver)
        _begin(rank, stepper, commit, load_s, first)
        _look_for_nodes(rank)
    rank.shutdown.training()
    with stepper.left_out():
        stop = _catch_up(evaluation, first - 1)
    if stop:
        return rank.shutdown.end(stop, first - 1)
    return _run(rank, stepper, saver, commits, evaluation, maps)


def _evaluation(rank: Rank, method: Method, engine: Engine, evaluate: Evaluate) -> Evaluation | None:
    """What scores the weights between two steps; None where the job asks for no scores."""
    job, info = rank.job, rank.rank_info
    if job.evaluate is None:
        return None
    every = job.evaluate.every.in_steps(batch=job.batch.size, epoch_steps=epoch_steps(rank.layout))
    attempt, steps, stop_request = rank.agreement.attempt, rank.agreement.steps, rank.signals.stop_request
    return evaluate(Scored(rank.run, job, method, engine, info, attempt, max(1, every), steps, stop_request))


def _catch_up(evaluation: Evaluation | None, step: int) -> LoopResult:
    """Score the weights resumed from, where the attempt before was taken away between their commit and their score."""
    return evaluation.run(step) if evaluation is not None and step >= 0 and evaluation.due(step) else ""


def _begin(rank: Rank, stepper: Stepper, commit: Commit | None, load_s: float, first: int) -> None:
    init = rank.job.init if commit is None else None
    protocol.begin(
        rank.run.log,
        rank.agreement.attempt,
        resumed=commit,
        init=init.model_dump(exclude_none=True) if init else None,
        step=first,
        micro=stepper.micro.groups_per_micro * stepper.group,
        start_s=time.monotonic() - rank.began,
        load_s=load_s,
        suspended_s=running_time.stopped_s,
    )


def _look_for_nodes(rank: Rank) -> None:
    """Where the run has fewer nodes of SLURM than it may have, leave at a checkpoint once there are more."""
    log, attempt, info = Log(rank.run.store), rank.agreement.attempt, rank.rank_info
    submit, nodes = log.refresh().submit, info.ranks // info.local_ranks
    most = submit.bounds["nodes"][1] if submit is not None and may_grow() else nodes

    def last_commit() -> int:
        own = (commit.step for commit in log.refresh().commits if commit.attempt == attempt)
        return max(own, default=NO_COMMIT)

    if nodes < most:
        looks = slurm_growth.QueueLooks(Growth(nodes), most, last_commit, rank.signals.stop_request)
        repeat(slurm_growth.LOOK_S, looks.look)


def _map_table(rank: Rank) -> MapTable | None:
    """The maps of images that the method masks by, as the ranks agreed; None where it does not."""
    agreed = rank.agreement
    made = [Maps(**fields) for fields in agreed.maps]
    return map_table(rank.job, rank.layout, agreed.steps, rank.run.store, made)


def _map_maker(rank: Rank, table: MapTable, stream: Stream, device: torch.device) -> MapMaker:
    return MapMaker(
        run=rank.run,
        job=rank.job,
        rank_info=rank.rank_info,
        kv=rank.kv,
        attempt=rank.agreement.attempt,
        pinned=rank.pinned,
        table=table,
        stream=stream,
        stop_request=rank.signals.stop_request,
        device=device,
    )


def _run(
    rank: Rank, stepper: Stepper, saver: Saver, commits: Commits, evaluation: Evaluation | None, maps: MapMaker | None
) -> int:
    agreed, first = rank.agreement, commits.first
    record = StepRecord(
        rank.kv, rank.rank_info, rank.shutdown, rank.metrics, agreed.steps, rank.run.store, agreed.attempt
    )
    result, last = run(
        stepper,
        saver,
        first=first,
        total=rank.end_step,
        every_steps=rank.job.checkpoint.every.steps,
        write=rehearsed(record.write, rank.agreement.attempt, rank.rank_info),
        evaluation=evaluation,
        maps=maps,
    )
    watchdog.beat("the last save", LONGEST_S)
    saver.finish()
    if result != "notice":  # behind a notice the next attempt does it
        commits.finish()
    if result == "finished" and rank.is_rank_zero:
        rank.shutdown.upload_metrics()
        tracking.finish(rank.tracker)
    if result == "not_finite" and rank.is_rank_zero:
        return rank.shutdown.end(result, last, message=record.not_finite())
    return rank.shutdown.end(result, last)


def _stepper(
    rank: Rank,
    engine: Engine,
    method: Method,
    device: torch.device,
    manifest: dict[str, Any],
    first: int,
    maps: MapTable | None,
) -> tuple[Stepper, Stream]:
    job, info = rank.job, rank.rank_info
    pinned, layout = rank.pinned, rank.layout
    micro = _micro(rank, layout, device)
    background_checksums.start(pinned, info.ranks, info.rank)
    order, first_of_node = Order(layout), info.rank - info.local_rank
    stream = Stream(
        order,
        pinned,
        job.data,
        seed=job.seed,
        views=method.views,
        ranks=info.ranks,
        rank=info.rank,
        first_step=first,
        threads=decode_threads(info.local_ranks),
        read_ahead_bytes=read_ahead_bytes(job.data.read_ahead, info.local_ranks),
        labels=wants_labels(job.method),
        maps=maps,
        mask_table=mask_table_of(job.method),
        node_cache=open_node_cache(
            order, pinned, ranks=info.ranks, node_ranks=range(first_of_node, first_of_node + info.local_ranks)
        ),
    )
    stepper = Stepper(
        job=job,
        method=method,
        engine=engine,
        batches=stream,
        schedule=Schedule.of(
            job.optim, batch=job.batch.size, run_steps=rank.agreement.steps, epoch_steps=epoch_steps(layout)
        ),
        micro=micro,
        groups=groups_of_rank(layout, info.ranks, info.rank),
        group=layout.group,
        rank_info=info,
        device=device,
        stop_request=rank.signals.stop_request,
        limit=Limit(pinned, job.data.max_bad),
        attempt=rank.agreement.attempt,
        skipped_steps=list(manifest["skipped_steps"]),
        skips_in_a_row=manifest["skips_in_a_row"],
        bad=list(manifest["bad"]),
        unchecked=manifest["unchecked"],
    )
    return stepper, stream


def _micro(rank: Rank, layout: SampleLayout, device: torch.device) -> MicroBatches:
    """How a step is cut, and what the next attempt does should this one run out of memory."""
    ranks, agreed = rank.rank_info.ranks, rank.agreement
    held = micro_batch(rank.job, layout, ranks, groups.least_gpu_bytes(device))
    if rank.job.batch.micro != "auto":
        return micro_batches(layout, ranks, held)
    cut = micro_batches(layout, ranks, min(held, agreed.most_held or held))
    rank.shutdown.smaller_micro = cut.groups_per_micro // 2 * layout.group or None
    return cut


def _commits(rank: Rank, first: int) -> Commits:
    keep = rank.job.checkpoint
    return Commits(rank.run, rank.agreement.attempt, rank.metrics, keep.keep, keep.keep_every, first)


def _saver(rank: Rank, engine: Engine, commits: Commits, waited_s: Callable[[], float]) -> Saver:
    return Saver(
        rank.run.store,
        rank.kv.connect(),
        rank.rank_info,
        attempt=rank.agreement.attempt,
        slices=engine.slices,
        commit=commits.append,
        waited_s=waited_s,
    )
