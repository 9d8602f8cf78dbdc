"""Settings with several seeds are judged together, and their spread decides."""

import pytest

from gmml_cluster.report.seeds import chance, seed_verdicts, settings_of, within
from tests.unit.report.test_verdict import row


def spec(name, seed, lr):
    return {"name": name, "seed": seed, "optim.lr": lr}


def test_runs_that_differ_in_name_and_seed_alone_are_one_setting():
    specs = {"a0": spec("a0", 0, 1), "a1": spec("a1", 1, 1), "b0": spec("b0", 0, 2), "again": spec("again", 1, 1)}
    assert settings_of({**specs, "unread": {}}) == [["a0", "again"]]


@pytest.mark.parametrize(
    ("t", "freedom"),
    [(12.7062, 1), (4.30265, 2), (3.18245, 3), (2.77645, 4), (2.57058, 5), (2.22814, 10), (2.04227, 30)],
)
def test_students_distribution_is_that_of_the_tables(t, freedom):
    assert within(t, freedom) == pytest.approx(0.95, abs=1e-6)


def test_the_chance_grows_with_the_spread_of_the_seeds():
    assert chance([60.0, 60.1, 60.2], [40.0, 40.1, 40.2]) < 0.001
    assert chance([60.0, 50.0, 70.0], [50.0, 60.0, 40.0]) > 0.2
    assert chance([1.0, 1.0], [2.0, 2.0]) == 1.0


def judged(spread):
    specs = {f"{name}{seed}": spec(f"{name}{seed}", seed, name) for name in "ab" for seed in range(3)}
    rows = [row(run, (60 if run[0] == "a" else 40) + spread * int(run[1])) for run in specs]
    (found,) = seed_verdicts(specs, rows)
    return found.sentence


def test_settings_are_told_apart_by_the_spread_of_their_seeds():
    assert judged(0.1) == (
        "By knn mean over seeds the setting of a0 is better than 1 other: a0 60.1 % (mean of 3 seeds, 60.0 to 60.2), "
        "b0 40.1 % (mean of 3 seeds, 40.0 to 40.2); by the spread of the seeds so large a difference comes by chance "
        "in 0.0017 % of the cases."
    )
    assert judged(20).startswith("By knn mean over seeds it cannot be said which setting is better: ")


def test_settings_with_one_seed_are_not_judged():
    assert seed_verdicts({"a": spec("a", 0, 1), "b": spec("b", 0, 2)}, [row("a", 60.0), row("b", 40.0)]) == []
