import weakref

import numpy as np
import pytest
import torch
from PIL import Image

from gmml_cluster.errors import CheckpointError, DataError
from gmml_cluster.evaluate.features import FEATURES, EvalCorpus, FeatureReader, fit, normalised, pool, read
from gmml_cluster.models.vit import VisionTransformer
from gmml_cluster.spec.augment import NORMALISATIONS
from tests.unit.data.conftest import write_tar

OF_ENCODER = tuple(name for name in FEATURES if name != "global")

CPU = torch.device("cpu")


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    made = VisionTransformer(width=32, depth=4, heads=2, patch_size=4, image_size=16)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made.eval()


def image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_an_image_of_the_very_size_is_not_touched():
    given = image(32, 32)
    assert fit(given, 32) is given


@pytest.mark.parametrize(("height", "width"), [(40, 90), (90, 40), (7, 5), (16, 200), (33, 32)])
def test_other_images_become_the_central_square(height, width):
    assert fit(image(height, width), 32).shape == (32, 32, 3)


def test_the_shorter_side_becomes_256_for_a_crop_of_224():
    given = image(512, 512)
    resized = np.asarray(Image.fromarray(given).resize((256, 256), Image.Resampling.BICUBIC))
    assert (fit(given, 224) == resized[16:240, 16:240]).all()


def test_pixels_are_normalised_by_channel():
    found = normalised([np.full((16, 16, 3), 255, np.uint8)], 16, NORMALISATIONS["imagenet"], CPU)
    assert found.shape == (1, 3, 16, 16)
    torch.testing.assert_close(
        found[0, :, 0, 0], torch.tensor([(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225])
    )


def blocks_by_hand(encoder, images):
    """The residual stream after each block."""
    tokens = encoder.patch_embed(images) + encoder.pos_embed[:, 1:]
    stream = torch.cat([(encoder.cls_token + encoder.pos_embed[:, :1]).expand(len(images), -1, -1), tokens], 1)
    seen = []
    for block in encoder.blocks:
        stream = block(stream)
        seen.append(stream)
    return seen


@torch.no_grad()
def test_features_are_the_tokens_they_are_named_after(encoder):
    images = torch.randn(3, 3, 16, 16)
    seen = blocks_by_hand(encoder, images)
    last, tapped = encoder.norm(seen[3]), encoder.norm((seen[1] + seen[2] + seen[3]) / 3)
    taps = (2, 3, 4)
    found = pool(encoder, images, taps, ("taps", "class", "mean"))
    for vectors, expected in zip(found, (tapped[:, 1:].mean(1), last[:, 0], last[:, 1:].mean(1)), strict=True):
        torch.testing.assert_close(vectors, expected)


def corpus(*seeds):
    """A corpus of random images with their seeds as classes."""
    numbers = torch.tensor(seeds)
    return EvalCorpus("here", numbers, numbers, lambda chosen: [image(16, 16, seed) for seed in chosen])


@pytest.fixture
def reader(encoder, monkeypatch):
    monkeypatch.setattr("gmml_cluster.evaluate.features.BATCH", 4)
    return FeatureReader(encoder, 16, NORMALISATIONS["half"], (2, 4), CPU)


def test_features_keep_the_corpus_order_across_batches(reader):
    found = reader.features(corpus(*range(11)), OF_ENCODER)
    alone = reader.features(corpus(9), OF_ENCODER)
    for name in OF_ENCODER:
        assert found[name].features.shape == (11, 768 if name == "pixels" else 32)
        torch.testing.assert_close(found[name].features[9:10], alone[name].features)
    assert found["mean"].labels.tolist() == list(range(11))


def test_no_more_than_three_batches_of_images_are_in_memory(reader):
    living = weakref.WeakSet()
    asked = []

    class Living(np.ndarray):
        """An image that is counted while it lives."""

        __hash__ = object.__hash__

    def images(chosen):
        asked.append((len(living), len(chosen)))
        found = [image(16, 16, seed).view(Living) for seed in chosen]
        living.update(found)
        return found

    reader.features(EvalCorpus("here", torch.arange(43), torch.arange(43), images), OF_ENCODER)
    assert sorted(count for _, count in asked) == [3, *[4] * 10]
    assert max(before for before, _ in asked) <= 8, "one is used, one waits, and one is read"


def test_pixels_are_the_normalised_image_and_need_no_encoder(reader):
    found = FeatureReader(None, 16, NORMALISATIONS["half"], (), CPU).features(corpus(3), ["pixels"])["pixels"]
    assert torch.equal(found.features, normalised([image(16, 16, 3)], 16, NORMALISATIONS["half"], CPU).flatten(1))


def test_features_that_are_not_finite_are_refused_and_counted(reader):
    reader.encoder.norm.bias.data[0] = float("nan")
    with pytest.raises(CheckpointError, match=r"'mean': not finite for 11 of 11 images of here; .*--step"):
        reader.features(corpus(*range(11)), ["mean"])


@torch.no_grad()
def test_a_feature_keeps_no_tokens_in_memory(encoder):
    for vectors in pool(encoder, torch.randn(3, 3, 16, 16), (2, 4), OF_ENCODER):
        assert vectors.untyped_storage().nbytes() == 4 * vectors.numel()


def test_a_corpus_is_known_by_its_classes_before_any_image_is_decoded(tmp_path):
    members = [("a.png", b"no image"), ("a.cls", b"1"), ("b.png", b"no image"), ("c.png", b"no image"), ("c.cls", b"0")]
    write_tar(tmp_path / "s.tar", members)
    found = read(str(tmp_path))
    assert (found.indices.tolist(), found.labels.tolist()) == ([0, 2], [1, 0])
    with pytest.raises(DataError, match=r"member c\.png: no image"):
        found.images([2])


def test_a_corpus_without_classes_is_refused(tmp_path):
    write_tar(tmp_path / "s.tar", [("a.png", b"")])
    with pytest.raises(DataError, match="no sample has a label"):
        read(str(tmp_path))
