import pytest

from gmml_cluster.evaluate.score import Score


def test_error_is_that_of_a_binomial_share():
    score = Score("knn", "mean", hits=400, samples=500)
    assert score.error == pytest.approx((0.8 * 0.2 / 500) ** 0.5)


def test_json_is_in_percent_and_names_its_settings():
    found = Score("knn", "taps", hits=1, samples=4, settings={"k": 20}).to_json()
    assert (found["accuracy"], found["k"], found["samples"], found["main"]) == (25.0, 20, 4, True)
