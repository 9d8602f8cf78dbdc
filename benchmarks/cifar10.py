"""The main job on real images: CIFAR-10 from a real S3 store, on a real SLURM of two nodes, scored before and after.

    python -m benchmarks.cifar10 [--method mae|gmml] [--images N] [--data FOLDER]

Starts both servers on this machine, in temporary folders, and stops them. Progress goes to standard error, the table to
standard output.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import yaml

from gmml_cluster.store.open import open_store
from tests.fixtures.s3 import running_s3
from tests.fixtures.slurm import missing, running_slurm

REPOSITORY = Path(__file__).parents[1]
DATA = REPOSITORY.parent / "shared" / "data"
JOBS = {"mae": "jobs/cifar10_vit_tiny.yaml", "gmml": "jobs/cifar10_gmml.yaml"}
WARMUP_SHARE = 10
EIGHTH = 8
NO_SERVERS = (pytest.skip.Exception, pytest.fail.Exception)

Document = dict[str, Any]


@dataclass
class Site:
    """Where the commands run, as a user's shell would run them.

    Attributes:
        folder: home of the user, with the cluster's profile.
        bucket: URL of the bucket with the shards and the runs.
        environment: leads to the cluster and the store.
        secrets: names of the variables that lead to the store.
        commands: lines run so far.
    """

    folder: Path
    bucket: str
    environment: dict[str, str]
    secrets: list[str]
    commands: list[str] = field(default_factory=list)

    def call(self, *words: str, shown: bool = False) -> str:
        """Run `gmml ...` or `gmml-submit ...`; its standard output, which goes to standard error where `shown`.

        Raises:
            CalledProcessError: its exit code is not 0.
        """
        self.commands.append(shlex.join(words))
        print(f"$ {self.commands[-1]}", file=sys.stderr, flush=True)
        program = str(Path(sys.executable).parent / words[0])
        where = sys.stderr if shown else subprocess.PIPE
        command = [program, *words[1:]]
        done = subprocess.run(command, env=self.environment, cwd=REPOSITORY, stdout=where, text=True, check=True)
        return done.stdout or ""


@contextmanager
def running_site() -> Iterator[Site]:
    """Two nodes, a store and a home, for the length of the context."""
    with running_slurm() as slurm, running_s3() as store, tempfile.TemporaryDirectory(prefix="gmml-cifar10-") as folder:
        os.environ.update(store.environment)
        home = {"HOME": folder, "XDG_STATE_HOME": f"{folder}/state", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
        environment = {**os.environ, **slurm.environment, **home}
        yield Site(Path(folder), f"s3://{store.make_bucket()}", environment, sorted(store.environment))


def upload(data: Path, site: Site) -> None:
    """Expand the packed pictures of a data folder, and put the shards into the bucket."""
    subprocess.run([sys.executable, str(data / "expand.py"), str(site.folder), "cifar10"], check=True)
    corpus = open_store(f"{site.bucket}/corpora/cifar10")
    for shard in sorted((site.folder / "cifar10").glob("*.tar")):
        corpus.put_file(shard.name, shard)


def profile(site: Site) -> Document:
    """The cluster's profile: runs lie in the bucket, keys of the store are passed on."""
    slurm = {"partition": "low", "time": "2 h", "notice": "60 s", "folder": f"{site.folder}/slurm"}
    root = f"{site.bucket}/runs"
    return {"launcher": "slurm", "root": root, "ranks_per_node": 1, "secrets": site.secrets, "slurm": slurm}


def pretrain(site: Site, run: str, method: str, images: int) -> None:
    """Submit the job with its own recipe at this budget, a tenth of it warm-up, and follow it to its end."""
    cluster = site.folder / "two-nodes.yaml"
    cluster.write_text(yaml.safe_dump(profile(site), sort_keys=False))
    fields = [
        f"name={run}",
        "resources.nodes=2",
        f"data.corpora.0.url={site.bucket}/corpora/cifar10/train-*.tar",
        f"run={{samples: {images}}}",
        f"optim.schedule.warmup={images // WARMUP_SHARE} samples",
    ]
    site.call("gmml-submit", JOBS[method], "--cluster", str(cluster), *fields, "--follow", shown=True)


def scores(site: Site, run: str, *options: str) -> dict[tuple[str, str], Document]:
    """Scores to report, of the run's encoder on the test shards, by score and feature."""
    corpus = f"{site.bucket}/corpora/cifar10/test-*.tar"
    text = site.call("gmml", "eval", run, "--with", "knn,linear", "--corpus", corpus, *options, "--json")
    return {(score["score"], score["feature"]): score for score in json.loads(text)["scores"] if score["main"]}


def lines(site: Site, what: str, run: str) -> list[Document]:
    """Documents that `gmml metrics` or `gmml log` prints of a run."""
    return [json.loads(line) for line in site.call("gmml", what, run, "--json").splitlines()]


def training_rows(metrics: Sequence[Document], entries: Sequence[Document]) -> Iterator[tuple[str, str]]:
    """What the training took and gave."""
    claim, begin, end = (next(e for e in entries if e["kind"] == kind) for kind in ("claim", "begin", "end"))
    if end["cause"] != "finished":
        raise RuntimeError(f"the run ended as {end['cause']}, not as finished; see the log above")
    seen, seconds = sum(line["batch"] for line in metrics), end["time"] - begin["time"]
    losses, part = [line["loss"] for line in metrics], max(1, len(metrics) // EIGHTH)
    yield "ranks, ZeRO stage", f"{claim['topology']['ranks']}, {claim['topology']['zero']}"
    yield "images seen", f"{seen:,} in {len(metrics):,} steps"
    yield "seconds, checkpoints included", f"{seconds:.0f}"
    yield "images/s", f"{seen / seconds:.0f}"
    yield "loss, first -> last eighth", f"{fmean(losses[:part]):.3f} -> {fmean(losses[-part:]):.3f}"
    yield "checkpoints written", str(sum(entry["kind"] == "commit" for entry in entries))


def score_rows(before: dict[tuple[str, str], Document], after: dict[tuple[str, str], Document]) -> Iterator[str]:
    """A line for each score and feature: accuracy before and after, with one standard error of sampling."""
    for (name, feature), old in before.items():
        new = after[name, feature]
        written = [f"{score['accuracy']:.1f} ± {score['error']:.1f}" for score in (old, new)]
        label = "kNN, k = 20" if name == "knn" else "linear"
        yield f"| {label} | {feature} | {written[0]} | {written[1]} | {new['accuracy'] - old['accuracy']:+.1f} |"


def run(method: str, images: int, data: Path) -> str:
    """Do it all; the report as markdown."""
    name = f"cifar10_{method}"
    with running_site() as site:
        upload(data, site)
        pretrain(site, name, method, images)
        before, after = scores(site, name, "--untrained"), scores(site, name)
        commands = "\n".join(site.commands)
        training = training_rows(lines(site, "metrics", name), lines(site, "log", name))
        samples = next(iter(after.values()))["samples"]
        table = ["| training | |", "|---|---|", *(f"| {what} | {value} |" for what, value in training), ""]
        table += [f"Top-1 accuracy on {samples:,} test images, percent, ± one standard error of sampling:", ""]
        table += ["| score | feature | before | after | gain |", "|---|---|---:|---:|---:|", *score_rows(before, after)]
        cluster = (site.folder / "two-nodes.yaml").read_text()
    table += ["", "```", commands, "```", "", "`two-nodes.yaml`:", "", "```yaml", cluster.rstrip(), "```"]
    return "\n".join(table)


def refusal(data: Path) -> str:
    """What this machine lacks, as a sentence; empty where it lacks nothing."""
    if not (data / "expand.py").is_file():
        return f"{data}: has no expand.py; the packed CIFAR-10 is no part of the repository; name its folder by --data"
    return missing()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cifar10", description=__doc__.splitlines()[0])
    parser.add_argument("--method", choices=JOBS, default="mae", help="mae by default")
    parser.add_argument("--images", type=int, default=100_000, help="images to train on; 100,000 by default")
    parser.add_argument("--data", type=Path, default=DATA, help="folder with expand.py and the packed pictures")
    asked = parser.parse_args()
    if lacking := refusal(asked.data):
        sys.exit(f"cifar10: {lacking}")
    try:
        print(run(asked.method, asked.images, asked.data))
    except NO_SERVERS as reason:
        sys.exit(f"cifar10: {reason}")


if __name__ == "__main__":
    main()
