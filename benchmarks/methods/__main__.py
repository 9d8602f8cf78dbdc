"""Every method and a start from scratch on real images: pre-trained, scored and put into one table.

    python -m benchmarks.methods [--only mae,scratch] [--seeds N] [--images N] [--report]

Each step is a run of this project under --root: stopped at any time, the same command goes on from there. Results of
the whole budget are kept in measured.json beside this file, so that another machine goes on from those.
"""

import argparse
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.methods import measured
from benchmarks.methods.results import result
from benchmarks.methods.runs import Bench, measure, prepare
from benchmarks.methods.table import report
from benchmarks.methods.trials import CORPORA, IMAGES, METHODS, SCRATCH, Trial, trials
from gmml_cluster.errors import GmmlError

REPOSITORY = Path(__file__).parents[2]
DATA = REPOSITORY.parent / "shared" / "data"
PAGE = REPOSITORY / "docs" / "comparison.md"
ALL = (*METHODS, SCRATCH)
SEEDS = 3
INTERRUPTED = 130


def _chosen(known: Sequence[str], given: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(given.split(",")))
    if unknown := [name for name in names if name not in known]:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}; known are {', '.join(known)}")
    return names


def _positive(given: str) -> int:
    number = int(given)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number}; give at least 1")
    return number


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.methods", description=__doc__.splitlines()[0])
    parser.add_argument("--only", type=lambda text: _chosen(ALL, text), default=ALL, help=f"of {','.join(ALL)}")
    parser.add_argument("--corpora", type=lambda text: _chosen(tuple(CORPORA), text), default=tuple(CORPORA))
    parser.add_argument("--seeds", type=_positive, default=SEEDS, help="of mae, gmml and their starts; 3 by default")
    parser.add_argument("--images", type=_positive, default=IMAGES, help="of pre-training; the rest is in proportion")
    parser.add_argument("--root", type=Path, default=REPOSITORY / "runs" / "methods", help="folder of all that is made")
    parser.add_argument("--data", type=Path, default=DATA, help="folder with expand.py and the packed pictures")
    parser.add_argument(
        "--report", action="store_true", help="run nothing; write what has finished to docs/comparison.md"
    )
    return parser.parse_args(arguments)


def command_of(asked: argparse.Namespace) -> str:
    """The command that measures the same, without this machine's folders."""
    words = ["python", "-m", "benchmarks.methods"]
    for name, default in (("only", ALL), ("corpora", tuple(CORPORA)), ("seeds", SEEDS), ("images", IMAGES)):
        value = getattr(asked, name)
        if value != default:
            words += [f"--{name}", ",".join(value) if isinstance(value, tuple) else str(value)]
    return shlex.join(words)


def measure_all(bench: Bench, wanted: Sequence[Trial]) -> int:
    """Measure trial by trial what is not known yet; one that fails hides no other. The number that failed."""
    failed, known = 0, measured.known(wanted)
    for number, trial in enumerate(wanted, 1):
        if trial in known:
            continue
        print(f"[{number}/{len(wanted)}] {trial.name}", file=sys.stderr, flush=True)
        try:
            measure(bench, trial)
            measured.keep(result(bench.root, trial))
        except (GmmlError, subprocess.CalledProcessError) as error:
            failed += 1
            print(f"{trial.name}: {error}", file=sys.stderr, flush=True)
    return failed


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit code."""
    asked = parsed(sys.argv[1:] if arguments is None else arguments)
    chosen = {"only": asked.only, "corpora": asked.corpora, "seeds": asked.seeds, "images": asked.images}
    bench, wanted, failed = Bench(asked.root.resolve()), list(trials(**chosen)), 0
    if not wanted:
        print("methods: nothing of it is measured on these corpora", file=sys.stderr)
        return 2
    if not asked.report:
        if not (asked.data / "expand.py").is_file():
            print(f"methods: {asked.data} has no expand.py; name the folder by --data", file=sys.stderr)
            return 2
        try:
            prepare(bench, asked.data, asked.corpora)
            failed = measure_all(bench, wanted)
        except KeyboardInterrupt:
            return INTERRUPTED
    known = measured.known(wanted)
    text = report([known.get(trial) or result(bench.root, trial) for trial in wanted], command_of(asked))
    if asked.report:
        PAGE.write_text(text)
    else:
        print(text)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
