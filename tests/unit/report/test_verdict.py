"""What is said of runs: which is better, or that it cannot be said."""

import pytest

from gmml_cluster.report.verdict import differing_fields, rankings_of, threshold, verdict_of


def row(run, accuracy, error=1.0, **changed):
    found = {"run": run, "step": 99, "attempt": None, "score": "knn", "feature": "mean", "accuracy": accuracy}
    found |= {"error": error, "samples": 500, "corpus": "/held-out", "corpus_digest": "e", "bank": "/bank"}
    return {**found, "bank_digest": "b", "settings": {"k": 20}, **changed}


def answer(*rows):
    (ranking,) = rankings_of(rows)
    return ranking


def test_a_run_is_better_only_beyond_what_sampling_explains():
    assert answer(row("a", 52.0), row("b", 50.0)).like_best == ["a", "b"]
    found = answer(row("b", 50.0), row("a", 53.0))
    assert found.like_best == ["a"]
    assert found.sentence.startswith("By knn mean a is better than the other: 53.0 ± 1.0 % against 50.0 ± 1.0 %")


def test_equal_scores_without_error_are_not_told_apart():
    assert answer(row("a", 100.0, 0.0), row("b", 100.0, 0.0)).like_best == ["a", "b"]


def test_with_more_runs_a_difference_must_be_larger():
    assert threshold(1) == pytest.approx(1.96, abs=0.005)
    assert threshold(11) > 2.8
    many = [row("a", 53.2), *(row(f"b{index}", 50.0) for index in range(11))]
    assert len(answer(*many).like_best) == 12
    assert "cannot be said" in answer(*many).sentence


def test_those_behind_the_best_are_counted():
    found = answer(row("a", 80.0), row("b", 79.0), row("c", 40.0))
    assert found.sentence == "By knn mean the best cannot be named among a, b; 1 run behind them."


def test_scores_of_other_protocols_are_never_compared():
    states = {name: {"state": "finished"} for name in "ab"}
    other = row("b", 90.0, settings={"k": 10})
    found = verdict_of(states, {"a": [row("a", 50.0)], "b": [other]}, ["optim.lr"])
    assert found.answers == ["It cannot be said which run is better: no two have a score of the same kind and data."]
    assert found.question == "Which of 2 runs is better? They differ in optim.lr."
    assert not found.rankings


def test_one_run_is_asked_what_it_has_learnt():
    found = verdict_of({"a": {"state": "running"}}, {"a": [row("a", 50.0)]}, [])
    assert found.answers == ["knn mean at step 99: 50.0 ± 1.0 %."]
    assert found.caveats[0] == "Not finished: a (running)."
    assert "no scores are kept" in verdict_of({"a": {"state": "finished"}}, {"a": []}, []).answers[0]


def test_the_fields_that_differ_are_named_with_the_value_of_each_run():
    specs = {"a": {"name": "a", "optim.lr": 1, "seed": 0}, "b": {"name": "b", "optim.lr": 2, "seed": 0, "init": "x"}}
    assert differing_fields(specs) == {"optim.lr": [1, 2], "init": ["-", "x"]}


def test_the_method_and_what_differs_within_one_are_named_before_what_follows_from_the_method():
    specs = {
        "a": {"method.taps": 4, "method.name": "gmml", "optim.clip": 3, "optim.lr": 1},
        "b": {"method.taps": 4, "method.name": "gmml", "optim.clip": 3, "optim.lr": 2},
        "c": {"method.name": "mae", "optim.clip": 0, "optim.lr": 1},
    }
    assert list(differing_fields(specs)) == ["method.name", "optim.lr", "method.taps", "optim.clip"]
