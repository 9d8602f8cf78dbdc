"""The driver's attempts, without Ray: how often it makes them, and what it waits for between."""

from types import SimpleNamespace

import pytest

from gmml_cluster.launch.evidence import Evidence
from gmml_cluster.launch.verdict import Verdict

pytest.importorskip("ray")
from gmml_cluster.launch.ray import driver

JOB = driver.Job("root", "run", "s1", "j", "module", (1, 2), 1, {"CPU": 1.0}, "SPREAD", {})


@pytest.fixture
def made(monkeypatch):
    """Attempts and pauses in their order; each attempt is killed, and the log allows two more, the second later."""
    events, verdicts = [], iter([Verdict(True, "lost"), Verdict(True, "lost", 20.0), Verdict(False, "lost")])
    monkeypatch.setattr(driver, "nodes_to_use", lambda job: 2)
    monkeypatch.setattr(driver, "attempt", lambda job, restart, ranks: events.append(restart) or (137, Evidence()))
    monkeypatch.setattr(driver, "judge_by_log", lambda log, start, rc, evidence: next(verdicts))
    monkeypatch.setattr(driver, "_open", lambda job: None)
    # the module's own: `time.sleep` itself is every thread's
    monkeypatch.setattr(driver, "time", SimpleNamespace(sleep=lambda seconds: events.append(f"{seconds:g} s")))
    return events


def test_it_waits_as_the_log_says_and_leaves_with_the_last_code(made):
    assert driver.supervise(JOB) == 137
    assert made == [0, "0 s", 1, "20 s", 2]
