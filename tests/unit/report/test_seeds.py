"""Settings with several seeds are judged together, and few seeds say little."""

import pytest

from gmml_cluster.report.seeds import chance, seed_verdicts, settings_of
from tests.unit.report.test_verdict import row


def spec(name, seed, lr):
    return {"name": name, "seed": seed, "optim.lr": lr}


def test_runs_that_differ_in_name_and_seed_alone_are_one_setting():
    specs = {"a0": spec("a0", 0, 1), "a1": spec("a1", 1, 1), "b0": spec("b0", 0, 2), "again": spec("again", 1, 1)}
    assert settings_of({**specs, "unread": {}}) == [["a0", "again"]]


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [([3, 4], [1, 2], 2 / 6), ([4, 5, 6], [1, 2, 3], 2 / 20), ([1, 1], [1, 1], 1.0), ([2], [1], 1.0)],
)
def test_the_chance_is_that_of_all_ways_to_deal_out_the_scores(one, other, expected):
    assert chance(one, other) == pytest.approx(expected)
    assert chance(range(40), range(40)) is None


def judged(seeds):
    specs = {f"{name}{seed}": spec(f"{name}{seed}", seed, name) for name in "ab" for seed in range(seeds)}
    rows = [row(run, (60 if run[0] == "a" else 40) + int(run[1]) / 10) for run in specs]
    (found,) = seed_verdicts(specs, rows)
    return found.sentence


def test_three_seeds_each_cannot_decide_and_five_can():
    assert judged(3) == (
        "By knn mean over seeds it cannot be said which setting is better: a0 60.1 % (mean of 3 seeds, 60.0 to 60.2), "
        "b0 40.1 % (mean of 3 seeds, 40.0 to 40.2); so large a difference comes by chance in 10 % of the ways to "
        "deal out the seeds."
    )
    assert judged(5).startswith("By knn mean over seeds the setting of a0 is better than 1 other: ")


def test_settings_with_one_seed_are_not_judged():
    assert seed_verdicts({"a": spec("a", 0, 1), "b": spec("b", 0, 2)}, [row("a", 60.0), row("b", 40.0)]) == []
