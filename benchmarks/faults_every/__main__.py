"""A run hit by kill -9 of a rank every minute, whose save takes 1 s and whose step takes 0.1 s, and one undisturbed.

    python -m benchmarks.faults_every [--every S] [--steps N] [--json PATH]

Two real ranks on this machine, on a real object store (SeaweedFS). A step of the small MAE is shorter than 0.1 s and
waits for the rest of it; a checkpoint's files wait in a proxy until a save takes 1 s. Neither depends on how busy the
machine is, but the restarts do: their imports are computing.
"""

import argparse
import asyncio
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.faults_every.limit import Case, waiting_for_saves
from benchmarks.soak.disturb import last_commit
from benchmarks.soak.judge import first_ends, losses
from benchmarks.soak.site import JOB, REPOSITORY, Site, send, until
from benchmarks.soak.storage import on_s3
from tests.fixtures.proxy import Proxy

VERSION = 1
UPLOAD_S = 0.9
SAVE_EVERY = "20 steps"
PACED: dict[str, Any] = {
    **{name: value for name, value in JOB.items() if name != "method"},
    "method": {"name": "paced", "decoder_width": 32, "decoder_depth": 1, "decoder_heads": 2},
    "model": {"width": 32, "depth": 2, "heads": 2, "patch_size": 4},
    "data": {"image_size": 16, "normalise": "half", "group": 4, "lanes": 4},
    "batch": {"size": 32, "micro": 16},
    "checkpoint": {"every": SAVE_EVERY, "keep": 2},
}
_POLL_S = 0.1
_LIMIT_S = 3600.0


class SlowUploads(Proxy):
    """Holds back every file of a checkpoint for most of a second, but not the manifest."""

    async def _forward(self, head: bytes, body: bytes) -> bytes:
        if head.startswith(b"PUT ") and b".safetensors" in head.split(b"\r\n", 1)[0]:
            await asyncio.sleep(UPLOAD_S)
        return await super()._forward(head, body)


@dataclass(frozen=True)
class Measured:
    """One run.

    Attributes:
        wall_s: from the submission to the end of the run.
        faults: seconds since 1970 of each.
        entries: the log.
    """

    wall_s: float
    faults: Sequence[float]
    entries: Sequence[dict[str, Any]]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults_every", description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=float, default=60.0, help="seconds from one kill to the next; 60 by default")
    parser.add_argument("--steps", type=int, default=2400, help="of the run; 2400 by default, four minutes undisturbed")
    parser.add_argument("--json", type=Path, help="file for all figures")
    asked = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # else what it started would stay
    with tempfile.TemporaryDirectory(prefix="gmml-faults-") as folder:
        document = measure(Path(folder), asked.every, asked.steps)
    print(table(document))
    if asked.json:
        asked.json.write_text(json.dumps(document, indent=1))
    return int(bool(document["differs"]))


def measure(folder: Path, every_s: float, steps: int) -> dict[str, Any]:
    """Both runs, one after the other, and what is to be said of them."""
    command = [sys.executable, "-m", "gmml_cluster.evaluate.demo.digits", str(folder / "digits")]
    subprocess.run(command, check=True, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    packages, load = _install(folder / "site"), [os.getloadavg()[0]]
    found, sites = [], []
    with on_s3(SlowUploads) as storage:
        for name, faults_s in (("calm", None), ("hit", every_s)):
            where = {**storage.environment, "PYTHONPATH": f"{packages}{os.pathsep}{REPOSITORY}"}
            site = Site(folder / name, f"{storage.root}/{name}", where, {**PACED, "run": {"steps": steps}})
            site.prepare(folder / "digits")
            sites.append(site)
            try:
                found.append(_run(site, faults_s))
            finally:
                site.kill_all()
            load.append(os.getloadavg()[0])
        differs = losses(sites[1].run, sites[0].run)
    return _document(found[0], found[1], every_s, steps, load, differs)


def _install(folder: Path) -> Path:
    """The package of the slowed method, as a package manager lays one down."""
    shutil.copytree(Path(__file__).parent / "paced", folder / "paced", ignore=shutil.ignore_patterns("__pycache__"))
    about = folder / "paced-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: paced\nVersion: 1.0\n")
    offers = {"methods": "paced.method:Paced", "method_options": "paced.options:PacedOptions"}
    lines = [f"[gmml_cluster.{group}]\npaced = {where}\n" for group, where in offers.items()]
    (about / "entry_points.txt").write_text("\n".join(lines))
    return folder


def _run(site: Site, every_s: float | None) -> Measured:
    """Train to the end, a rank killed every so often; whether it is at work, starting or saving then."""
    began, faults = time.time(), []
    site.submit()
    following = time.time() + (every_s or float("inf"))

    def finished() -> bool:
        nonlocal following
        if time.time() >= following:
            following += every_s or 0.0
            ranks = site.ranks()
            if ranks:
                faults.append(time.time())
                send(ranks[max(ranks) if len(faults) % 2 else min(ranks)], signal.SIGKILL)
        return site.run.log.refresh().finished

    until("the end of the run", finished, _LIMIT_S, _POLL_S)
    print(f"{site.run.url}: step {last_commit(site.run.log.refresh())}, {len(faults)} faults", file=sys.stderr)
    entries = site.entries()
    return Measured(max(e["time"] for e in entries if e["kind"] == "end") - began, faults, entries)


def _document(
    calm: Measured, hit: Measured, every_s: float, steps: int, load: Sequence[float], differs: Sequence[str]
) -> dict[str, Any]:
    commits = [entry for entry in calm.entries if entry["kind"] == "commit"]
    begin = next(entry for entry in calm.entries if entry["kind"] == "begin")
    end = next(entry for entry in calm.entries if entry["kind"] == "end")
    step_s = (end["time"] - begin["time"]) / steps
    interval_s = int(SAVE_EVERY.split()[0]) * step_s
    restarts = _restarts(hit)
    case = Case(
        every_s,
        save_s=statistics.median(entry["seconds"] for entry in commits),
        interval_s=interval_s,
        stall_s=statistics.median(entry["stall_s"] for entry in commits),
        restart_s=statistics.mean(restarts) if restarts else 0.0,
    )
    return {
        "version": VERSION,
        "steps": steps,
        "step_s": step_s,
        "load": list(load),
        "faults": len(hit.faults),
        "case": asdict(case),
        "restarts_s": restarts,
        "start_s": begin["time"] - calm.entries[0]["time"],
        "replayed": _replayed(hit.entries),
        "wall_s": {"undisturbed": calm.wall_s, "hit": hit.wall_s},
        "differs": list(differs),
    }


def _restarts(hit: Measured) -> list[float]:
    """Seconds from each fault to the next `begin`."""
    begins = [entry["time"] for entry in hit.entries if entry["kind"] == "begin"]
    return [min(after) - at for at in hit.faults if (after := [begin for begin in begins if begin > at])]


def _replayed(entries: Sequence[dict[str, Any]]) -> list[int]:
    """Steps made again after each attempt whose end says how far it had come."""
    begins = {entry["attempt"]: entry["step"] for entry in entries if entry["kind"] == "begin"}
    return [
        end["step"] + 1 - begins[number + 1]
        for number, end in first_ends(entries).items()
        if end.get("step") is not None and number + 1 in begins
    ]


def table(document: dict[str, Any]) -> str:
    """Markdown."""
    case, steps = Case(**document["case"]), document["steps"]
    trained_s, start_s = steps * document["step_s"], document["start_s"]
    free = Case(**{**document["case"], "restart_s": 0.0})
    synchronous = waiting_for_saves(case.between_s, case.save_s, case.restart_s)
    rows = [
        ("undisturbed, measured", document["wall_s"]["undisturbed"]),
        (f"a fault every {case.between_s:g} s, measured", document["wall_s"]["hit"]),
        ("limit: restarts as measured", start_s + case.seconds(trained_s)),
        ("limit: restarts that take no time", start_s + free.seconds(trained_s)),
        ("limit of a trainer that waits for its saves, same restarts", start_s + synchronous.seconds(trained_s)),
    ]
    load = " to ".join(f"{value:.1f}" for value in document["load"])
    return "\n".join(
        [
            f"{steps} steps of {document['step_s']:.3f} s, saves of {case.save_s:.2f} s every {case.interval_s:.1f} s "
            f"that stall {1000 * case.stall_s:.0f} ms; {document['faults']} faults; first start {start_s:.1f} s; "
            f"restart {case.restart_s:.1f} s; steps replayed {document['replayed']}; load {load}",
            "",
            "| | productive share | wall s | over undisturbed |",
            "|---|---|---|---|",
            *(
                f"| {name} | {100 * trained_s / (wall_s - start_s):.1f} % | {wall_s:.0f} "
                f"| {wall_s / document['wall_s']['undisturbed']:.2f} |"
                for name, wall_s in rows
            ),
            "",
            f"losses equal bit for bit: {'no: ' + '; '.join(document['differs']) if document['differs'] else 'yes'}",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
