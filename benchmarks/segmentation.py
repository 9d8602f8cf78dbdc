"""What pre-training is worth for the class of each pixel: mIoU of encoders, and of their starts, on composed pictures.

    python -m benchmarks.segmentation [--seeds N] [--root FOLDER] [--data FOLDER]

A picture is one of CIFAR-10 in which an ellipse shows another one; its mask says from which class each pixel comes. The
encoders are those of `benchmarks.methods` under the same --root: what of them has not finished is trained, and the same
command goes on from wherever it was stopped.
"""

import argparse
import io
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.methods.__main__ import DATA, REPOSITORY, SEEDS
from benchmarks.methods.jobs import encoder_job
from benchmarks.methods.results import mean_and_spread
from benchmarks.methods.runs import Bench, gmml, prepare, train
from benchmarks.methods.trials import IMAGES, Trial
from gmml_cluster.run.results.evaluations import kept
from gmml_cluster.run.root import run_root

CORPUS, METHOD, CLASSES = "cifar10", "mae", 10
COUNTS = {"train": 1500, "test": 500}
"""Composed pictures: of the pictures to train on, and of those to test on."""
EPOCHS = 10
SCORES = {"patch-knn": "nearest neighbours of patches", "segmentation": "linear head on frozen patches"}

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Pictures:
    """Pictures (n, S, S, 3) and their classes (n,)."""

    pixels: Pixels
    labels: Pixels


def read(shards: Sequence[Path]) -> Pictures:
    """All pictures of shards as `expand.py` writes them: a PNG, and behind it its class."""
    pixels, labels = [], []
    for shard in shards:
        with tarfile.open(shard) as tar:
            for member in tar:
                found = tar.extractfile(member)
                assert found is not None
                if member.name.endswith(".cls"):
                    labels.append(int(found.read()))
                else:
                    pixels.append(np.asarray(Image.open(io.BytesIO(found.read())).convert("RGB")))
    return Pictures(np.stack(pixels), np.array(labels, np.uint8))


def compose(pictures: Pictures, count: int, seed: int) -> Iterator[tuple[Pixels, Pixels]]:
    """Pictures (S, S, 3) in which an ellipse shows another one, of another class, and their masks (S, S)."""
    random, size = np.random.default_rng(seed), pictures.pixels.shape[1]
    rows, columns = np.mgrid[:size, :size]
    for _ in range(count):
        ground, figure = random.choice(len(pictures.labels), 2, replace=False)
        while pictures.labels[ground] == pictures.labels[figure]:
            figure = random.integers(len(pictures.labels))
        centre, axes = random.uniform(size / 4, 3 * size / 4, 2), random.uniform(size / 5, size / 2.5, 2)
        inside = ((rows - centre[0]) / axes[0]) ** 2 + ((columns - centre[1]) / axes[1]) ** 2 < 1
        picture = np.where(inside[..., None], pictures.pixels[figure], pictures.pixels[ground])
        yield picture, np.where(inside, pictures.labels[figure], pictures.labels[ground])


def prepare_composed(bench: Bench) -> None:
    """Pack both corpora where they are not there yet."""
    for seed, (part, count) in enumerate(COUNTS.items()):
        corpus = composed(bench, part)
        if corpus.exists():
            continue
        pictures = read(sorted((bench.data / CORPUS).glob(f"{part}-*.tar")))
        with tempfile.TemporaryDirectory(dir=bench.folder) as aside:
            for number, pair in enumerate(compose(pictures, count, seed)):
                for kind, pixels in zip(("images", "masks"), pair, strict=True):
                    (Path(aside) / kind).mkdir(exist_ok=True)
                    Image.fromarray(pixels).save(Path(aside) / kind / f"{number:05d}.png")
            gmml("corpus", "pack", f"{aside}/images", f"{aside}/packed", "--masks", f"{aside}/masks")
            shutil.move(f"{aside}/packed", corpus)


def composed(bench: Bench, part: str) -> Path:
    """Folder of a corpus of composed pictures."""
    return bench.data / f"{CORPUS}_composed_{part}"


def scores_of(bench: Bench, trial: Trial) -> dict[str, dict[str, Any]]:
    """What is kept of an encoder's scores on the composed pictures, by name."""
    url = str(composed(bench, "test"))
    of_them = (document for document in kept(run_root(bench.root, trial.name)) if document["corpus"]["url"] == url)
    return {score["score"]: score for document in of_them for score in document["scores"] if score["main"]}


def measure(bench: Bench, trial: Trial) -> dict[str, dict[str, Any]]:
    """The scores of an encoder; what is missing is made."""
    if not run_root(bench.root, trial.name).log.refresh().finished:
        train(bench, encoder_job(trial, bench.data))
    missing = [name for name in SCORES if name not in scores_of(bench, trial)]
    if missing:
        corpora = ["--bank", str(composed(bench, "train")), "--corpus", str(composed(bench, "test"))]
        asked = ["--with", ",".join(missing), "--classes", str(CLASSES), "--epochs", str(EPOCHS)]
        gmml("eval", trial.name, "--root", bench.root, "--cluster", str(bench.profile), *corpora, *asked)
    return scores_of(bench, trial)


def table(found: dict[bool, list[dict[str, dict[str, Any]]]]) -> Iterator[str]:
    """Rows of mIoU by score: of starts, of trained encoders, and the gain seed by seed.

    Args:
        found: scores of each seed, by whether the encoder is a start.
    """
    yield "| score | start | pre-trained | gain |"
    yield "|---|---:|---:|---:|"
    for name, said in SCORES.items():
        cells = []
        for scratch in (True, False):
            mean, spread = mean_and_spread(each[name]["accuracy"] for each in found[scratch])
            error = max(each[name]["error"] for each in found[scratch])
            cells.append(f"{mean:.1f} ± {error:.1f}" + ("" if spread is None else f" ({spread:.1f})"))
        pairs = zip(found[False], found[True], strict=True)
        mean, spread = mean_and_spread(own[name]["accuracy"] - start[name]["accuracy"] for own, start in pairs)
        yield f"| {said} | {' | '.join(cells)} | {mean:+.1f}" + ("" if spread is None else f" ({spread:.1f})") + " |"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.segmentation", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=SEEDS, help="of pre-training; 3 by default")
    parser.add_argument("--root", type=Path, default=REPOSITORY / "runs" / "methods", help="folder of all that is made")
    parser.add_argument("--data", type=Path, default=DATA, help="folder with expand.py and the packed pictures")
    asked = parser.parse_args(arguments)
    if not (asked.data / "expand.py").is_file():
        sys.exit(f"segmentation: {asked.data} has no expand.py; name the folder by --data")
    bench = Bench(asked.root.resolve())
    prepare(bench, asked.data, [CORPUS])
    prepare_composed(bench)
    found: dict[bool, list[dict[str, dict[str, Any]]]] = {True: [], False: []}
    for seed in range(asked.seeds):
        for scratch, scores in found.items():
            trial = Trial(CORPUS, METHOD, seed, IMAGES, scratch)
            print(trial.name, file=sys.stderr, flush=True)
            scores.append(measure(bench, trial))
    counts = f"{COUNTS['test']:,} composed pictures; the bank has {COUNTS['train']:,}"
    print(
        f"mIoU in percent over {CLASSES} classes on {counts}; ± one standard error, in brackets the spread over seeds\n"
    )
    print("\n".join(table(found)))


if __name__ == "__main__":
    main()
