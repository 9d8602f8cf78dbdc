"""Random disturbances of a small run of two ranks on this machine, drawn from a seed.

    python -m benchmarks.soak [--kills N] [--seed N] [--on s3|folder] [--at-once N] [--json PATH] [--keep FOLDER]

Two thirds of them hit a run that lies in a real object store behind a proxy which injects faults, a third one that lies
in a small file system of its own, which is filled up (to mount one takes root's rights). Afterwards its losses must be
those of an undisturbed run bit for bit, every listed checkpoint must load, the store must hold no orphan, and the log
must account for all of it. Exits with 1 where something does not hold. SIGUSR1 ends the disturbances early, and what
was done is judged; a seed has the same ones first, whatever their number.

More than 200 at a place are shared out among several runs, each with a seed of its own and judged by itself. With
`--keep` the figures of each stay in the folder, and the same command goes on with those that have none yet.
`--at-once` says how many runs are disturbed at a time: part of a disturbance is waiting, in which another run can be
disturbed, but seconds are then those of a busier machine.
"""

import argparse
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.soak.disturb import Disturber, Done, last_commit, stop
from benchmarks.soak.judge import faults
from benchmarks.soak.plan import Disturbance, disturbances
from benchmarks.soak.report import VERSION, Leg, merged, table
from benchmarks.soak.site import JOB, RANKS, REPOSITORY, Overdue, Site, until
from benchmarks.soak.storage import Storage, on_folder, on_s3

PLACES = ("s3", "folder")
KEEPS_ALL = {**JOB["checkpoint"], "keep": 10**6}
"""The undisturbed run's: each checkpoint that the other still has is compared with its."""
MOST = 200
"""Disturbances of one run: behind them an undisturbed one of as many steps is trained."""
_CALM_S = 3600.0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, help="disturbances in all; 100 by default")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--on", choices=PLACES, help="where the run lies; by default one run on each")
    parser.add_argument("--at-once", type=int, default=1, help="runs that are disturbed at a time; 1 by default")
    parser.add_argument("--json", type=Path, help="file for all figures")
    parser.add_argument("--keep", type=Path, help="folder for the runs, in which to go on later")
    asked = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # else what it started would stay
    enough = threading.Event()
    signal.signal(signal.SIGUSR1, lambda number, frame: enough.set())
    parts = shares(asked.kills, asked.seed, asked.on)
    with _folder(asked.keep) as folder:
        if len(parts) == 1:
            legs, failed = [_leg(folder / parts[0].place, parts[0], enough)], []
        else:
            legs, failed = _in_processes(folder, parts, asked.at_once, enough)
    for leg in [*legs, merged(legs)] if len(legs) > 1 else legs:
        print(table(leg), end="\n\n")
    if asked.json:
        asked.json.write_text(json.dumps({"version": VERSION, "seed": asked.seed, "legs": legs}, indent=1))
    for part in failed:
        print(f"{part}: ended without figures; what it said is above", file=sys.stderr)
    return int(bool(failed) or any(faults for leg in legs for faults in leg["faults"].values()))


@dataclass(frozen=True)
class Share:
    """Disturbances of one run.

    Attributes:
        place: where the run lies.
        count: how many.
        seed: that draws them.
    """

    place: str
    count: int
    seed: int


def shares(kills: int, seed: int, on: str | None) -> list[Share]:
    """Who gets how many: two thirds on S3, a third in folders, or all at one place, in runs of MOST."""
    on_folders = {None: kills // 3, "s3": 0, "folder": kills}[on]
    found = []
    for place, count in (("s3", kills - on_folders), ("folder", on_folders)):
        for number in range(math.ceil(count / MOST)):
            found.append(Share(place, min(MOST, count - number * MOST), seed + 1000 * number))
    return found


def _in_processes(
    folder: Path, parts: Sequence[Share], at_once: int, enough: threading.Event
) -> tuple[list[dict[str, Any]], list[Share]]:
    """Each share in a process of its own, as the environment of a store is that of a process.

    Returns:
        Their documents, and the shares that ended without one.
    """
    children: list[subprocess.Popen[bytes]] = []

    def soak_apart(part: Share) -> list[dict[str, Any]] | None:
        if enough.is_set():
            return []
        name = f"{part.place}-{part.seed}-{part.count}"
        document = folder / f"{name}.json"
        if document.exists() and len((found := _legs(document))[0]["disturbances"]) == part.count:
            return found
        document.unlink(missing_ok=True)
        shutil.rmtree(folder / name, ignore_errors=True)  # a soak before was stopped in the middle of it
        options = {"on": part.place, "kills": part.count, "seed": part.seed, "json": document, "keep": folder / name}
        words = [f"--{option}={value}" for option, value in options.items()]
        command = [sys.executable, "-m", "benchmarks.soak", *words]
        child = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
        children.append(child)
        asked = False
        while child.poll() is None:
            if enough.is_set() and not asked:
                child.send_signal(signal.SIGUSR1)
                asked = True
            time.sleep(1.0)
        return _legs(document) if document.exists() else None

    with ThreadPoolExecutor(at_once) as pool:
        try:
            found = list(pool.map(soak_apart, parts))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in children:
                child.terminate()
            raise
    failed = [part for part, legs in zip(parts, found, strict=True) if legs is None]
    return [leg for legs in found for leg in legs or ()], failed


def _legs(document: Path) -> list[dict[str, Any]]:
    return json.loads(document.read_text())["legs"]


def _leg(folder: Path, share: Share, enough: threading.Event) -> dict[str, Any]:
    """So many disturbances of a run at one of the places, or fewer once it is enough."""
    folder.mkdir(parents=True, exist_ok=True)
    with on_s3() if share.place == "s3" else on_folder(folder) as storage:
        print(storage.why or f"the run lies in {storage.name}", file=sys.stderr)
        planned = disturbances(share.seed, share.count, ranks=RANKS, without=storage.without)
        return {"seed": share.seed, **soak(folder, storage, planned, enough).document()}


@contextmanager
def _folder(kept: Path | None) -> Iterator[Path]:
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="gmml-soak-") as folder:
        yield Path(folder)


def soak(folder: Path, storage: Storage, planned: Sequence[Disturbance], enough: threading.Event) -> Leg:
    """Disturb one run, train another undisturbed for as many steps, and compare the two."""
    digits = folder / "digits"
    command = [sys.executable, "-m", "gmml_cluster.evaluate.demo.digits", str(digits)]
    subprocess.run(command, check=True, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    site = Site(folder / "disturbed", storage.root, storage.environment)
    calm = Site(folder / "calm", str(folder / "calm" / "runs"), job={**JOB, "checkpoint": KEEPS_ALL})
    for each in (site, calm):
        each.prepare(digits)
    before, began = os.getloadavg()[0], time.time()
    try:
        done = _disturbed(Disturber(site, storage.proxy, storage.full), planned, enough)
        wall_s = time.time() - began
        last = stop(site)
        _train(calm, last)
        judged, compared = faults(site.run, calm.run, done)
        return Leg(storage.name, site, done, wall_s, last, (before, os.getloadavg()[0]), judged, compared)
    finally:
        for each in (site, calm):
            each.kill_all()


def _disturbed(disturber: Disturber, planned: Sequence[Disturbance], enough: threading.Event) -> list[Done]:
    """Submit the run and do everything to it, or until it is enough."""
    disturber.site.submit()
    run = disturber.site.run
    until("the first checkpoint", lambda: last_commit(run.log.refresh()) >= 0)
    done: list[Done] = []
    for what, following in zip(planned, [*planned[1:], None], strict=True):
        done.append(disturber.do(what))
        if enough.is_set() or following is None or following.moment != "starting":
            disturber.await_recovery(done[-1])
        history = run.log.refresh()
        step, attempt = last_commit(history), history.last_attempt
        text = f"{what.number}/{len(planned)} {what.kind} while {what.moment}: attempt {attempt}, saved step {step}"
        print(f"{time.strftime('%H:%M:%S')} {text} {done[-1].unexpected}", file=sys.stderr, flush=True)
        if enough.is_set():
            break
    return done


def _train(calm: Site, steps: int) -> None:
    """The undisturbed run, up to a checkpoint behind this step."""
    calm.submit()
    until("the undisturbed run", lambda: last_commit(calm.run.log.refresh()) > steps, _CALM_S, pause_s=1.0)
    stop(calm)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Overdue as error:
        sys.exit(f"benchmarks.soak: {error}")
