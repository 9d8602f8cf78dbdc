"""An encoder, a format and a card into a new folder."""

import shutil
from pathlib import Path

from gmml_cluster.errors import Fault, SpecError
from gmml_cluster.export.card import model_card
from gmml_cluster.export.formats import FORMATS
from gmml_cluster.run.root import RunRoot, commit_of
from gmml_cluster.spec.job import JobSpec
from gmml_cluster.train.checkpoints.load_trained import load_encoder

CARD = "README.md"


def export_encoder(
    run: RunRoot, target: str, folder: Path, step: int | None = None, image_size: int | None = None
) -> int:
    """Write a run's encoder for another library; the folder appears whole or not at all.

    Args:
        run: the run.
        target: one of `FORMATS`.
        folder: is made; it may exist if it is empty.
        step: which checkpoint; the latest by default.
        image_size: side of the images that it is to read; the run's by default.

    Returns:
        The checkpoint's step.

    Raises:
        SpecError: the folder has files in it, or it is a file.
        CheckpointError: there is no such checkpoint, it is damaged, or no model of the library computes this encoder.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SpecError(Fault(str(folder), "is not an empty folder", "name another by --output, or remove it"))
    commit, job = commit_of(run, step), run.job({})
    encoder = load_encoder(run, commit.step, image_size)
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir()
    try:
        loading = FORMATS[target](encoder, _at(job, image_size), made)
        (made / CARD).write_text(model_card(run, job, commit, loading, image_size))
        made.rename(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return commit.step


def _at(job: JobSpec, image_size: int | None) -> JobSpec:
    """The job with another image size, for the files that say what the encoder reads."""
    size = image_size or job.data.image_size
    return job.model_copy(update={"data": job.data.model_copy(update={"image_size": size})})
