"""Notes of a plan: what a person should know before the run is submitted, each in one sentence."""

from collections.abc import Iterator
from typing import Any

from gmml_cluster.plan.machine import RankMemory
from gmml_cluster.plan.memory import MARGIN, Memory
from gmml_cluster.spec.job import JobSpec
from gmml_cluster.spec.loading.yaml import flow


def foreign_recipe(job: JobSpec) -> Iterator[str]:
    """Fields that kept the defaults, which are GMML's, although the job's method has a recipe of its own."""
    recipe: dict[str, Any] = getattr(job.method, "recipe", {})
    kept = [name for name in recipe if _is_default(job, name)]
    if kept:
        own = ", ".join(f"{name}: {flow(recipe[name])}" for name in kept)
        yield f"the method is {job.method.name}, but these keep GMML's defaults; {job.method.name}'s own are {own}"


def _is_default(job: JobSpec, name: str) -> bool:
    *sections, field = name.split(".")
    owner: Any = job
    for section in sections:
        owner = getattr(owner, section)
    return bool(getattr(owner, field) == type(owner).model_fields[field].get_default())


def memory_that_cannot_fit(memory: Memory, room: RankMemory | None) -> Iterator[str]:
    """A rank that needs more than it may use."""
    if room is not None and memory.needed_bytes > room.total_bytes:
        need = f"{memory.needed_bytes / 2**30:,.1f} GiB ({MARGIN} times the estimate)"
        have = f"{room.total_bytes / 2**30:,.1f} GiB, {room.source}"
        yield f"a rank needs about {need} and has {have}: {memory_hint(memory)}"


def memory_hint(memory: Memory) -> str:
    """What to change where a rank needs too much."""
    if memory.activations_bytes >= memory.total_bytes - memory.activations_bytes:
        return "lower batch.micro, or set engine.activation_checkpointing"
    return "raise engine.zero, use more ranks, or take a smaller model"


def warm_up_without_peak(warmup: int | None, steps: int | None) -> Iterator[str]:
    """A warm-up as long as the run."""
    if steps is not None and warmup is not None and warmup >= steps:
        yield f"the warm-up of {warmup} steps is no shorter than the run of {steps}: the peak is never reached"
