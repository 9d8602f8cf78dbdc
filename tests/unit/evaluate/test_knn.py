import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gmml_cluster.evaluate.features import Labelled
from gmml_cluster.evaluate.knn import class_scores, knn, nearest
from tests.fixtures.tolerances import ULP


def labelled(count, width, classes, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    features = rng.normal(size=(count, width)) + np.eye(classes, width)[labels]
    return Labelled(torch.from_numpy(features).float(), torch.from_numpy(labels))


def predictions_by_hand(bank, query, k):
    """Plain numpy, one query at a time, in float64."""
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
    bank_features, query_features = unit(bank.features.double().numpy()), unit(query.features.double().numpy())
    predicted = []
    for vector in query_features:
        similarity = bank_features @ vector
        votes = np.zeros(bank.classes)
        for index in np.argsort(-similarity, kind="stable")[:k]:
            votes[bank.labels[index]] += np.exp(similarity[index] / 0.07)
        predicted.append(votes.argmax())
    return np.array(predicted)


@settings(max_examples=20)
@given(st.integers(20, 60), st.integers(2, 12), st.integers(2, 6), st.integers(0, 2**16))
def test_hits_equal_a_plain_numpy_count(count, width, classes, seed):
    bank, query = labelled(count, width, classes, seed), labelled(17, width, classes, seed + 1)
    for score in knn(bank, query, feature="mean"):
        by_hand = predictions_by_hand(bank, query, score.settings["k"])
        assert score.hits == (by_hand == query.labels.numpy()).sum()


def test_neighbours_agree_with_scikit_learn():
    neighbours = pytest.importorskip("sklearn.neighbors").NearestNeighbors(metric="cosine", n_neighbors=7)
    bank, query = labelled(80, 9, 4, 0), labelled(30, 9, 4, 1)
    distance, indices = neighbours.fit(bank.features.numpy()).kneighbors(query.features.numpy())
    similarity, found = nearest(bank.features, query.features, 7)
    assert (found.numpy() == indices).all()
    np.testing.assert_allclose(similarity.numpy(), 1 - distance, rtol=0, atol=64 * ULP)


def test_chunks_change_nothing():
    bank, query = labelled(50, 5, 3, 0).features, labelled(23, 5, 3, 1).features
    assert torch.equal(nearest(bank, query, 4, chunk=5)[1], nearest(bank, query, 4)[1])


def test_one_near_neighbour_outweighs_many_far_ones():
    similarity = torch.tensor([[0.9, 0.5, 0.5, 0.5]])
    scores = class_scores(similarity, torch.tensor([[1, 0, 0, 0]]), 2)
    assert scores[0, 1] > scores[0, 0]
    np.testing.assert_allclose(scores[0].numpy(), [3 * np.exp(0.5 / 0.07), np.exp(0.9 / 0.07)], rtol=1e-5)


def test_k_20_is_the_number_to_report():
    scores = knn(labelled(300, 8, 4, 0), labelled(40, 8, 4, 1), feature="mean")
    assert [score.settings["k"] for score in scores] == [10, 20, 100, 200]
    assert [score.settings["k"] for score in scores if score.main] == [20]


def test_a_small_bank_bounds_k():
    scores = knn(labelled(15, 8, 2, 0), labelled(5, 8, 2, 1), feature="mean")
    assert [(score.settings["k"], score.main) for score in scores] == [(10, False), (15, True)]


def test_a_class_the_bank_lacks_counts_as_a_miss():
    bank = Labelled(torch.eye(12), torch.zeros(12, dtype=torch.int64))
    query = Labelled(torch.eye(12)[:2], torch.tensor([0, 5]))
    assert {score.hits for score in knn(bank, query, feature="mean")} == {1}
