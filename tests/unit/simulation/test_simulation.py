"""The real code of submission, launch, ranks, log, store and shutdown in histories that a seed decides.

Few of them here; `make simulate HISTORIES=10^6` explores as many as there is time for (docs/reference/log.md).
"""

import subprocess
import time

import pytest

from tests.simulation.defects import CONDITIONS, DEFECTS, broken
from tests.simulation.history import explore
from tests.simulation.product import installed

HISTORIES = 50
FINDS_WITHIN = 60


@pytest.fixture(autouse=True, scope="module")
def world():
    with installed():
        yield


@pytest.mark.parametrize("first", range(0, HISTORIES, 25))
def test_every_promise_holds_in_every_history(first):
    found = {seed: outcome.broken for seed in range(first, first + 25) if (outcome := explore(seed)).broken}
    assert found == {}, "make simulate HISTORIES=1 SEED=... prints the history of a seed line by line"


def test_a_seed_is_a_history():
    one, same, other = (explore(seed, listed=True).lines for seed in (3, 3, 4))
    assert one == same
    assert one != other
    assert any(what.startswith("slot") and how.startswith("claim") for _, _, what, how in one)


def test_a_history_starts_no_real_process_and_waits_for_no_real_clock(monkeypatch):
    real = []
    monkeypatch.setattr(subprocess, "Popen", lambda *command, **more: real.append(command))
    monkeypatch.setattr(time, "sleep", lambda seconds: real.append(seconds))
    for seed in range(10):
        explore(seed)
    assert real == []


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_is_found(defect):
    with broken(defect):
        assert any(explore(seed, **CONDITIONS.get(defect, {})).broken for seed in range(FINDS_WITHIN))
