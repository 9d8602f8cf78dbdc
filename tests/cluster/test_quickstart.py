"""The quickstart learns: a shorter run of it already raises kNN on held-out digits."""

import json

import pytest

from tests.fixtures.runs import REPOSITORY, Workshop, ended

LEAST_GAIN = 10.0
STEPS = 600


@pytest.fixture
def learnt(tmp_path, digits):
    shop = Workshop(tmp_path, f"{digits}/train/*.tar", str(tmp_path / "runs"), {})
    shorter = (f"run.steps={STEPS}", "optim.schedule.warmup=50 steps", f"data.corpora.0.url={shop.corpus}")
    job = REPOSITORY / "jobs" / "quickstart.yaml"
    shop.call("gmml-submit", job, "--cluster", shop.profile(2), *shorter, "--follow")
    assert ended(shop.entries("quickstart")) == ["finished"]
    return shop


def accuracy(shop, digits, *untrained):
    """Of the kNN at k = 20 on the held-out digits, in percent."""
    report = shop.call(
        "gmml",
        "eval",
        "quickstart",
        "--with",
        "knn",
        "--feature",
        "taps",
        "--corpus",
        f"{digits}/test",
        "--json",
        *untrained,
    )
    return next(score["accuracy"] for score in json.loads(report)["scores"] if score["main"])


def test_a_shorter_quickstart_raises_knn_by_ten_points(learnt, digits):
    before, after = accuracy(learnt, digits, "--untrained"), accuracy(learnt, digits)
    assert before < 60
    assert after - before >= LEAST_GAIN
