"""Composed pictures and their masks, and the table of what pre-training is worth for pixels."""

import numpy as np

from benchmarks.segmentation import Pictures, compose, table


def test_a_composed_picture_shows_each_class_where_its_mask_says():
    labels = np.array([0, 3, 3, 7], np.uint8)
    pictures = Pictures(np.broadcast_to(10 * labels[:, None, None, None], (4, 32, 32, 3)).astype(np.uint8), labels)
    found = list(compose(pictures, 50, seed=1))
    for picture, mask in found:
        assert np.array_equal(picture, np.repeat(10 * mask[..., None], 3, 2))
        assert len(set(mask.ravel())) == 2
        assert np.bincount(mask.ravel())[np.unique(mask)].min() > 40
    again = list(compose(pictures, 50, seed=1))
    assert all(np.array_equal(one[1], other[1]) for one, other in zip(found, again, strict=True))


def test_the_table_has_mean_error_spread_and_the_gain_seed_by_seed():
    def scores(neighbours, head):
        return {
            "patch-knn": {"accuracy": neighbours, "error": 0.2},
            "segmentation": {"accuracy": head, "error": 0.3},
        }

    rows = list(
        table({True: [scores(10.0, 12.0), scores(11.0, 12.0)], False: [scores(14.0, 20.0), scores(16.0, 21.0)]})
    )
    assert rows[2:] == [
        "| nearest neighbours of patches | 10.5 ± 0.2 (0.7) | 15.0 ± 0.2 (1.4) | +4.5 (0.7) |",
        "| linear head on frozen patches | 12.0 ± 0.3 (0.0) | 20.5 ± 0.3 (0.7) | +8.5 (0.7) |",
    ]
