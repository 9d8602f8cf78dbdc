"""Uniform tokens: equally many of each image, each equally often, whatever is drawn beside them."""

import torch

from gmml_cluster.methods.masks.tokens import kept_tokens


def test_each_patch_is_kept_equally_often_and_every_image_keeps_as_many() -> None:
    mask, keep = kept_tokens(7, torch.arange(1000), patches=20, kept=5)
    assert mask.shape == (1000, 20)
    assert set((~mask).sum(1).tolist()) == {5}
    assert torch.equal((~mask).nonzero()[:, 1].view(1000, 5), keep), "ascending"
    shares = (~mask).double().mean(0)
    assert (shares - 0.25).abs().max() < 4.5 * (0.25 * 0.75 / 1000) ** 0.5
    pairs = (~mask).double().T @ (~mask).double() / 1000
    others = pairs[~torch.eye(20, dtype=torch.bool)]
    assert (others - 5 / 20 * 4 / 19).abs().max() < 5 * (0.0526 * 0.9474 / 1000) ** 0.5


def test_an_image_keeps_the_same_patches_in_any_batch() -> None:
    _, whole = kept_tokens(7, torch.arange(12), patches=16, kept=4)
    _, alone = kept_tokens(7, torch.tensor([7]), patches=16, kept=4)
    assert torch.equal(whole[7:8], alone)
