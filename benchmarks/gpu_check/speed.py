"""ViT-L in bf16 at one micro-batch: images a second, memory against the plan's estimate, time the GPU is idle."""

import time
from collections.abc import Iterable
from typing import Any

import torch

from benchmarks.gpu_check.result import Result, Setting
from benchmarks.gpu_check.training import Trainer, make_job, make_trainer, process_group
from gmml_cluster.plan.memory import memory_of_rank
from gmml_cluster.spec.job import JobSpec
from gmml_cluster.train.stepper import Report

_WARM_UP, _TIMED, _PROFILED = 4, 12, 3
_GIB = 2**30
Interval = tuple[float, float]


def speed(variant: str, setting: Setting) -> Result:
    """Steps of one micro-batch each; out of memory is a result."""
    images = int(variant)
    job = _job(images, quick=setting.quick)
    counts = job.method.counts(job.model, job.data.image_size)
    estimate = memory_of_rank(counts, job.engine, ranks=1, images=images)
    figures: dict[str, Any] = {
        "estimated_gib": estimate.total_bytes / _GIB,
        "with_margin_gib": estimate.needed_bytes / _GIB,
    }
    with process_group(setting) as device:
        try:
            figures |= _measure(job, device)
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            figures["device_gib"] = torch.cuda.mem_get_info(device)[1] / _GIB
            return Result("out of memory", {**figures, **_peak(device)}, str(error).split(". ")[0])
    return Result("ok", figures)


def _is_out_of_memory(error: RuntimeError) -> bool:
    """An error of torch itself, or that of a library which allocates by itself: NCCL, cuBLAS."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in text or "ALLOC_FAILED" in text


def _job(images: int, *, quick: bool) -> JobSpec:
    """ViT-L/16 at 224 px as `jobs/vit_l_in1k.yaml` trains it."""
    model: dict[str, Any] = {"size": "large"}
    if quick:
        model = {"width": 32, "depth": 2, "heads": 2, "patch_size": 4}
    engine = {"zero": 1, "precision": "bf16"}
    return make_job(model=model, image_size=16 if quick else 224, batch=images, micro=images, engine=engine)


def _measure(job: JobSpec, device: torch.device) -> dict[str, Any]:
    read_at: list[float] = []
    trainer = make_trainer(job, device, steps=_WARM_UP + _TIMED + _PROFILED)

    def after(_: Report) -> None:
        read_at.append(time.monotonic())

    trainer.train(0, _WARM_UP + _TIMED, after)
    # the last report is read without a step ahead, so it is left out
    rate = (_TIMED - 1) * job.batch.size / (read_at[-2] - read_at[_WARM_UP - 1])
    return {"images_per_s": rate, **_peak(device), **_profile(trainer, device)}


def _peak(device: torch.device) -> dict[str, Any]:
    if device.type != "cuda":
        return {}
    allocated, reserved = torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)
    return {"peak_gib": allocated / _GIB, "peak_reserved_gib": reserved / _GIB}


def _profile(trainer: Trainer, device: torch.device) -> dict[str, Any]:
    """Some more steps under torch's profiler."""
    if device.type != "cuda":
        return {"idle_share": None}
    first = _WARM_UP + _TIMED
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        trainer.train(first, first + _PROFILED)
        torch.cuda.synchronize(device)
    return idle_figures(profiler.events() or [])


def idle_figures(events: Iterable[Any]) -> dict[str, Any]:
    """Launches a step and the idle share of the time from the first kernel's start to the last one's end."""
    # annotations lie on the GPU's line too, and would cover the gaps between the kernels of a step
    kernels = [event for event in events if event.device_type.name == "CUDA" and not event.is_user_annotation]
    spans = [(event.time_range.start, event.time_range.end) for event in kernels]
    if not spans:
        return {"idle_share": None, "profile": "the profiler saw no kernel"}
    gaps = gaps_between(spans)
    whole = max(end for _, end in spans) - min(start for start, _ in spans)
    figures = {"launches_per_step": len(spans) // _PROFILED, "idle_share": sum(gaps) / whole}
    return {**figures, "gaps_per_step": len(gaps) // _PROFILED, "longest_gap_us": max(gaps, default=0.0)}


def gaps_between(spans: Iterable[Interval]) -> list[float]:
    """Lengths of the times that no span covers, between the first start and the last end; spans may overlap."""
    gaps: list[float] = []
    covered: float | None = None
    for start, end in sorted(spans):
        if covered is not None and start > covered:
            gaps.append(start - covered)
        covered = end if covered is None else max(covered, end)
    return gaps
