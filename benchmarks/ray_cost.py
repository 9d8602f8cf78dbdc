"""What Ray's road costs over the local launcher's: `python -m benchmarks.ray_cost [--rounds N] [--slices N]`.

A Ray cluster of one node of this machine, which the command starts, runs all the time. Starts: each round submits the
same small job by each launcher, in an order drawn anew, and takes the time to its first step apart. Rates: the same job
trains by both at once, and one of the two ranks is suspended, in turn, every few seconds. So each has the machine to
itself, whatever else the machine does falls on both, and a ratio is of two slices that lie side by side.
"""

import argparse
import math
import os
import random
import re
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate
from pathlib import Path
from typing import Any

from benchmarks.ray_site import LAUNCHERS, Site
from gmml_cluster.launch.ray.client import RayJob, connected
from tests.fixtures.ray import running_ray

SETTLE_S = 0.5
"""Of a slice that does not count: the rank that goes on fills its caches."""
_WARM_STEPS = 50
_DRIVER = "of it, until the driver has joined the cluster"
_JOINED = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3})\t.* Connected to Ray cluster", re.MULTILINE)

Parts = dict[str, float]
"""Seconds by name."""


@dataclass(frozen=True)
class Slice:
    """A time in which the rank of one launcher had the machine.

    Attributes:
        began: seconds since 1970, as is `ended`.
        beside_s: seconds of CPU of what the launcher keeps running beside the rank.
    """

    launcher: str
    began: float
    ended: float
    beside_s: float


def main() -> None:
    """Measure and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="starts by each launcher")
    parser.add_argument("--slices", type=int, default=40, help="times that each rank has the machine")
    parser.add_argument("--seconds", type=float, default=4.0, help="of a slice")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, running_ray(nodes=0) as cluster:
        cluster.add_node(cpus=1)
        site = Site(Path(folder), cluster.dashboard)
        starts: dict[str, list[Parts]] = {launcher: [] for launcher in LAUNCHERS}
        for number in range(given.rounds):
            for launcher in random.sample(LAUNCHERS, len(LAUNCHERS)):
                starts[launcher].append(started(site, launcher, f"{launcher}-{number}"))
                print(f"round {number}, {launcher}: {starts[launcher][-1]}", file=sys.stderr)
        print_starts(starts)
        (node,) = cluster.nodes.values()
        slices = list(taken_in_turn(site, node.pid, given.slices, given.seconds))
        print_rates({name: rates(*site.steps(f"{name}-long"), slices, name) for name in LAUNCHERS}, slices)


def started(site: Site, launcher: str, name: str) -> Parts:
    """The parts of one start, from the command to the first step."""
    began = time.time()
    site.submit(launcher, name, steps=20)
    returned = time.time()
    _until(lambda: site.entry(name, "end"))
    entries = {kind: site.entry(name, kind) for kind in ("submit", "queued", "claim", "begin", "end")}
    if entries["end"]["cause"] != "finished":
        raise RuntimeError(f"{name} ended as {entries['end']}")
    _, lines = site.steps(name)
    joined = joined_at(_printed(entries["queued"]["job"])) if launcher == "ray" else None
    return start_parts(entries, lines[0]["step_s"], began, returned, joined)


def start_parts(
    entries: Mapping[str, Mapping[str, Any]], step_s: float, began: float, returned: float, joined: float | None
) -> Parts:
    """Parts of a start, of the log's entries; what `gmml-submit` takes in all stands beside them.

    Args:
        entries: `submit`, `claim` and `begin`.
        step_s: of the first step.
        began: when the command was started, and so on.
        returned: when it was done.
        joined: when Ray's driver had joined the cluster; None without one.
    """
    submit, claim, begin = (entries[kind] for kind in ("submit", "claim", "begin"))
    process = claim["time"] - claim["start_s"]
    parts = {
        "checks, plan and code: to `submit` in the log": submit["time"] - began,
        "to the rank's process": process - submit["time"],
        **({} if joined is None else {_DRIVER: joined - submit["time"]}),
        "its imports, meeting and claim": claim["start_s"],
        "building": begin["time"] - claim["time"],
        "the first step": step_s,
    }
    in_all = begin["time"] + step_s - began
    return {**parts, "in all, to the first step": in_all, "beside it: until `gmml-submit` returns": returned - began}


def joined_at(printed: str) -> float | None:
    """The time in Ray's line that the driver has connected, with everything imported."""
    found = _JOINED.search(printed)
    return None if found is None else datetime.strptime(found[1], "%Y-%m-%d %H:%M:%S,%f").timestamp()


def _printed(job: str) -> str:
    asked = RayJob.read(job)
    with connected(asked.address) as client:
        return str(client.get_job_logs(asked.submission))


def taken_in_turn(site: Site, node: int, slices: int, seconds: float) -> Iterator[Slice]:
    """Train by both launchers, and let the rank of one after the other have the machine.

    Args:
        site: where they train.
        node: process of the Ray cluster.
        slices: how often each has it.
        seconds: how long each time.
    """
    runs = {launcher: f"{launcher}-long" for launcher in LAUNCHERS}
    for launcher, run in runs.items():
        site.submit(launcher, run, steps=10**6)
    ranks = {launcher: _until(lambda run=run: site.rank(run)) for launcher, run in runs.items()}
    for run in runs.values():
        _until(lambda run=run: site.steps_made(run) > _WARM_STEPS)
    threads = [site.entry(run, "claim")["topology"] for run in runs.values()]
    if threads[0] != threads[1]:
        raise RuntimeError(f"the two are not alike: {threads}")
    try:
        for number in range(slices):
            for launcher in LAUNCHERS if number % 2 else LAUNCHERS[::-1]:
                yield _slice(launcher, ranks, node, seconds)
    finally:
        for pid in ranks.values():
            os.kill(pid, signal.SIGCONT)
        for run in runs.values():
            site.gmml("gmml", "cancel", run)
        for run in runs.values():
            _until(lambda run=run: site.entry(run, "end"))


def _slice(launcher: str, ranks: Mapping[str, int], node: int, seconds: float) -> Slice:
    for name, pid in ranks.items():
        os.kill(pid, signal.SIGCONT if name == launcher else signal.SIGSTOP)
    # a rank of the local launcher has its supervisor beside it, one of Ray all of the node
    beside = _descendants(node) if launcher == "ray" else [int(_stat(ranks[launcher])[1])]
    before, began = _cpu_s(beside, ranks[launcher]), time.time()
    time.sleep(seconds)
    return Slice(launcher, began, time.time(), _cpu_s(beside, ranks[launcher]) - before)


def rates(first: float, lines: Sequence[Mapping[str, Any]], slices: Sequence[Slice], launcher: str) -> list[float]:
    """Samples a second of a launcher's rank in each of its slices, of the steps that lie within.

    Args:
        first: when its first step began, in seconds since 1970.
        lines: its metric lines from the first step on; each says how long its step took, suspended or not.
        slices: of both.
        launcher: whose.

    Returns:
        One rate a slice; not a number where no step lies within.
    """
    ends = list(accumulate((line["step_s"] for line in lines), initial=first))[1:]
    found = []
    for each in (each for each in slices if each.launcher == launcher):
        within = [
            line
            for line, end in zip(lines, ends, strict=True)
            if each.began + SETTLE_S <= end - line["step_s"] and end <= each.ended
        ]
        seconds = sum(line["step_s"] for line in within)
        found.append(sum(line["batch"] for line in within) / seconds if within else math.nan)
    return found


def print_starts(starts: Mapping[str, Sequence[Parts]]) -> None:
    """The table of starts."""
    rounds = len(starts["local"])
    print(f"| a start, s: median of {rounds} (least to most) | local | Ray |\n|---|---|---|")
    for part in starts["ray"][0]:
        values = [[row[part] for row in starts[launcher] if part in row] for launcher in LAUNCHERS]
        print(f"| {part} | {' | '.join(span(each, 1) if each else '-' for each in values)} |")


def print_rates(found: Mapping[str, Sequence[float]], slices: Sequence[Slice]) -> None:
    """The table of rates."""
    ratios = [ray / local for ray, local in zip(found["ray"], found["local"], strict=True)]
    ratios = [ratio for ratio in ratios if not math.isnan(ratio)]
    print(f"\n| training, median of {len(ratios)} pairs of slices (least to most) | local | Ray | Ray over local |")
    print("|---|---|---|---|")
    shown = " | ".join(span([rate for rate in found[each] if not math.isnan(rate)], 0) for each in LAUNCHERS)
    print(f"| samples/s | {shown} | {quartiles(ratios)} |")
    beside = [
        [100 * each.beside_s / (each.ended - each.began) for each in slices if each.launcher == launcher]
        for launcher in LAUNCHERS
    ]
    print(f"| CPU of what runs beside the rank, % of a core | {' | '.join(span(each, 1) for each in beside)} | - |")


def span(values: Sequence[float], digits: int) -> str:
    """Median, least and most."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def quartiles(values: Sequence[float]) -> str:
    """Median and quartiles: one slice that somebody else disturbed says nothing."""
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return f"{middle:.3f} (quartiles {low:.3f} and {high:.3f})"


def _stat(pid: int) -> list[str]:
    """State, parent and so on of a process."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _descendants(root: int) -> list[int]:
    parents = {}
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        with suppress(OSError):
            parents[pid] = int(_stat(pid)[1])
    found = [root]
    for parent in found:
        found += [pid for pid, its in parents.items() if its == parent]
    return found


def _cpu_s(pids: Sequence[int], without: int) -> float:
    """Seconds of CPU that processes have used so far; one that has ended counts for nothing."""
    ticks = 0
    for pid in set(pids) - {without}:
        with suppress(OSError):
            ticks += sum(map(int, _stat(pid)[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def _until(found: Callable[[], Any], limit_s: float = 600.0) -> Any:
    deadline = time.monotonic() + limit_s
    while not (value := found()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {limit_s:g} s")
        time.sleep(0.1)
    return value


if __name__ == "__main__":
    main()
