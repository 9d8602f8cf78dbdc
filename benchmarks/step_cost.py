"""Time of a step of each method over one of MAE, beside the arithmetic: `python -m benchmarks.step_cost`.

A step is draws, forward, backward, AdamW and the teacher's update on random images that are augmented already. All
methods are measured in turn, so that whatever else the machine does falls on all alike.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.methods.costs import Cost, keep_costs
from benchmarks.methods.jobs import encoder_job
from benchmarks.methods.trials import IMAGES, METHODS, Trial
from benchmarks.rows import ratio_of
from gmml_cluster.methods.build import build
from gmml_cluster.methods.init import initial_weights
from gmml_cluster.methods.protocol import MAP, AfterStep, Draws, Guided, Method
from gmml_cluster.plan.shares import counts_of
from gmml_cluster.spec.job import JobSpec
from gmml_cluster.spec.loading.validate import dump, parse_job

_WITH_AMT = ("mae", "simmim", "gmml", "conmim")
_SMALL = ("mae", "simmim")
_SMALL_IMAGES = 8


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        throws: whether the step is one after AMT's start.
    """

    name: str
    job: JobSpec
    throws: bool = False

    @property
    def flops(self) -> int:
        """Of a step, by the plan's arithmetic."""
        counts = counts_of(self.job)
        if self.throws:
            assert counts.later is not None
            return counts.later.step_flops * self.job.batch.size
        return counts.step_flops * self.job.batch.size


def main() -> None:
    """Measure and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--keep", action="store_true", help="keep the first table for that of `benchmarks.methods`")
    given = parser.parse_args()
    tables = {"96 wide, 6 deep, 32 px by 4": list(_table_rows()), "S/16, 224 px": list(_small_rows())}
    for number, (title, rows) in enumerate(tables.items()):
        costs = _costs(rows, _rounds(rows, given.rounds))
        print(f"{title}, {torch.get_num_threads()} threads\n")
        print("| method | views | images | images/s | step over MAE's: median (range) | by arithmetic |")
        print("|---|---:|---:|---:|---:|---:|")
        for row in rows:
            print(_line(row, costs[row.name]))
        print(flush=True)
        if given.keep and number == 0:
            keep_costs(costs)


def _table_rows() -> Iterator[Row]:
    """The jobs of `benchmarks.methods`, MAE first."""
    for name in METHODS:
        job = encoder_job(Trial("cifar10", name, 0, IMAGES), Path("none"))
        yield Row(name, job)
        if name in _WITH_AMT:
            yield Row(f"{name} with AMT", _changed(job, method={"amt": True}), throws=True)


def _small_rows() -> Iterator[Row]:
    for name in _SMALL:
        job = _changed(
            encoder_job(Trial("cifar10", name, 0, IMAGES), Path("none")),
            model={"size": "small", "width": None, "depth": None, "heads": None, "patch_size": 16},
            data={"image_size": 224},
            batch={"size": _SMALL_IMAGES},
            method={"decoder_width": None, "decoder_depth": None, "decoder_heads": None},
        )
        yield Row(name, job)
        yield Row(f"{name} with AMT", _changed(job, method={"amt": True}), throws=True)


def _changed(job: JobSpec, **sections: dict[str, Any]) -> JobSpec:
    """The job with other values in sections; None leaves a field out."""
    spec = dump(job)
    for section, values in sections.items():
        known = {**spec[section], **values}
        spec[section] = {name: value for name, value in known.items() if value is not None}
    return parse_job(spec)


def _rounds(rows: list[Row], rounds: int) -> dict[str, list[float]]:
    """Seconds of a step of each row, round by round, after one that warms up."""
    steps = {row.name: _step(row) for row in rows}
    for step in steps.values():
        step()
    found: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            found[name].append(step())
    return found


def _step(row: Row) -> Callable[[], float]:
    """Takes a step, and returns its seconds."""
    method, job, host = build(row.job), row.job, torch.device("cpu")
    method.module.load_state_dict(initial_weights(method, job.seed), strict=False)
    trained = dict(method.module.named_parameters())
    optimizer = torch.optim.AdamW([weight for weight in trained.values() if weight.requires_grad])
    size, numbers = job.data.image_size, torch.arange(job.batch.size)
    images = torch.randn(job.batch.size, method.views, 3, size, size)
    draw = _draw(method, row, (size // job.model.patch_size) ** 2)

    def step() -> float:
        begin = time.perf_counter()
        optimizer.zero_grad()
        method.loss(method.module, images, draw(numbers, host)).groups.mean().backward()
        optimizer.step()
        if isinstance(method, AfterStep):
            _follow(method, trained)
        return time.perf_counter() - begin

    return step


def _draw(method: Method, row: Row, patches: int) -> Callable[[Tensor, torch.device], Draws]:
    if not row.throws:
        return method.draw
    assert isinstance(method, Guided)
    guided = method
    maps = {MAP: torch.randint(1, 256, (row.job.batch.size, method.views, patches), dtype=torch.uint8)}
    return lambda numbers, device: guided.draw(numbers, device, given=maps)


def _follow(method: AfterStep, weights: dict[str, nn.Parameter]) -> None:
    update = method.after_step(0, 1000)
    with torch.no_grad():
        for target, source in zip(update.targets, update.sources, strict=True):
            weights[target].lerp_(weights[source], update.weight)


def _costs(rows: list[Row], seconds: dict[str, list[float]]) -> dict[str, Cost]:
    """What a step of each row costs; the first row is MAE's."""
    mae = rows[0]
    return {
        row.name: Cost(
            images_s=row.job.batch.size / statistics.median(seconds[row.name]),
            over_mae=ratio_of(seconds[row.name], seconds[mae.name]),
            arithmetic=row.flops / mae.flops,
        )
        for row in rows
    }


def _line(row: Row, cost: Cost) -> str:
    cells = (row.name, build(row.job).views, row.job.batch.size, *cost.cells)
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    main()
