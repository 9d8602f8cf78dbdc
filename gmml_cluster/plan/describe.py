"""A plan as people read it, a line each."""

from collections.abc import Iterator

from gmml_cluster.plan.engine_choice import engine_name
from gmml_cluster.plan.evaluation import EvaluationPlan
from gmml_cluster.plan.gpu_time import GPU, GpuTime
from gmml_cluster.plan.memory import Memory
from gmml_cluster.plan.plan import Mixing, Plan
from gmml_cluster.plan.shares import Share
from gmml_cluster.plan.throwing import MapsPlan
from gmml_cluster.wording import counted

UNKNOWN = "known after indexing"


def describe(plan: Plan) -> list[str]:
    """The lines of a plan, their names in one column."""
    lines = list(_lines(plan))
    widest = max(len(name) for name, _ in lines)
    return [f"{name:<{widest}}  {text}" for name, text in lines]


def _lines(plan: Plan) -> Iterator[tuple[str, str]]:
    yield "method", plan.method
    yield "model", f"{plan.model}, images of {plan.image_size} pixels"
    yield "nodes", f"{_bounds(plan.nodes)} ({plan.launcher})"
    yield "ranks", f"{_bounds(plan.ranks)}, {plan.ranks_per_node} a node"
    groups = plan.batch // plan.group
    most = f"{counted(groups, 'rank')} at most"
    yield "batch", f"{counted(plan.batch, 'image')}, {counted(groups, 'group')} of {plan.group}: {most}"
    yield "lanes", _known(plan.lanes)
    if plan.mixing is None:
        yield "mixing", UNKNOWN
    for mixing in plan.mixing or ():
        yield "mixing", _mixing(mixing)
    if plan.shares is None:
        yield "each rank", f"groups, micro-batches and padding {UNKNOWN}"
    for share in plan.shares or ():
        yield f"each of {counted(share.ranks, 'rank')}", _share(share)
    yield "window", f"{_known(plan.window)} samples" if plan.window else UNKNOWN
    yield "spans a shard", _known(plan.spans)
    yield "steps", _known(plan.steps)
    yield "warm-up steps", _known(plan.warmup_steps)
    yield "learning rate", f"{plan.learning_rate:.4g} after the warm-up"
    yield "samples", _known(plan.samples)
    yield "epochs", UNKNOWN if plan.epochs is None else f"{plan.epochs:.2f} of {plan.epoch_steps:,.1f} steps"
    yield "parameters", f"{plan.parameters:,}"
    yield "checkpoint", _mebibytes(plan.checkpoint_bytes)
    yield "engine", _engine(plan)
    yield "memory a rank", _memory(plan.memory)
    if plan.room is not None:
        yield "it may use", f"{_mebibytes(plan.room.total_bytes)} ({plan.room.source})"
    if plan.read_ahead_bytes is not None:
        yield "read ahead", f"{_mebibytes(plan.read_ahead_bytes)} of a rank's host memory"
    yield "arithmetic", _arithmetic(plan)
    if plan.maps is not None:
        yield "maps", _maps(plan.maps)
    if plan.evaluation is not None:
        yield "evaluation", _evaluation(plan.evaluation)
    if plan.gpu_time is not None:
        yield "GPU time", _gpu_time(plan.gpu_time, plan.ranks)
    if plan.cost is not None:
        yield "cost", f"{plan.cost}, if the cluster's GPUs are as fast as that"
    yield "environment", " ".join(f"{name}={value}" for name, value in plan.environment.items()) or "nothing set"
    if plan.secrets:
        source = "those of Ray's nodes" if plan.launcher == "ray" else "from the submitting shell"
        yield "secrets", f"{', '.join(plan.secrets)} ({source}, shown nowhere)"
    for note in plan.notes:
        yield "note", note


def _bounds(bounds: tuple[int, int]) -> str:
    return f"{bounds[0]}" if bounds[0] == bounds[1] else f"{bounds[0]} to {bounds[1]}"


def _known(number: int | None) -> str:
    return UNKNOWN if number is None else f"{number:,}"


def _mixing(mixing: Mixing) -> str:
    lanes = counted(mixing.lanes, "lane")
    return f"{mixing.url}: {lanes}, {mixing.achieved:.2%} of the samples ({mixing.asked:.2%} asked)"


def _share(share: Share) -> str:
    images = counted(share.micro_batch, "image")
    cut = f"groups {_bounds(share.groups)}, micro-batches {share.micro_batches} of {images}"
    return f"{cut}, padding {share.padding_share:.1%}"


def _engine(plan: Plan) -> str:
    fewest, most = plan.zero
    at_most = "" if fewest == most else f"; {engine_name(most)} at {counted(plan.ranks[1], 'rank')}"
    return f"{engine_name(fewest)}{at_most}"


def _memory(memory: Memory) -> str:
    parts = {
        "parameters": memory.parameters_bytes,
        "gradients": memory.gradients_bytes,
        "optimizer": memory.optimizer_bytes,
        "buffers": memory.buffers_bytes,
        "activations": memory.activations_bytes,
        **({"evaluation": memory.evaluation_bytes} if memory.evaluation_bytes else {}),
    }
    listed = ", ".join(f"{name} {_mebibytes(count)}" for name, count in parts.items())
    return f"{_mebibytes(memory.total_bytes)} estimated: {listed}"


def _mebibytes(count: int) -> str:
    return f"{count / 2**30:,.1f} GiB" if count >= 10 * 2**30 else f"{count / 2**20:,.1f} MiB"


def _arithmetic(plan: Plan) -> str:
    whole = "" if plan.total_flops is None else f", {plan.total_flops / 1e18:.3g} EFLOP in all"
    later = "" if plan.later_step_flops is None else f", {plan.later_step_flops / 1e12:.3g} from AMT's start on"
    return f"{plan.step_flops / 1e12:.3g} TFLOP a step{later}{whole}"


def _maps(plan: MapsPlan) -> str:
    if plan.first is None:
        return "none are made"
    read = "no step reads them" if plan.start is None else f"read from step {plan.start:,} on"
    passes = f"{'1 pass' if plan.passes == 1 else f'{plan.passes:,} passes'}, the first before step {plan.first:,}"
    return f"{passes}, {plan.share:.2%} of the run's arithmetic; {read}"


def _evaluation(plan: EvaluationPlan) -> str:
    what = f"{' and '.join(plan.scores)} by {', '.join(plan.features)}"
    often = f"steps {UNKNOWN}" if plan.every_steps is None else f"every {counted(plan.every_steps, 'step')}"
    times = "" if plan.times is None else f", {counted(plan.times, 'time')}"
    if plan.images is None or plan.flops is None:
        return f"{what}, {often}{times}; images {UNKNOWN}"
    cost = f"at most {plan.images:,} images and {plan.flops / 1e12:.3g} TFLOP each"
    share = "" if plan.share is None else f", {plan.share:.2%} of the run's arithmetic"
    return f"{what}, {often}{times}; {cost}{share}"


def _gpu_time(time: GpuTime, ranks: tuple[int, int]) -> str:
    lengths = dict(zip(ranks, time.days, strict=True)).items()
    days = [
        f"{each:,.2g} days on {count}" if each >= 1 else f"{each * 24:,.2g} hours on {count}" for count, each in lengths
    ]
    return f"{time.hours:,.3g} {GPU} hours, {', '.join(days)}; {time.assumption}"
