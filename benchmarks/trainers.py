"""Training by this project over what a user would run instead: `python -m benchmarks.trainers`.

The same model, batch and random images in memory, one rank with one thread; each program in a process of its own, all
measured in turn. Beside images a second the most memory that each had resident, its imports included.

transformers and lightly are taken from an environment of their own, which `make bench` makes in `build/peers`.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from benchmarks import peer_trainers as peer
from benchmarks.gpu_check.result import Setting
from benchmarks.gpu_check.training import make_trainer, process_group
from benchmarks.measuring_process import MeasuringProcess
from benchmarks.rows import Ratio, Row, interleaved, markdown, ratio_of, write_json
from gmml_cluster.spec.job import JobSpec
from gmml_cluster.spec.loading.validate import parse_job

PEERS = Path(__file__).resolve().parents[1] / "build" / "peers" / "bin" / "python"
METHODS = {
    "mae": {
        "name": "mae", "decoder_width": peer.DECODER_WIDTH, "decoder_depth": peer.DECODER_DEPTH,
        "decoder_heads": peer.DECODER_HEADS, "mask_ratio": peer.MASKED,
    },
    "gmml": {"name": "gmml", "views": 2, "taps": list(peer.TAPS)},
}  # fmt: skip
COMPARED = (("mae", "transformers"), ("mae", "lightly"), ("gmml", "plain"))
NAMES = {
    "transformers": "transformers' ViTMAE by its Trainer",
    "lightly": "lightly's MAE in a plain loop",
    "plain": "a plain loop of the authors' structure",
}

_DRAWN = (
    "its draws and masks are a part of this project's step (8 % of it here, by profile), while the authors' structure "
    "makes them in a worker process, on a second core and in memory that is not counted"
)
IMPORTS = {
    "transformers": "from transformers import Trainer, ViTMAEForPreTraining",
    "lightly": "import lightly.models.modules",
    "plain": "import torch",
}


def main() -> None:
    """Measure, print the rows, and write them with `--json`; with a method's name, train it when asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", type=Path, default=PEERS, help="Python of the peers' environment")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="of each program in each round")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--train", choices=METHODS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.train:
        train(given.train)
        return
    rows = list(rows_of(given))
    print(markdown(rows))
    if given.json:
        write_json(rows, given.json)


def rows_of(given: argparse.Namespace) -> Iterator[Row]:
    """A row of the rate and one of the memory for each peer."""
    if not given.peers.exists():
        sys.exit(f"{given.peers} is missing; make it by `make build/peers/.installed`, or name another by --peers")
    os.environ["OMP_NUM_THREADS"] = "1"
    compared = [(name, other) for name, other in COMPARED if _is_there(given.peers, other)]
    own = {name: [sys.executable, "-m", "benchmarks.trainers", "--train", name] for name, _ in compared}
    peers = {other: [given.peers, "-m", "benchmarks.peer_trainers", other] for _, other in compared}
    with ExitStack() as stack:
        running = {name: stack.enter_context(MeasuringProcess(command)) for name, command in (own | peers).items()}
        rates = interleaved({name: process.of(given.steps) for name, process in running.items()}, given.rounds)
        memory = {name: process.peak_mib() for name, process in running.items()}
    for name, other in compared:
        value = sorted(rates[name])[given.rounds // 2]
        ratio = ratio_of(rates[name], rates[other])
        why = _DRAWN if other == "plain" else ""
        yield Row(f"training {name}", NAMES[other], ratio, 1.0, unit="images/s", value=value, reason=why)
        share = memory[name] / memory[other]
        ratio = Ratio(share, share, share)
        figure = f"memory of training {name}"
        yield Row(figure, NAMES[other], ratio, at_most=1.0, unit="MiB", value=memory[name], reason=why)


def _is_there(python: Path, name: str) -> bool:
    """Whether a peer can be imported; where torchvision is of another build than torch, two of them cannot."""
    tried = subprocess.run([python, "-c", IMPORTS[name]], capture_output=True, text=True, check=False)
    if tried.returncode:
        print(f"{name} is left out: {tried.stderr.strip().splitlines()[-1]}", file=sys.stderr)
    return tried.returncode == 0


def train(name: str) -> None:
    """Train a method by this project's loop, so many steps as each line of standard input says."""
    torch.set_num_threads(1)
    with process_group(Setting("cpu", quick=False, data=Path())) as device:
        trainer, start = make_trainer(job_of(name), device, steps=10**6), 0
        for line in sys.stdin:
            steps, began = int(line), time.perf_counter()
            trainer.train(start, start + steps)
            print(steps * peer.BATCH / (time.perf_counter() - began), flush=True)
            start += steps


def job_of(name: str) -> JobSpec:
    """The job that is trained."""
    data: dict[str, Any] = {"corpora": [{"url": "/none"}], "image_size": peer.SIDE, "group": 8, "augment": "none"}
    return parse_job(
        {
            "name": name,
            "model": {"width": peer.WIDTH, "depth": peer.DEPTH, "heads": peer.HEADS, "patch_size": peer.PATCH,
                      "drop_path": 0},
            "method": METHODS[name],
            "data": data,
            "batch": {"size": peer.BATCH},
            "engine": {"zero": "ddp"},
            "optim": {"lr": peer.LR, "lr_per": None, "betas": list(peer.BETAS),
                      "weight_decay": {"start": peer.DECAY, "end": peer.DECAY},
                      "clip": {"norm": 3.0} if name == "gmml" else None, "schedule": {"warmup": "10 steps"}},
            "run": {"steps": 10**6},
        }
    )  # fmt: skip


if __name__ == "__main__":
    main()
