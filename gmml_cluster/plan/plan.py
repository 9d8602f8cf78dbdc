"""The arithmetic of a run on a cluster, before anything is touched: what `--dry-run` prints."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gmml_cluster.errors import Fault, SpecError
from gmml_cluster.plan.machine import Machine, ranks_per_node, this_machine
from gmml_cluster.plan.memory import Memory, memory_of_rank
from gmml_cluster.plan.sample_layout import CorpusShape, SampleLayout, groups_of_rank, micro_batches
from gmml_cluster.plan.steps import epoch_steps, layout_of, steps_without_corpora, total_steps
from gmml_cluster.spec.cluster import ClusterProfile
from gmml_cluster.spec.job import JobSpec
from gmml_cluster.spec.rules import group_of
from gmml_cluster.spec.scalars import NodeRange


@dataclass(frozen=True)
class Share:
    """A step cut up among some number of ranks.

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
    """Share of the samples that a corpus was given by weight, and that its lanes achieve."""

    url: str
    lanes: int
    asked: float
    achieved: float


@dataclass(frozen=True)
class Plan:
    """A run on a cluster. None stands for what is known after indexing.

    Attributes:
        nodes: fewest and most nodes, after cuts.
        ranks: fewest and most ranks, after cuts.
        shares: a step at the fewest and at the most ranks.
        epoch_steps: steps an epoch of the first corpus takes.
        memory: of a rank at the fewest ranks, where it is greatest.
        step_flops: FLOP of a step, forward and backward, over all ranks.
        environment: variables set for every rank.
        secrets: names of variables passed on; values are written nowhere.
        words: what was cut, or is worth knowing.
    """

    launcher: str
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
    step_flops: int
    environment: dict[str, str]
    secrets: tuple[str, ...]
    words: tuple[str, ...]

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
    nodes, per_node, words = _place(job, profile, machine, layout)
    ranks = (nodes[0] * per_node, nodes[1] * per_node)
    lanes = layout or _lanes_alone(job)
    shares = None if lanes is None else tuple(_share(job, lanes, count) for count in sorted(set(ranks)))
    counts = job.method.counts(job.model, job.data.image_size)
    steps = steps_without_corpora(job.run, job.batch.size) if layout is None else total_steps(job, layout)
    epoch = None if layout is None else epoch_steps(layout)
    warmup = _warmup(job, epoch)
    if steps is not None and warmup is not None and warmup >= steps:
        words.append(f"the warm-up of {warmup} steps is no shorter than the run of {steps}: the peak is never reached")
    return Plan(
        launcher=profile.launcher,
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
        memory=memory_of_rank(counts, job.engine, ranks=ranks[0], images=_images(job, shares, ranks[0])),
        step_flops=counts.step_flops * job.batch.size,
        environment=dict(profile.environment),
        secrets=profile.secrets,
        words=tuple(words),
    )


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


def _place(
    job: JobSpec, profile: ClusterProfile, machine: Machine | None, layout: SampleLayout | None
) -> tuple[tuple[int, int], int, list[str]]:
    """Nodes and ranks of a node within the lanes, and what was cut."""
    nodes, per_node = job.resources.nodes, ranks_per_node(profile, machine)
    words: list[str] = []
    lanes, name = _most_ranks(job, layout)
    if profile.launcher == "local":
        nodes = _this_node(nodes, words)
    if profile.launcher == "local" and per_node > lanes:
        words.append(f"{per_node} ranks cut to {lanes}: a rank needs a lane, and there are {lanes} {name}")
        per_node = lanes
    if nodes.least * per_node > lanes:
        told = f"{nodes.least} of {per_node} ranks each have more ranks than {lanes} {name}; a rank needs a lane"
        cure = f"write {lanes // per_node} at most" if lanes >= per_node else f"use at most {lanes} ranks a node"
        raise SpecError(Fault("resources.nodes", f"{told}; {cure}, or raise batch.size or data.lanes"))
    most = min(nodes.most, lanes // per_node)
    if most < nodes.most:
        words.append(f"{nodes.most} nodes cut to {most}: a rank needs a lane, and there are {lanes} {name}")
    return (nodes.least, most), per_node, words


def _this_node(nodes: NodeRange, words: list[str]) -> NodeRange:
    if nodes.least > 1:
        told = f"{nodes.written} does not fit; the local launcher has this machine alone"
        raise SpecError(Fault("resources.nodes", f"{told}; write 1, or 1..{nodes.most}, or choose another --cluster"))
    if nodes.most > 1:
        words.append(f"{nodes.most} nodes cut to 1: the local launcher has this machine alone")
    return NodeRange(least=1, most=1)


def _most_ranks(job: JobSpec, layout: SampleLayout | None) -> tuple[int, str]:
    """Ranks at most, and what there are so many of."""
    if layout is not None:
        return layout.lanes, "lanes"
    if job.data.lanes != "auto":
        return job.data.lanes, "lanes"
    return job.batch.size // group_of(job), "groups a step"


def _share(job: JobSpec, layout: SampleLayout, ranks: int) -> Share:
    cut = micro_batches(layout, ranks, job.batch.micro)
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


def _images(job: JobSpec, shares: tuple[Share, ...] | None, ranks: int) -> int:
    """Images that the fullest rank holds at once; before indexing, of groups shared out evenly."""
    if shares is not None:
        return shares[0].micro_batch
    group = group_of(job)
    fullest = -(-job.batch.size // (group * ranks)) * group
    return fullest if job.batch.micro == "auto" else min(job.batch.micro, fullest)
