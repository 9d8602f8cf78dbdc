"""Segmentations are scored as scikit-learn and plain loops score them."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from gmml_cluster.data.eval_reader import Samples
from gmml_cluster.errors import DataError, SpecError
from gmml_cluster.evaluate import patch_knn
from gmml_cluster.evaluate.features import hold_out
from gmml_cluster.evaluate.masked import PARTS, Confusion, dense_settings, read_masked
from gmml_cluster.evaluate.scoring import demand_apart
from gmml_cluster.spec.methods.segmentation import mask_table
from tests.unit.data.masks import masked_shards

metrics = pytest.importorskip("sklearn.metrics")
neighbors = pytest.importorskip("sklearn.neighbors")
CLASSES = 4
TABLE = mask_table(CLASSES, ignore=255, zero_ignored=False)


def drawn(images, seed=0):
    """Maps at the size of their masks, so that nothing is interpolated, and masks with ignored pixels."""
    rng = np.random.default_rng(seed)
    maps = rng.standard_normal((images, CLASSES, 6, 6))
    return maps, rng.choice([0, 1, 2, 3, 255], (images, 6, 6)).astype(np.uint8)


def test_miou_is_scikit_learns_jaccard_score():
    maps, masks = drawn(25)
    maps[:, 3] -= 10  # never predicted
    found = Confusion(CLASSES)
    for each, mask in zip(maps, masks, strict=True):
        found.add(torch.from_numpy(each), mask)
    score = found.score("segmentation", "mIoU frozen", {})
    truth, predicted = masks[masks != 255], maps.argmax(1)[masks != 255]
    assert score.iou == pytest.approx(metrics.jaccard_score(truth, predicted, average=None))
    assert score.accuracy == pytest.approx(metrics.jaccard_score(truth, predicted, average="macro"))
    assert score.pixel_accuracy == pytest.approx(metrics.accuracy_score(truth, predicted))
    assert (score.iou[3], score.samples) == (0, 25)
    without = [np.arange(25) % PARTS != part for part in range(PARTS)]
    means = [
        metrics.jaccard_score(m[m != 255], p[m != 255], average="macro")
        for m, p in ((masks[kept], maps.argmax(1)[kept]) for kept in without)
    ]
    assert score.error == pytest.approx(np.sqrt((PARTS - 1) / PARTS * ((means - np.mean(means)) ** 2).sum()))
    assert score.to_json()["metric"] == "mIoU"


def test_a_class_that_neither_masks_nor_predictions_have_is_left_out():
    maps, masks = drawn(3)
    maps[:, 2] -= 10
    masks[masks == 2] = 255
    found = Confusion(CLASSES)
    for each, mask in zip(maps, masks, strict=True):
        found.add(torch.from_numpy(each), mask)
    score = found.score("segmentation", "mIoU frozen", {})
    assert score.iou[2] is None
    assert score.accuracy == pytest.approx(np.mean([score.iou[c] for c in (0, 1, 3)]))


def test_logits_are_upsampled_to_each_mask():
    maps = torch.zeros(2, 2, 2)
    maps[1, :, 1] = 1.0
    found = Confusion(2)
    found.add(maps, np.array([[0, 0, 0, 0, 0, 1, 1, 1, 1, 1]] * 7, np.uint8) * 1)
    assert found.images == 1
    # class 0 has 0 everywhere, class 1 rises from the first cell's centre on, where it first exceeds 0
    predicted_one = found.pixels[0].sum(0)[1]
    assert predicted_one == 7 * 7


def test_votes_are_those_of_scikit_learns_neighbours():
    rng = np.random.default_rng(0)
    features, queries = rng.standard_normal((50, 8)), rng.standard_normal((9, 8))
    shares = rng.dirichlet(np.ones(CLASSES), 50)
    bank = patch_knn.Bank(torch.from_numpy(features), torch.from_numpy(shares))
    for k, found in zip((1, 10), patch_knn.votes(bank, torch.from_numpy(queries), (1, 10)), strict=True):
        distance, index = neighbors.NearestNeighbors(n_neighbors=k, metric="cosine").fit(features).kneighbors(queries)
        weight = np.exp((1 - distance) / 0.07)
        expected = (weight[..., None] * shares[index]).sum(1) / weight.sum(1, keepdims=True)
        assert found.numpy() == pytest.approx(expected)


def test_a_patch_votes_with_the_shares_of_its_labelled_pixels():
    mask = np.full((4, 4), 255, np.uint8)
    mask[:2, :2] = [[0, 1], [1, 255]]
    mask[2:, 2:] = 3
    found = patch_knn.shares_of(mask, 2, 2, CLASSES)
    assert found == pytest.approx(np.array([[1 / 3, 2 / 3, 0, 0], [0] * 4, [0] * 4, [0, 0, 0, 1]]))


def read_means(corpus, some):
    """Mean colour of each patch of 4 pixels: features that tell the classes of these pictures apart."""
    pairs = corpus.pairs(some)
    square = np.stack([image[:12, :12] for image, _ in pairs]).astype(np.float32)
    means = square.reshape(len(pairs), 3, 4, 3, 4, 3).mean((2, 4)).reshape(len(pairs), 9, 3)
    return torch.from_numpy(means), [mask[:12, :12] for _, mask in pairs]


def test_neighbours_find_classes_that_the_features_show(tmp_path):
    bank = read_masked(str(masked_shards(tmp_path / "bank", 60)), TABLE)
    voters, scored = hold_out(bank)
    assert len(scored.indices) == 6
    *_, main = patch_knn.patch_knn(voters, scored, read_means, grid=3, patch=4, classes=CLASSES)
    most_frequent = 0.25 * 0.6  # background alone: its share over four classes
    assert main.settings["k"] == 30
    assert main.accuracy > 2 * most_frequent


def test_a_corpus_that_is_in_the_bank_is_refused(tmp_path):
    bank = read_masked(str(masked_shards(tmp_path / "bank", 6)), TABLE)
    with pytest.raises(SpecError, match="every image there is its own nearest neighbour"):
        demand_apart(bank, bank)


def test_the_command_scores_a_run_before_its_first_step(trained, tmp_path, monkeypatch):
    masked_shards(tmp_path / "train", 40)
    run = trained("mae")
    monkeypatch.setattr(patch_knn, "load_trained", lambda *_, **__: run)
    asked = ["--root", str(tmp_path), "--run", "small", "--classes", "4", "--untrained", "--json"]
    done = CliRunner().invoke(patch_knn.main, asked, catch_exceptions=False)
    document = json.loads(done.stdout)
    assert [(row["k"], row["main"]) for row in document["scores"]] == [(1, False), (10, False), (30, True)]
    assert all(len(row["iou"]) == 4 and row["metric"] == "mIoU" for row in document["scores"])
    assert document["corpus"]["samples"] == 4
    assert "masks' own size" in document["protocol"]
    assert all((row["classes"], row["image_size"]) == (4, 16) for row in document["scores"])


def test_what_an_miou_depends_on_keeps_scores_apart():
    kinds = [dense_settings(*asked, zero_ignored=zero) for asked in ((3, 32), (4, 32), (3, 64)) for zero in (0, 1)]
    assert len({tuple(sorted(kind.items())) for kind in kinds}) == 6


def test_a_value_that_is_no_class_sends_to_the_options_that_say_which_are(tmp_path, monkeypatch):
    shards = str(masked_shards(tmp_path / "bank", 6))
    few = mask_table(2, ignore=255, zero_ignored=False)
    with pytest.raises(DataError, match=r"^--classes: .* its mask has the value [23].*--zero-ignored"):
        read_masked(shards, few)
    monkeypatch.setattr(Samples, "unknown_value", lambda self, table: None)  # not among those that are looked at
    bank = read_masked(shards, few)
    with pytest.raises(DataError, match=r"unusable mask \(its mask has the value 3.*--classes, --zero-ignored"):
        bank.pairs(range(6))
