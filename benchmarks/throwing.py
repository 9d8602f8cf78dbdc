"""Time of a step of AMT over one of the method without, beside the arithmetic: `python -m benchmarks.throwing`.

A step is draws, forward, backward and AdamW on random images; both kinds are measured in turn, so that whatever else
the machine does falls on both alike. Before AMT's start a step is the method's own.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from gmml_cluster.methods.build import build
from gmml_cluster.methods.protocol import MAP, Draws, Guided
from gmml_cluster.plan.shares import counts_of
from gmml_cluster.spec.job import JobSpec
from gmml_cluster.spec.loading.validate import parse_job

_NARROW = {"decoder_width": 64, "decoder_depth": 2, "decoder_heads": 2}
_METHODS: dict[str, dict[str, Any]] = {"mae": _NARROW, "simmim": {}}
_SIZES: dict[str, tuple[dict[str, Any], int]] = {
    "96 wide, 6 deep, 32 px by 4": ({"width": 96, "depth": 6, "heads": 3, "patch_size": 4}, 32),
    "S/16, 224 px": ({"size": "small", "patch_size": 16}, 224),
}


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--images", type=int, nargs=2, default=[64, 8], help="images a step at either size")
    given = parser.parse_args()
    print("| method | encoder | images | step, s | with AMT over without: median (range) | by arithmetic |")
    print("|---|---|---|---|---|---|")
    for (size, (model, pixels)), images in zip(_SIZES.items(), given.images, strict=True):
        for name, options in _METHODS.items():
            job = _job(name, options if pixels == 32 else {}, model, pixels, images)
            first, ratios = _compare(job, given.rounds)
            counts = counts_of(job)
            assert counts.later is not None
            spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            share = counts.later.step_flops / counts.step_flops
            print(f"| {name} | {size} | {images} | {first:.2f} | {spread} | {share:.2f} |", flush=True)


def _job(name: str, options: dict[str, Any], model: dict[str, Any], pixels: int, images: int) -> JobSpec:
    return parse_job(
        {
            "name": "throwing",
            "model": {**model, "drop_path": 0},
            "method": {"name": name, "amt": True, **options},
            "data": {"corpora": [{"url": "none"}], "image_size": pixels, "group": 8},
            "batch": {"size": images},
            "run": {"steps": 1},
        }
    )


def _compare(job: JobSpec, rounds: int) -> tuple[float, list[float]]:
    """Seconds of a step without, and of each round the ratio of the two."""
    method = build(job)
    assert isinstance(method, Guided)
    optimizer = torch.optim.AdamW([p for p in method.module.parameters() if p.requires_grad])
    images = torch.randn(job.batch.size, 1, 3, job.data.image_size, job.data.image_size)
    patches = (job.data.image_size // job.model.patch_size) ** 2
    maps = {MAP: torch.randint(1, 256, (job.batch.size, 1, patches), dtype=torch.uint8)}
    numbers, host = torch.arange(job.batch.size), torch.device("cpu")

    def seconds(draw: Callable[[], Draws]) -> float:
        begin = time.perf_counter()
        optimizer.zero_grad()
        method.loss(method.module, images, draw()).groups.mean().backward()
        optimizer.step()
        return time.perf_counter() - begin

    def pair() -> tuple[float, float]:
        without = seconds(lambda: method.draw(numbers, host))
        return without, seconds(lambda: method.draw(numbers, host, given=maps))

    pair()
    pairs = [pair() for _ in range(rounds)]
    return statistics.median(without for without, _ in pairs), [later / without for without, later in pairs]


if __name__ == "__main__":
    main()
