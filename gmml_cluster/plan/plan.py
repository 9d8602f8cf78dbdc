"""The arithmetic of a run on a cluster, before anything is written: what `--dry-run` prints."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gmml_cluster.plan.engine_choice import memory_of_job, with_engine_chosen
from gmml_cluster.plan.evaluation import EvaluationPlan, LabelledCounts, evaluation_plan
from gmml_cluster.plan.gpu_time import PEAK_FLOPS, Cost, GpuTime, cost_of, gpu_time, too_little_to_do
from gmml_cluster.plan.machine import Machine, RankMemory, gpus_of_node, memory_for_rank, memory_of_node, this_machine
from gmml_cluster.plan.memory import Memory, checkpoint_bytes, moments_of, read_ahead_bytes
from gmml_cluster.plan.nodes import NodePlan, nodes_within_lanes
from gmml_cluster.plan.notes import (
    advice_of_method,
    costly_scores,
    engine_by_memory,
    masks_by_attention,
    memory_hint,
    memory_that_cannot_fit,
    read_ahead_that_cannot_fit,
    warm_up_without_peak,
)
from gmml_cluster.plan.sample_layout import CorpusShape, SampleLayout
from gmml_cluster.plan.shares import Share, counts_of, micro_batch_before_indexing, share_of
from gmml_cluster.plan.steps import epoch_steps, layout_of, steps_without_corpora, total_steps
from gmml_cluster.plan.throwing import MapsPlan, later_step_flops, maps_plan, total_flops
from gmml_cluster.spec.cluster import ClusterProfile
from gmml_cluster.spec.engine import Zero
from gmml_cluster.spec.job import JobSpec
from gmml_cluster.spec.rules import group_of
from gmml_cluster.spec.scalars import NodeRange


@dataclass(frozen=True)
class Mixing:
    """Share of the samples that a corpus has by its weight, and that its lanes achieve."""

    url: str
    """As the job names the corpus."""
    lanes: int
    """That it has."""
    asked: float
    """By its weight, 0 to 1."""
    achieved: float
    """By its lanes, 0 to 1."""


@dataclass(frozen=True)
class Plan:
    """A run on a cluster. None: known after indexing, unless said otherwise."""

    launcher: str
    """What starts the ranks."""
    method: str
    """Its name."""
    model: str
    """Size, depth, width and patch, in words."""
    image_size: int
    """Side of a view in pixels."""
    learning_rate: float
    """Peak, after the warm-up."""
    nodes: tuple[int, int]
    """Fewest and most, after cuts."""
    ranks_per_node: int
    """Ranks of a node."""
    ranks: tuple[int, int]
    """Fewest and most, after cuts."""
    batch: int
    """Images a step."""
    group: int
    """Consecutive samples that may be coupled."""
    lanes: int | None
    """Parallel streams through the corpora."""
    window: int | None
    """Samples shuffled together within a lane."""
    spans: int | None
    """Pieces of a shard."""
    mixing: tuple[Mixing, ...] | None
    """Of each corpus."""
    shares: tuple[Share, ...] | None
    """A step at the fewest and at the most ranks."""
    epoch_steps: float | None
    """Steps that an epoch of the first corpus takes."""
    warmup_steps: int | None
    """Steps of the warm-up."""
    steps: int | None
    """Steps of the run."""
    samples: int | None
    """Images drawn."""
    epochs: float | None
    """Passes over the first corpus."""
    parameters: int
    """Values that are trained."""
    checkpoint_bytes: int
    """Of one checkpoint's tensors, over all ranks."""
    zero: tuple[Zero, Zero]
    """`engine.zero` at the fewest and at the most ranks; of `auto` what is chosen."""
    memory: Memory
    """Of a rank at the fewest ranks, where each engine needs most."""
    room: RankMemory | None
    """Memory that a rank may use; None where it is not known here."""
    read_ahead_bytes: int | None
    """Host memory of a rank for `data.read_ahead`; None where the node's memory is not known here."""
    step_flops: int
    """FLOP of a step, forward and backward, over all ranks."""
    later_step_flops: int | None
    """Of one from AMT's start on; None without AMT."""
    total_flops: int | None
    """FLOP of all steps and of the passes that make AMT's maps."""
    maps: MapsPlan | None
    """AMT's passes over the corpora; None without AMT, or before indexing."""
    evaluation: EvaluationPlan | None
    """Scores between two steps; None where the job asks for none."""
    gpu_time: GpuTime | None
    """What the run takes on GPUs; None on CPUs, and before the number of steps is known."""
    cost: Cost | None
    """Of these GPU hours; None where they are not known, or the profile has no `price_per_gpu_hour`."""
    environment: dict[str, str]
    """Variables set for every rank."""
    secrets: tuple[str, ...]
    """Names of variables passed on; values are written nowhere."""
    notes: tuple[str, ...]
    """What was cut, and what a person should know before submitting."""

    @property
    def node_range(self) -> NodeRange:
        """What is asked of the cluster."""
        return NodeRange(least=self.nodes[0], most=self.nodes[1])

    def to_json(self) -> dict[str, Any]:
        """Plain mapping, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class _Length:
    """How long a run is; None where only the corpora can say."""

    epoch_steps: float | None
    warmup_steps: int | None
    steps: int | None

    @property
    def epochs(self) -> float | None:
        """Passes over the first corpus."""
        return None if self.steps is None or self.epoch_steps is None else self.steps / self.epoch_steps


@dataclass(frozen=True)
class _Need:
    """What a step costs a rank, and what it may use.

    Attributes:
        device_bytes: of the GPU it may use; None on CPUs, and where it is not known.
        zero: `engine.zero` as chosen, at the fewest and at the most ranks.
        images: that it holds at once, likewise.
    """

    on_gpus: bool
    room: RankMemory | None
    device_bytes: int | None
    zero: tuple[Zero, Zero]
    shares: tuple[Share, ...] | None
    images: tuple[int, int]
    memory: Memory
    read_ahead_bytes: int | None


@dataclass(frozen=True)
class _Work:
    """What the whole run computes; None where its length is not known, or it has none of it."""

    total_flops: int | None
    maps: MapsPlan | None
    evaluation: EvaluationPlan | None
    gpu_time: GpuTime | None


@dataclass(frozen=True)
class _Parts:
    """What a plan is put together of.

    Attributes:
        lanes: the layout, or the lanes alone where only the spec gives them.
        notes: on the memory, the warm-up and the method.
    """

    nodes: NodePlan
    layout: SampleLayout | None
    lanes: SampleLayout | None
    spans: int | None
    length: _Length
    need: _Need
    work: _Work
    notes: tuple[str, ...]


def make_plan(
    job: JobSpec,
    profile: ClusterProfile,
    shapes: Sequence[CorpusShape] | None = None,
    machine: Machine | None = None,
    labelled: LabelledCounts | None = None,
) -> Plan:
    """The plan of a job on a cluster.

    Args:
        job: what is trained.
        profile: where.
        shapes: the corpora as indexed; without them `samples` of the spec serves where every corpus has it.
        machine: a node; None means this machine for a local profile, and what the profile says for others.
        labelled: images with a class in the corpora of `evaluate`.

    Raises:
        SpecError: the fewest ranks are more than there are lanes, or the layout does not fit.
    """
    layout = _layout(job, shapes)
    if machine is None and profile.launcher == "local":
        machine = this_machine()
    nodes = nodes_within_lanes(job, profile, machine, layout)
    lanes = layout or _lanes_alone(job)
    length = _length(job, layout)
    need = _need(job, profile, machine, nodes, lanes)
    work = _work(job, layout, length, need, nodes, labelled or LabelledCounts())
    spans = _spans(job, layout, indexed=shapes is not None)
    notes = _notes(job, nodes, length, need, memory_of_node(profile, machine))
    return _plan(job, profile, _Parts(nodes, layout, lanes, spans, length, need, work, tuple(notes)))


def _plan(job: JobSpec, profile: ClusterProfile, parts: _Parts) -> Plan:
    nodes, layout, lanes = parts.nodes, parts.layout, parts.lanes
    length, need, work = parts.length, parts.need, parts.work
    return Plan(
        launcher=profile.launcher,
        method=job.method.name,
        model=_model(job),
        image_size=job.data.image_size,
        learning_rate=job.optim.peak_lr(job.batch.size),
        nodes=nodes.nodes,
        ranks_per_node=nodes.ranks_per_node,
        ranks=nodes.ranks,
        batch=job.batch.size,
        group=group_of(job),
        lanes=lanes.lanes if lanes else None,
        window=layout.window if layout else None if job.data.window == "auto" else job.data.window,
        spans=parts.spans,
        mixing=None if lanes is None else _mixing(job, lanes),
        shares=need.shares,
        epoch_steps=length.epoch_steps,
        warmup_steps=length.warmup_steps,
        steps=length.steps,
        samples=None if length.steps is None else length.steps * job.batch.size,
        epochs=length.epochs,
        parameters=counts_of(job).trained,
        checkpoint_bytes=checkpoint_bytes(counts_of(job), moments_of(job.optim)),
        zero=need.zero,
        memory=need.memory,
        room=need.room,
        read_ahead_bytes=need.read_ahead_bytes,
        step_flops=counts_of(job).step_flops * job.batch.size,
        later_step_flops=later_step_flops(job),
        total_flops=work.total_flops,
        maps=work.maps,
        evaluation=work.evaluation,
        gpu_time=work.gpu_time,
        cost=None if work.gpu_time is None else cost_of(work.gpu_time, profile.price_per_gpu_hour),
        environment=profile.variables,
        secrets=profile.secrets,
        notes=(
            *nodes.notes,
            *parts.notes,
            *masks_by_attention(work.maps, length.steps),
            *costly_scores(work.evaluation),
        ),
    )


def _length(job: JobSpec, layout: SampleLayout | None) -> _Length:
    epoch = None if layout is None else epoch_steps(layout)
    warmup = job.optim.schedule.warmup
    return _Length(
        epoch_steps=epoch,
        warmup_steps=None
        if epoch is None and warmup.epochs is not None
        else warmup.in_steps(batch=job.batch.size, epoch_steps=epoch or 0.0),
        steps=steps_without_corpora(job.run, job.batch.size) if layout is None else total_steps(job, layout),
    )


def _work(
    job: JobSpec, layout: SampleLayout | None, length: _Length, need: _Need, nodes: NodePlan, labelled: LabelledCounts
) -> _Work:
    precision = job.engine.precision
    flops = total_flops(job, layout, length.steps) if length.steps else None
    evaluation = evaluation_plan(
        job,
        steps=length.steps,
        epoch_steps=length.epoch_steps,
        run_flops=flops,
        labelled=labelled,
        slower=PEAK_FLOPS[precision] / PEAK_FLOPS["fp32"] if need.on_gpus else 1.0,
    )
    return _Work(
        total_flops=flops,
        maps=maps_plan(job, layout, length.steps) if length.steps else None,
        evaluation=evaluation,
        gpu_time=gpu_time(flops, precision, nodes.ranks) if flops and need.on_gpus else None,
    )


def _need(
    job: JobSpec, profile: ClusterProfile, machine: Machine | None, nodes: NodePlan, lanes: SampleLayout | None
) -> _Need:
    room = memory_for_rank(profile, machine, nodes.ranks_per_node)
    on_gpus = gpus_of_node(profile, machine) > 0
    device_bytes = room.total_bytes if room is not None and on_gpus else None
    fewest, most = nodes.ranks
    chosen = {ranks: with_engine_chosen(job, ranks, device_bytes) for ranks in sorted({fewest, most})}
    if lanes is None:
        shares = None
        images = [micro_batch_before_indexing(chosen[ranks], ranks, device_bytes) for ranks in nodes.ranks]
    else:
        shares = tuple(share_of(at, lanes, ranks, device_bytes) for ranks, at in chosen.items())
        images = [shares[0].micro_batch, shares[-1].micro_batch]
    return _Need(
        on_gpus=on_gpus,
        room=room,
        device_bytes=device_bytes,
        zero=(chosen[fewest].engine.chosen_zero, chosen[most].engine.chosen_zero),
        shares=shares,
        images=(images[0], images[1]),
        memory=memory_of_job(chosen[fewest], fewest, images[0]),
        read_ahead_bytes=read_ahead_bytes(job.data.read_ahead, memory_of_node(profile, machine), nodes.ranks_per_node),
    )


def _notes(job: JobSpec, nodes: NodePlan, length: _Length, need: _Need, node_bytes: int | None) -> Iterator[str]:
    """What a person should know before submitting."""
    yield from warm_up_without_peak(length.warmup_steps, length.steps)
    if job.engine.zero == "auto":
        yield engine_by_memory(job, need.zero[0], nodes.ranks[0], need.device_bytes, on_gpus=need.on_gpus)
    # on CPUs images that wait lie in the same memory as the model; beside GPUs the host's holds nothing else of size
    ahead = 0 if need.on_gpus else need.read_ahead_bytes or 0
    hint = memory_hint(need.memory, need.zero[0], nodes.ranks[0])
    yield from memory_that_cannot_fit(need.memory, need.room, ahead, hint)
    if need.on_gpus:
        yield from read_ahead_that_cannot_fit(need.read_ahead_bytes, nodes.ranks_per_node, node_bytes)
    yield from advice_of_method(job)
    if need.on_gpus:
        _, smallest = need.images
        idle = too_little_to_do(counts_of(job), job.engine.precision, images=smallest, ranks=nodes.ranks[1])
        yield from [idle] if idle else []


def _model(job: JobSpec) -> str:
    model = job.model
    size = f"{model.size}: " if model.size is not None else ""
    return f"{size}{model.depth} blocks of width {model.width:,}, patches of {model.patch_size} pixels"


def _layout(job: JobSpec, shapes: Sequence[CorpusShape] | None) -> SampleLayout | None:
    """The layout of a job's corpora as indexed, or as the spec counts them; None where neither knows all of them."""
    corpora = job.data.corpora
    if shapes is None:
        counted = [CorpusShape(corpus.weight, (corpus.samples,)) for corpus in corpora if corpus.samples is not None]
        if len(counted) < len(corpora):
            return None
        shapes = counted
    return layout_of(job, shapes)


def _lanes_alone(job: JobSpec) -> SampleLayout | None:
    """Lanes that the spec gives, of corpora that are not known: enough to share a step out, not to order samples."""
    if job.data.lanes == "auto":
        return None
    corpora = tuple(CorpusShape(corpus.weight, ()) for corpus in job.data.corpora)
    group = group_of(job)
    return SampleLayout(job.seed, job.batch.size, group, job.data.lanes, window=group, spans=1, corpora=corpora)


def _mixing(job: JobSpec, layout: SampleLayout) -> tuple[Mixing, ...]:
    weights = [corpus.weight for corpus in job.data.corpora]
    return tuple(
        Mixing(url=corpus.url, lanes=lanes, asked=corpus.weight / sum(weights), achieved=achieved)
        for corpus, lanes, achieved in zip(job.data.corpora, layout.lane_counts, layout.mixing, strict=True)
    )


def _spans(job: JobSpec, layout: SampleLayout | None, *, indexed: bool) -> int | None:
    if job.data.spans != "auto":
        return job.data.spans
    return layout.spans if layout is not None and indexed else None
