"""`python -m gmml_cluster.evaluate.pictures`: what a run made of the same images; `gmml report --images` starts it.

Every checkpoint that exists and the untrained network see the same images with the same masks: those of the first
sample numbers. What was drawn before is not drawn again.
"""

import base64
import io
import time
from collections.abc import Sequence
from typing import Any

import click
import numpy as np
from PIL import Image
from torch import Tensor

from gmml_cluster.data.corpus.listing import indexes_below
from gmml_cluster.data.eval_reader import Samples
from gmml_cluster.errors import GmmlError
from gmml_cluster.evaluate.reconstruction import Reconstruction, choose, first_images, reconstruct
from gmml_cluster.outputs.leave import leave
from gmml_cluster.progress import progress
from gmml_cluster.run.results.pictures import UNTRAINED, is_kept, name_of, write
from gmml_cluster.run.root import run_root
from gmml_cluster.train.checkpoints.load_trained import load_trained

IMAGES = 8
LOSSLESS_SIDE, SIDE, QUALITY = 64, 112, 80
"""Images up to the first are kept as PNG; larger ones are shrunk to the second, and kept as JPEG of that quality."""


def draw(root: str, name: str, corpus: str) -> list[str]:
    """Draw what is not drawn yet of a run, and keep it in its root.

    Args:
        root, name: the run.
        corpus: URL of the shards whose first images are shown.

    Returns:
        The files that were written.

    Raises:
        SpecError: the method shows no images.
        CheckpointError: a checkpoint is damaged.
        StorageError: the store does not answer.
    """
    run = run_root(root, name)
    samples = Samples(corpus, indexes_below(root), image=run.job({}).data.corpora[0].image)
    commits = [(commit.step, commit.attempt) for commit in run.log.refresh().commits]
    wanted = [(UNTRAINED, 0), *dict(commits).items()]
    files = [(*of, name_of(*of, samples.identity)) for of in wanted]
    missing = [each for each in files if not is_kept(run.store, each[2])]
    with progress(f"drawing {name}", len(missing)) as advance:
        for step, attempt, file in missing:
            trained = load_trained(root, name, step=None if step == UNTRAINED else step, untrained=step == UNTRAINED)
            shown = choose(reconstruct(trained, first_images(trained, samples)), IMAGES)
            made = {"step": step, "attempt": attempt, "made": time.time()}
            write(run.store, file, {**made, "corpus": {"url": corpus, "digest": samples.identity}, **document(shown)})
            advance(1)
    return [file for *_, file in missing]


def document(shown: Sequence[Reconstruction]) -> dict[str, Any]:
    """The images as a document has them: of each its kind of corruption and three `data:` URLs, with AMT four."""
    states = ["original", "corrupted", "reconstructed", *(["map"] if shown[0].map is not None else [])]
    images = [{"kind": one.kind, **{state: encoded(getattr(one, state)) for state in states}} for one in shown]
    return {"what": shown[0].made, "images": images}


def encoded(pixels_SS3: Tensor) -> str:
    """Colours in [0, 1] as a `data:` URL."""
    image = Image.fromarray((pixels_SS3.numpy() * 255).round().astype(np.uint8))
    stream, is_small = io.BytesIO(), image.width <= LOSSLESS_SIDE
    if is_small:
        image.save(stream, "PNG", optimize=True)
    else:
        image.resize((SIDE, SIDE), Image.Resampling.LANCZOS).save(stream, "JPEG", quality=QUALITY)
    return f"data:image/{'png' if is_small else 'jpeg'};base64,{base64.b64encode(stream.getvalue()).decode()}"


@click.command("python -m gmml_cluster.evaluate.pictures")
@click.option("--root", required=True, help="Folder or URL under which the run lies.")
@click.option("--run", required=True, help="Name of the run.")
@click.option("--corpus", required=True, help="Shards whose first images are shown.")
@click.option("--json", "as_json", is_flag=True, help="An error is a document on stdout too.")
def main(root: str, run: str, corpus: str, as_json: bool) -> None:
    """Draw what a run's network makes of the first images of a corpus, at each checkpoint that exists."""
    try:
        written = draw(root, run, corpus)
    except GmmlError as error:
        leave(error, as_json=as_json)
    click.echo(f"{run}: {len(written)} checkpoints drawn", err=True)


if __name__ == "__main__":
    main()
