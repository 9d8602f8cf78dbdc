import numpy as np
import pytest
import torch
from PIL import Image

from gmml_cluster.evaluate.features import FEATURES, Corpus, Reader, fit, normalised, pool
from gmml_cluster.models.vit import VisionTransformer
from gmml_cluster.spec.job import NORMALISATIONS

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
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


def test_features_keep_the_corpus_order_across_batches(encoder, monkeypatch):
    monkeypatch.setattr("gmml_cluster.evaluate.features.BATCH", 4)
    corpus = Corpus("here", [image(16, 16, seed) for seed in range(11)], torch.arange(11))
    reader = Reader(encoder, 16, NORMALISATIONS["half"], (2, 4), CPU)
    found = reader.features(corpus, FEATURES)
    alone = reader.features(Corpus("here", [corpus.images[9]], torch.tensor([9])), FEATURES)
    for name in FEATURES:
        assert found[name].features.shape == (11, 32)
        torch.testing.assert_close(found[name].features[9:10], alone[name].features)
    assert torch.equal(found["mean"].labels, corpus.labels)
