"""`gmml eval --with segmentation,patch-knn` on a real run: digits whose strokes are their class."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from gmml_cluster.data.packing.pack import pack
from gmml_cluster.data.packing.sources import find_source

DIGITS = (0, 1, 7)
CLASSES = len(DIGITS) + 1
"""Background, and one for each digit."""


def png(pixels):
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, "PNG")
    return held.getvalue()


def packed(folder, images, labels):
    """A corpus of digits of 16 pixels with masks, made by the very command that packs ADE20K."""
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        grey = np.kron((image * 15.9).astype(np.uint8), np.ones((2, 2), np.uint8))
        mask = np.where(grey > 100, 1 + DIGITS.index(label), 0).astype(np.uint8)
        for kind, pixels in (("images", np.repeat(grey[..., None], 3, 2)), ("masks", mask)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            (folder / kind / f"{number:04d}.png").write_bytes(png(pixels))
    source = find_source(str(folder / "images"), masks=str(folder / "masks"))
    return f"{folder / 'corpus'}/{pack(source, str(folder / 'corpus')).braces}"


@pytest.fixture
def corpora(tmp_path):
    found = pytest.importorskip("sklearn.datasets").load_digits()
    chosen = np.isin(found.target, DIGITS)
    images, labels = found.images[chosen], found.target[chosen].tolist()
    return packed(tmp_path / "bank", images[:400], labels[:400]), packed(tmp_path / "test", images[400:], labels[400:])


def test_a_segmentation_is_trained_as_a_run_and_its_miou_is_kept_with_the_run_that_it_judges(workshop, corpora):
    cluster, (bank, corpus) = workshop.profile(1), corpora
    method = {"name": "mae", "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}
    model = {"width": 32, "depth": 2, "heads": 2, "patch_size": 4}
    job = workshop.job("judged", model=model, method=method, run={"steps": 60}, engine={"zero": "ddp"})
    workshop.call("gmml-submit", job, "--cluster", cluster, "--follow")
    common = ["--root", workshop.root, "--bank", bank, "--corpus", corpus, "--classes", str(CLASSES), "--json"]
    untrained = json.loads(workshop.call("gmml", "eval", "judged", "--with", "patch-knn", "--untrained", *common))
    neighbours = json.loads(workshop.call("gmml", "eval", "judged", "--with", "patch-knn", *common))
    asked = ["--with", "segmentation", "--cluster", cluster, "--epochs", "20", *common]
    head = json.loads(workshop.call("gmml", "eval", "judged", *asked))
    (score,) = head["scores"]
    assert (score["score"], score["metric"], len(score["iou"])) == ("segmentation", "mIoU", CLASSES)
    background = 100 * score["pixel_accuracy"] / 100 / CLASSES  # what a head that sees nothing could reach at most
    assert score["accuracy"] > 1.5 * background
    (slid,) = json.loads(workshop.call("gmml", "eval", "judged", *asked, "--sliding"))["scores"]
    assert slid["sliding"] == 1
    assert slid["iou"] == score["iou"], "these images are as large as what the encoder reads"
    assert neighbours["scores"][-1]["accuracy"] > background
    assert neighbours["scores"][-1] != untrained["scores"][-1]
    kept = [entry["step"] for entry in workshop.entries(f"{workshop.root}/judged") if entry["kind"] == "score"]
    assert kept == [-1, 59, 59, 59]
    rows = json.loads(workshop.call("gmml", "compare", "judged", "--root", workshop.root, "--json"))["scores"]
    assert {(row["score"], row["feature"], row["step"]) for row in rows} == {
        ("patch-knn", "mIoU", 59),
        ("segmentation", "mIoU frozen", 59),
    }
    assert "segmentation" in workshop.call("gmml", "status", "judged", "--root", workshop.root)
