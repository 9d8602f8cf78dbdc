"""The arithmetic of a run on a cluster, before anything is written: what `--dry-run` prints."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gmml_cluster.errors import Fault, SpecError
from gmml_cluster.plan.gpu_time import GpuTime, gpu_time, too_little_to_do
from gmml_cluster.plan.machine import (
    Machine,
    RankMemory,
    gpus_of_node,
    memory_for_rank,
    ranks_per_node,
    this_machine,
)
from gmml_cluster.plan.memory import Memory, fitting_micro_batch, memory_of_rank
from gmml_cluster.plan.notes import foreign_recipe, memory_that_cannot_fit, warm_up_without_peak
from gmml_cluster.plan.sample_layout import CorpusShape, SampleLayout, groups_of_rank, micro_batches
from gmml_cluster.plan.steps import epoch_steps, layout_of, steps_without_corpora, total_steps
from gmml_cluster.spec.cluster import ClusterProfile
from gmml_cluster.spec.job import JobSpec
from gmml_cluster.spec.methods.counts import Counts
from gmml_cluster.spec.rules import group_of
from gmml_cluster.spec.scalars import NodeRange


@dataclass(frozen=True)
class Share:
    """How a step is shared among some number of ranks.

    Attributes:
        groups: groups of the emptiest and of the fullest rank.
        micro_batch: images a rank holds at once.
        padding_share: share of the computed groups that are copies.
    """

    ranks: int
    groups: tuple[int, int]
    micro_batch: int
    micro_batches: int
    padding_share: float


@dataclass(frozen=True)
class Mixing:
    """Share of the samples that a corpus has by its weight, and that its lanes achieve."""

    url: str
    lanes: int
    asked: float
    achieved: float


@dataclass(frozen=True)
class Plan:
    """A run on a cluster. None: known after indexing, unless said otherwise.

    Attributes:
        model: size, or width and depth, and the patch, in words.
        learning_rate: peak, after warm-up.
        nodes: fewest and most nodes, after cuts.
        ranks: fewest and most ranks, after cuts.
        shares: a step at the fewest and at the most ranks.
        epoch_steps: steps an epoch of the first corpus takes.
        memory: of a rank at the fewest ranks, where it is greatest.
        step_flops: FLOP of a step, forward and backward, over all ranks.
        environment: variables set for every rank.
        secrets: names of variables passed on; values are written nowhere.
        room: memory that a rank may use; None where it is not known here.
        gpu_time: what the run takes on GPUs; None on CPUs, and before the number of steps is known.
        notes: what was cut, and what a person should know before submitting.
    """

    launcher: str
    method: str
    model: str
    image_size: int
    learning_rate: float
    nodes: tuple[int, int]
    ranks_per_node: int
    ranks: tuple[int, int]
    batch: int
    group: int
    lanes: int | None
    window: int | None
    spans: int | None
    mixing: tuple[Mixing, ...] | None
    shares: tuple[Share, ...] | None
    epoch_steps: float | None
    warmup_steps: int | None
    steps: int | None
    samples: int | None
    epochs: float | None
    parameters: int
    memory: Memory
    room: RankMemory | None
    step_flops: int
    gpu_time: GpuTime | None
    environment: dict[str, str]
    secrets: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def node_range(self) -> NodeRange:
        """What is asked of the cluster."""
        return NodeRange(least=self.nodes[0], most=self.nodes[1])

    def to_json(self) -> dict[str, Any]:
        """Plain mapping, ready for JSON."""
        return {**asdict(self), "memory": self.memory.to_json()}


def make_plan(
    job: JobSpec,
    profile: ClusterProfile,
    shapes: Sequence[CorpusShape] | None = None,
    machine: Machine | None = None,
) -> Plan:
    """The plan of a job on a cluster.

    Args:
        job: what is trained.
        profile: where.
        shapes: the corpora as indexed; without them `samples` of the spec serves where every corpus has it.
        machine: a node; None means this machine for a local profile, and what the profile says for others.

    Raises:
        SpecError: the fewest ranks are more than there are lanes, or the layout does not fit.
    """
    layout = _layout(job, shapes)
    if machine is None and profile.launcher == "local":
        machine = this_machine()
    nodes, per_node, notes = _nodes_within_lanes(job, profile, machine, layout)
    ranks = (nodes[0] * per_node, nodes[1] * per_node)
    lanes = layout or _lanes_alone(job)
    counts = job.method.counts(job.model, job.data.image_size)
    room = memory_for_rank(profile, machine, per_node)
    on_gpus = gpus_of_node(profile, machine) > 0
    device_bytes = room.total_bytes if room is not None and on_gpus else None
    shares = None if lanes is None else tuple(_share(job, lanes, counts, n, device_bytes) for n in sorted(set(ranks)))
    steps = steps_without_corpora(job.run, job.batch.size) if layout is None else total_steps(job, layout)
    epoch = None if layout is None else epoch_steps(layout)
    warmup = _warmup(job, epoch)
    images = _images(job, shares, counts, ranks[0], device_bytes)
    memory = memory_of_rank(counts, job.engine, ranks=ranks[0], images=images)
    notes += [*warm_up_without_peak(warmup, steps), *memory_that_cannot_fit(memory, room), *foreign_recipe(job)]
    if on_gpus:
        smallest = shares[-1].micro_batch if shares else _images(job, None, counts, ranks[1], device_bytes)
        idle = too_little_to_do(counts, job.engine.precision, images=smallest, ranks=ranks[1])
        notes += [idle] if idle else []
    step_flops = counts.step_flops * job.batch.size
    return Plan(
        launcher=profile.launcher,
        method=job.method.name,
        model=_model(job),
        image_size=job.data.image_size,
        learning_rate=job.optim.peak_lr(job.batch.size),
        nodes=nodes,
        ranks_per_node=per_node,
        ranks=ranks,
        batch=job.batch.size,
        group=group_of(job),
        lanes=lanes.lanes if lanes else None,
        window=layout.window if layout else None if job.data.window == "auto" else job.data.window,
        spans=_spans(job, layout, indexed=shapes is not None),
        mixing=None if lanes is None else _mixing(job, lanes),
        shares=shares,
        epoch_steps=epoch,
        warmup_steps=warmup,
        steps=steps,
        samples=None if steps is None else steps * job.batch.size,
        epochs=None if steps is None or epoch is None else steps / epoch,
        parameters=counts.trained,
        memory=memory,
        room=room,
        step_flops=step_flops,
        gpu_time=gpu_time(steps * step_flops, job.engine.precision, ranks) if on_gpus and steps else None,
        environment=dict(profile.environment),
        secrets=profile.secrets,
        notes=tuple(notes),
    )


def micro_batch(job: JobSpec, layout: SampleLayout, ranks: int, device_bytes: int | None) -> int:
    """Images that every rank holds at once: `batch.micro`, or for `auto` what fits the device.

    Args:
        job: what is trained.
        layout: the run's layout.
        ranks: number of ranks.
        device_bytes: memory that every rank may use, the same number on all; None on CPUs.
    """
    return _micro_batch(job, layout, job.method.counts(job.model, job.data.image_size), ranks, device_bytes)


def _micro_batch(job: JobSpec, layout: SampleLayout, counts: Counts, ranks: int, device_bytes: int | None) -> int:
    share = max(groups_of_rank(layout, ranks, rank) for rank in range(ranks)) * layout.group
    return _held_at_once(job, counts, share, ranks, device_bytes)


def _held_at_once(job: JobSpec, counts: Counts, share: int, ranks: int, device_bytes: int | None) -> int:
    """Images of a micro-batch of a rank whose share of a step is known."""
    if job.batch.micro != "auto":
        return min(job.batch.micro, share)
    return fitting_micro_batch(
        counts, job.engine, ranks=ranks, group=group_of(job), share=share, device_bytes=device_bytes
    )


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


def _nodes_within_lanes(
    job: JobSpec, profile: ClusterProfile, machine: Machine | None, layout: SampleLayout | None
) -> tuple[tuple[int, int], int, list[str]]:
    """Nodes and ranks of a node, cut to the lanes, and notes of what was cut."""
    nodes, per_node = job.resources.nodes, ranks_per_node(profile, machine)
    notes: list[str] = []
    lanes, name = _most_ranks(job, layout)
    if profile.launcher == "local":
        nodes = _this_node(nodes, notes)
    if profile.launcher == "local" and per_node > lanes:
        notes.append(f"{per_node} ranks cut to {lanes}: a rank needs a lane, and there are {lanes} {name}")
        per_node = lanes
    if nodes.least * per_node > lanes:
        nodes_have = f"{nodes.least} {'node has' if nodes.least == 1 else 'nodes have'} {nodes.least * per_node} ranks"
        hint = f"write {lanes // per_node} at most" if lanes >= per_node else f"use at most {lanes} ranks a node"
        problem = f"{nodes_have}, {per_node} each, but there are {lanes} {name}; a rank needs a lane"
        raise SpecError(Fault("resources.nodes", problem, f"{hint}, or raise batch.size or data.lanes"))
    most = min(nodes.most, lanes // per_node)
    if most < nodes.most:
        notes.append(f"{nodes.most} nodes cut to {most}: a rank needs a lane, and there are {lanes} {name}")
    return (nodes.least, most), per_node, notes


def _this_node(nodes: NodeRange, notes: list[str]) -> NodeRange:
    if nodes.least > 1:
        problem = f"{nodes.written} does not fit; the local launcher has this machine alone"
        raise SpecError(Fault("resources.nodes", problem, f"write 1, or 1..{nodes.most}, or choose another --cluster"))
    if nodes.most > 1:
        notes.append(f"{nodes.most} nodes cut to 1: the local launcher has this machine alone")
    return NodeRange(least=1, most=1)


def _most_ranks(job: JobSpec, layout: SampleLayout | None) -> tuple[int, str]:
    """Ranks at most, and what there are so many of."""
    if layout is not None:
        return layout.lanes, "lanes"
    if job.data.lanes != "auto":
        return job.data.lanes, "lanes"
    return job.batch.size // group_of(job), "groups a step"


def _share(job: JobSpec, layout: SampleLayout, counts: Counts, ranks: int, device_bytes: int | None) -> Share:
    cut = micro_batches(layout, ranks, _micro_batch(job, layout, counts, ranks, device_bytes))
    groups = [groups_of_rank(layout, ranks, rank) for rank in range(ranks)]
    return Share(
        ranks=ranks,
        groups=(min(groups), max(groups)),
        micro_batch=cut.groups_per_micro * layout.group,
        micro_batches=cut.count,
        padding_share=cut.padding_share,
    )


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


def _warmup(job: JobSpec, epoch: float | None) -> int | None:
    warmup = job.optim.schedule.warmup
    if epoch is None and warmup.epochs is not None:
        return None
    return warmup.in_steps(batch=job.batch.size, epoch_steps=epoch or 0.0)


def _images(
    job: JobSpec, shares: tuple[Share, ...] | None, counts: Counts, ranks: int, device_bytes: int | None
) -> int:
    """Images that the fullest rank holds at once; before indexing, of groups shared out evenly."""
    if shares is not None:
        return shares[0].micro_batch
    group = group_of(job)
    share = -(-job.batch.size // (group * ranks)) * group
    return _held_at_once(job, counts, share, ranks, device_bytes)
