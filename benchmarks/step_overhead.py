"""What the training step costs beside the model's arithmetic: `python -m benchmarks.step_overhead`.

Host cost: steps of a ViT of 24 blocks that is so narrow that nearly all of the time is the host's, by each engine, by
torch's FSDP2, which is no engine here, and by its DistributedDataParallel with fused AdamW. Whole step: two jobs of
`jobs/` by the training loop, on images in memory, and by the shortest loop that trains the same method. One process,
one rank, one thread; all in turn.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from benchmarks.gpu_check.result import Setting
from benchmarks.gpu_check.training import make_job, make_trainer, process_group
from benchmarks.rows import Row, interleaved, markdown, ratio_of, write_json
from gmml_cluster.data.augment import prepare
from gmml_cluster.methods.build import build
from gmml_cluster.methods.protocol import Method
from gmml_cluster.models.vit import Block
from gmml_cluster.spec.job import JobSpec
from gmml_cluster.spec.loading.validate import dump, job_path, load_job, parse_job
from gmml_cluster.train.engines.build import make_engine

_HERE = torch.device("cpu")
_STEPS = 10
_JOBS = {"quickstart": 1.05, "cifar10_vit_tiny": 1.0}
"""Jobs whose whole step is measured, and the goals."""
_GOALS = {"zero ddp": 1.1, "zero 1": 1.1, "zero 3": 2.0, "FSDP2": 2.0}
_REASONS = {
    "zero 1": "DeepSpeed copies gradients into buckets and weights back tensor by tensor in Python, here of very small "
    "ones; DDP has that in C++",
    "zero 3": "DeepSpeed fetches and releases the tensors of every module by hooks in Python "
    "([0045](decisions/0045-fsdp2-is-no-engine.md))",
    "FSDP2": "it gathers, splits and reduces in Python block by block ([0045](decisions/0045-fsdp2-is-no-engine.md))",
}
_STAGE_1 = "the job trains with `engine.zero: 1`, the plain loop without sharding; by profile that is the rest"


def main() -> None:
    """Measure, print the rows, and write them with `--json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with process_group(Setting("cpu", quick=False, data=Path())):
        rows = [*host_cost(given.rounds), *(whole_step(name, given.rounds) for name in _JOBS)]
    print(markdown(rows))
    if given.json:
        write_json(rows, given.json)


def host_cost(rounds: int) -> Iterator[Row]:
    """Steps of each engine over those of plain DDP, on tensors as many as ViT-L's and very small."""
    jobs = {f"zero {stage}": _narrow(stage) for stage in ("ddp", 1, 3)}
    measures = {name: _engine_steps(job) for name, job in jobs.items()}
    tensors = sum(1 for tensor in build(jobs["zero 1"]).module.parameters() if tensor.requires_grad)
    others = {"FSDP2": _fsdp_steps(jobs["zero ddp"]), "plain": _ddp_steps(jobs["zero ddp"])}
    seconds = interleaved({**measures, **others}, rounds)
    for name in _GOALS:
        engine = f"`engine.{name.replace(' ', ': ')}`" if name in measures else name
        yield Row(
            f"host cost of a step, {engine}, {tensors} tensors",
            "DDP and fused AdamW",
            ratio_of(seconds[name], seconds["plain"]),
            at_most=_GOALS[name],
            unit="ms",
            value=1e3 * sorted(seconds[name])[rounds // 2] / _STEPS,
            reason=_REASONS.get(name, ""),
        )


def whole_step(name: str, rounds: int) -> Row:
    """Steps of a job by the training loop, over those of a loop that does nothing else."""
    job = load_job(job_path(name))
    job = parse_job({**dump(job), "data": {**dump(job)["data"], "corpora": [{"url": "/none"}]}})
    measures = {"loop": _loop_steps(job), "plain": _plain_steps(job)}
    seconds = interleaved(measures, rounds)
    return Row(
        f"whole step, jobs/{name}.yaml, images in memory",
        "a plain loop",
        ratio_of(seconds["loop"], seconds["plain"]),
        at_most=_JOBS[name],
        unit="ms",
        value=1e3 * sorted(seconds["loop"])[rounds // 2] / _STEPS,
        reason=_STAGE_1,
    )


def _narrow(zero: Any) -> JobSpec:
    model = {"width": 16, "depth": 24, "heads": 2, "patch_size": 8, "drop_path": 0}
    return make_job(model=model, image_size=16, batch=4, micro=4, engine={"zero": zero})


def _images(job: JobSpec, method: Method) -> Tensor:
    size = job.data.image_size
    return torch.randint(0, 256, (job.batch.size, method.views, 3, size, size), dtype=torch.uint8)


def _engine_steps(job: JobSpec) -> Callable[[], float]:
    method = build(job)
    engine = make_engine(method.module, engine=job.engine, optim=job.optim, device=_HERE)
    images, numbers = _images(job, method).float(), torch.arange(job.batch.size)
    draws, extras = method.draw(numbers, _HERE), torch.zeros(8, dtype=torch.float64)

    def steps() -> float:
        began = time.perf_counter()
        for _ in range(_STEPS):
            engine.backward(method.loss(engine.forward, images, draws).groups.mean(), last=True)
            engine.step(1e-4, 0.05, extras)
        return time.perf_counter() - began

    return steps


def _ddp_steps(job: JobSpec) -> Callable[[], float]:
    method = build(job)
    return _torch_steps(job, method, DistributedDataParallel(method.module, gradient_as_bucket_view=True))


def _fsdp_steps(job: JobSpec) -> Callable[[], float]:
    """As stage 3: each block's parameters are gathered for its forward and its backward and dropped behind them."""
    method = build(job)
    for block in [each for each in method.module.modules() if isinstance(each, Block)]:
        fully_shard(block)
    return _torch_steps(job, method, fully_shard(method.module))


def _torch_steps(job: JobSpec, method: Method, wrapped: nn.Module) -> Callable[[], float]:
    optimizer = _adamw(wrapped)
    images, numbers = _images(job, method).float(), torch.arange(job.batch.size)
    draws = method.draw(numbers, _HERE)

    def steps() -> float:
        began = time.perf_counter()
        for _ in range(_STEPS):
            method.loss(wrapped, images, draws).groups.mean().backward()
            nn.utils.clip_grad_norm_(wrapped.parameters(), 3.0, foreach=True)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - began

    return steps


def _loop_steps(job: JobSpec) -> Callable[[], float]:
    trainer, first = make_trainer(job, _HERE, steps=10**6), count(0, _STEPS)

    def steps() -> float:
        start = next(first)
        began = time.perf_counter()
        trainer.train(start, start + _STEPS)
        return time.perf_counter() - began

    return steps


def _plain_steps(job: JobSpec) -> Callable[[], float]:
    method = build(job)
    optimizer, images = _adamw(method.module), _images(job, method)
    size, first = job.batch.size, count()

    def steps() -> float:
        began = time.perf_counter()
        for _ in range(_STEPS):
            start = next(first) * size
            numbers = torch.arange(start, start + size)
            clean = prepare(images, numbers, seed=job.seed, augment=job.data.augment, normalise=job.data.normalise,
                            patch_size=job.model.patch_size)  # fmt: skip
            method.loss(method.module, clean, method.draw(numbers, _HERE)).groups.mean().backward()
            if job.optim.clip is not None:
                nn.utils.clip_grad_norm_(method.module.parameters(), job.optim.clip.norm, foreach=True)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - began

    return steps


def _adamw(module: nn.Module) -> torch.optim.AdamW:
    trained = [tensor for tensor in module.parameters() if tensor.requires_grad]
    return torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.05, fused=True)


if __name__ == "__main__":
    main()
