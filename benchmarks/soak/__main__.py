"""Random disturbances of a small run of two ranks on this machine, drawn from a seed.

    python -m benchmarks.soak [--kills N] [--seed N] [--on s3|folder] [--json PATH] [--keep FOLDER]

Two thirds of them hit a run that lies in a real object store behind a proxy which injects faults, a third one that lies
in a small file system of its own, which is filled up (to mount one takes root's rights). Afterwards its losses must be
those of an undisturbed run bit for bit, every listed checkpoint must load, the store must hold no orphan, and the log
must account for all of it. Exits with 1 where something does not hold. SIGUSR1 ends the disturbances early, and what
was done is judged; a seed has the same ones first, whatever their number.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.soak.disturb import Disturber, Done, last_commit, stop
from benchmarks.soak.judge import faults
from benchmarks.soak.plan import Disturbance, disturbances
from benchmarks.soak.report import VERSION, Leg, table
from benchmarks.soak.site import JOB, RANKS, REPOSITORY, Overdue, Site, until
from benchmarks.soak.storage import Storage, on_folder, on_s3

PLACES = ("s3", "folder")
KEEPS_ALL = {**JOB["checkpoint"], "keep": 10**6}
"""The undisturbed run's: each checkpoint that the other still has is compared with its."""
_CALM_S = 3600.0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, help="disturbances in all; 100 by default")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--on", choices=PLACES, help="where the run lies; by default one run on each")
    parser.add_argument("--json", type=Path, help="file for all figures")
    parser.add_argument("--keep", type=Path, help="folder for the runs; a temporary one by default")
    asked = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # else what it started would stay
    enough = threading.Event()
    signal.signal(signal.SIGUSR1, lambda number, frame: enough.set())
    on_folders = {None: asked.kills // 3, "s3": 0, "folder": asked.kills}[asked.on]
    shares = {"s3": asked.kills - on_folders, "folder": on_folders}
    with _folder(asked.keep) as folder:
        legs = [_leg(folder / place, place, count, asked.seed, enough) for place, count in shares.items() if count]
    for leg in legs:
        print(table(leg), end="\n\n")
    if asked.json:
        asked.json.write_text(json.dumps({"version": VERSION, "seed": asked.seed, "legs": legs}, indent=1))
    return int(any(faults for leg in legs for faults in leg["faults"].values()))


def _leg(folder: Path, place: str, count: int, seed: int, enough: threading.Event) -> dict[str, Any]:
    """So many disturbances of a run at one of the places, or fewer once it is enough."""
    folder.mkdir(parents=True, exist_ok=True)
    with on_s3() if place == "s3" else on_folder(folder) as storage:
        print(storage.why or f"the run lies in {storage.name}", file=sys.stderr)
        planned = disturbances(seed, count, ranks=RANKS, without=storage.without)
        return soak(folder, storage, planned, enough).document()


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
            disturber.settle(done[-1])
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
