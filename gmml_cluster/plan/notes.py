"""Notes of a plan: what a person should know before the run is submitted, each in one sentence."""

from collections.abc import Iterator

from gmml_cluster.plan.engine_choice import engine_name, needed_bytes
from gmml_cluster.plan.evaluation import EvaluationPlan
from gmml_cluster.plan.machine import RankMemory
from gmml_cluster.plan.memory import MARGIN, Memory
from gmml_cluster.plan.throwing import MapsPlan
from gmml_cluster.spec.engine import Zero
from gmml_cluster.spec.job import JobSpec
from gmml_cluster.spec.rules import group_of, view_size
from gmml_cluster.wording import counted

_CHEAP = 0.1
"""Share of the run's arithmetic that scores between two steps may take without a word."""
_MOST_FOR_MAPS = 0.5
"""The same of the passes that make maps: runs of few epochs try AMT out with more than a tenth."""


def advice_of_method(job: JobSpec) -> Iterator[str]:
    """What a method says of options that work, but not well; a plug-in's need say nothing."""
    advice = getattr(job.method, "advice", None)
    if advice is not None:
        yield from advice(job.model, view_size(job), group_of(job))


def engine_by_memory(job: JobSpec, zero: Zero, ranks: int, device_bytes: int | None, *, on_gpus: bool) -> str:
    """What `engine.zero: auto` comes to at a number of ranks, and why."""
    takes = f"engine.zero: auto takes {engine_name(zero)}"
    if not on_gpus:
        return f"{takes} on CPUs"
    if device_bytes is None:
        return f"{takes}, as the memory of a GPU is not known here; the ranks ask the GPU itself"
    needed = needed_bytes(job, ranks)
    fits, room = needed[zero] <= device_bytes, f"{_gibibytes(device_bytes)} of a GPU with the smallest micro-batch"
    why = f"the first that fits {room}" if fits else f"which needs least; none fits {room}"
    listed = ", ".join(f"{engine_name(each)} {_gibibytes(count)}" for each, count in needed.items())
    return f"{takes} at {counted(ranks, 'rank')}, {why} ({listed})"


def memory_that_cannot_fit(memory: Memory, room: RankMemory | None, read_ahead_bytes: int, hint: str) -> Iterator[str]:
    """A rank that needs more than it may use; `read_ahead_bytes` of the same memory hold images that wait.

    Args:
        hint: of `memory_hint`, where it needs too much without these images too.
    """
    if room is None or memory.needed_bytes + read_ahead_bytes <= room.total_bytes:
        return
    need = f"{_gibibytes(memory.needed_bytes)} ({MARGIN} times the estimate)"
    ahead = f" and {_gibibytes(read_ahead_bytes)} for data.read_ahead" if read_ahead_bytes else ""
    fits_without = memory.needed_bytes <= room.total_bytes
    cure = "lower data.read_ahead" if fits_without else hint
    yield f"a rank needs about {need}{ahead} and has {_gibibytes(room.total_bytes)}, {room.source}: {cure}"


def read_ahead_that_cannot_fit(
    read_ahead_bytes: int | None, ranks_per_node: int, node_bytes: int | None
) -> Iterator[str]:
    """Ranks with GPUs whose images that wait do not fit the memory of their node."""
    if read_ahead_bytes is None or node_bytes is None or read_ahead_bytes * ranks_per_node <= node_bytes:
        return
    need = f"{_gibibytes(read_ahead_bytes)} for data.read_ahead on each of {counted(ranks_per_node, 'rank')}"
    yield f"{need} do not fit a node of {_gibibytes(node_bytes)}: lower data.read_ahead"


def _gibibytes(count: int) -> str:
    return f"{count / 2**30:,.1f} GiB"


def memory_hint(memory: Memory, zero: Zero, ranks: int) -> str:
    """What to change where one of these ranks needs too much."""
    if memory.activations_bytes >= memory.total_bytes - memory.activations_bytes:
        return "lower batch.micro, or set engine.activation_checkpointing"
    nothing_to_share = zero == 3 or ranks == 1
    return f"{'' if nothing_to_share else 'raise engine.zero, '}use more ranks, or take a smaller model"


def warm_up_without_peak(warmup: int | None, steps: int | None) -> Iterator[str]:
    """A warm-up as long as the run."""
    if steps is not None and warmup is not None and warmup >= steps:
        length = counted(warmup, "step")
        yield f"the warm-up of {length} is no shorter than the run of {steps}: the peak is never reached"


def masks_by_attention(maps: MapsPlan | None, steps: int | None) -> Iterator[str]:
    """AMT that begins after the run, or whose maps cost more than its steps."""
    if maps is None or steps is None:
        return
    if maps.start is None:
        hint = "lower method.amt.start and method.amt.interval, or take a longer run"
        yield f"method.amt begins after the run of {counted(steps, 'step')}: all its masks are random; {hint}"
    elif maps.share > _MOST_FOR_MAPS:
        yield f"AMT's maps take {maps.share:.0%} of the run's arithmetic: raise method.amt.interval"


def costly_scores(evaluation: EvaluationPlan | None) -> Iterator[str]:
    """Scores between two steps that are no small part of the run."""
    if evaluation is not None and evaluation.share is not None and evaluation.share > _CHEAP:
        hint = "raise evaluate.every, or lower evaluate.bank_images and evaluate.corpus_images"
        yield f"evaluate takes {evaluation.share:.0%} of the run's arithmetic: {hint}"
