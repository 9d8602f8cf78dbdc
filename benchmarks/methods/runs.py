"""Running the trials as runs of this project on this machine; what has finished is found so, and not run again."""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from benchmarks.methods.jobs import encoder_job, head_job, shards
from benchmarks.methods.results import scores_of
from benchmarks.methods.trials import CORPORA, Trial
from gmml_cluster import api
from gmml_cluster.launch.code import installed_code
from gmml_cluster.spec.job import JobSpec
from gmml_cluster.spec.loading.validate import to_yaml

FROZEN = ("knn", "linear")
FEATURE = "mean"
"""The mean of the patch tokens, which every encoder has."""
_STOPPING_S = 2.0


@dataclass(frozen=True)
class Bench:
    """The folder in which everything lies: `data`, `jobs`, `runs` and the profile.

    Attributes:
        folder: absolute path; made as needed.
    """

    folder: Path

    @property
    def data(self) -> Path:
        """The shards, a folder a corpus."""
        return self.folder / "data"

    @property
    def root(self) -> str:
        """Root of the runs."""
        return str(self.folder / "runs")

    @property
    def profile(self) -> Path:
        """Profile of this machine."""
        return self.folder / "local.yaml"


def prepare(bench: Bench, source: Path, corpora: Collection[str]) -> None:
    """Write the profile, and the shards of the corpora with their indexes where they are not there yet.

    Args:
        bench: where to.
        source: folder of `expand.py` and the packed pictures.
        corpora: keys of `CORPORA`.
    """
    bench.data.mkdir(parents=True, exist_ok=True)
    bench.profile.write_text(json.dumps({"launcher": "local", "root": bench.root}))
    for corpus in corpora:
        if not (bench.data / corpus).exists():
            _expand(bench, source, corpus)


def _expand(bench: Bench, source: Path, corpus: str) -> None:
    """Expand aside and rename at the end, so that an interrupted expansion leaves no half corpus."""
    with tempfile.TemporaryDirectory(dir=bench.folder) as aside:
        subprocess.run([sys.executable, str(source / "expand.py"), aside, corpus], check=True)
        for pattern in (CORPORA[corpus].train, CORPORA[corpus].test):
            gmml("corpus", "index", f"{aside}/{corpus}/{pattern}")
        shutil.move(f"{aside}/{corpus}", bench.data / corpus)


def measure(bench: Bench, trial: Trial) -> None:
    """Train and score whatever of a trial is not finished yet.

    Raises:
        GmmlError: a run failed, or a run of its name is another one.
        CalledProcessError: a scoring failed; its message is on standard error.
    """
    train(bench, encoder_job(trial, bench.data))
    test = shards(bench.data, trial.corpus, "test")
    where = ["--root", bench.root]
    if not scores_of(bench.root, trial).keys() >= set(FROZEN):
        gmml("eval", trial.name, *where, "--with", ",".join(FROZEN), "--feature", FEATURE, "--corpus", test)
    for head in trial.heads:
        train(bench, head_job(trial, head, bench.root))
        if head not in scores_of(bench.root, trial):
            of = ["--of-root", bench.root, "--of", trial.name, "--code", installed_code(head).digest]
            _python("gmml_cluster.evaluate.classify", *where, "--run", trial.head_name(head), *of, "--corpus", test)


def train(bench: Bench, job: JobSpec) -> None:
    """Submit a job, and wait until it has finished; one that is interrupted here is asked to save and stop.

    Raises:
        GmmlError: it failed, or could not be submitted.
    """
    file = bench.folder / "jobs" / f"{job.name}.yaml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(to_yaml(job))
    run = _submit(file, bench)
    if run.submitted is not None and run.submitted.action != "finished":
        print(f"{job.name}: {run.submitted.action}", file=sys.stderr, flush=True)
        try:
            run.wait()
        except KeyboardInterrupt:
            print(f"{job.name}: {run.cancel()}; the same command continues it", file=sys.stderr)
            raise


def _submit(file: Path, bench: Bench) -> api.Run:
    run = api.submit(file, str(bench.profile))
    while run.submitted is not None and run.submitted.action == "stopping":  # interrupted just before, and saving yet
        time.sleep(_STOPPING_S)
        run = api.submit(file, str(bench.profile))
    return run


def gmml(*words: str) -> None:
    """Run a command of this project; its output goes to standard error.

    Raises:
        CalledProcessError: its exit code is not 0.
    """
    _python("gmml_cluster.cli.main", *words)


def _python(module: str, *words: str) -> None:
    subprocess.run([sys.executable, "-m", module, *words], check=True, stdout=sys.stderr)
