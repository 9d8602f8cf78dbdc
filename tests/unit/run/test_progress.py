"""How far a run has come, by one read of the last part."""

import json
import subprocess
import sys

import pytest

from gmml_cluster.errors import StorageError
from gmml_cluster.run import protocol
from gmml_cluster.run.log import Draft, Log
from gmml_cluster.run.progress import Progress, progress, read_progress, total_steps
from gmml_cluster.run.root import metrics_stem
from tests.unit.run.memory import MemoryStore


def line(step, loss=1.0, step_s=0.5, data_wait_s=0.1):
    return {"step": step, "loss": loss, "step_s": step_s, "data_wait_s": data_wait_s, "batch": 32}


def upload(store, attempt, part, lines):
    store.put(f"{metrics_stem(attempt)}-{part:06d}.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())


@pytest.fixture
def log():
    log = Log(MemoryStore())
    log.append(lambda history: Draft("open", None, {}, run="r"))
    return log


def attempt(log, steps=100, **changed):
    token = protocol.submit(log, launcher="local", code="c", bounds={}, changed=changed)
    number = protocol.claim(log, submit=token, job="j", restart=0, topology={}, machine={}).attempt
    protocol.pin(log, number, {"steps": steps})
    return number


def test_the_figures_are_those_of_the_last_part():
    lines = [line(10, step_s=0.5), line(11, loss=0.25, step_s=1.5, data_wait_s=0.3)]
    assert progress(3, lines, 20) == Progress(
        attempt=3, step=11, steps=20, loss=0.25, samples_per_s=32.0, data_wait_share=0.2, left_s=8.0
    )


def test_before_the_first_part_and_before_the_first_attempt_nothing_is_known(log):
    assert read_progress(log.store, log.refresh()) is None
    attempt(log)
    assert read_progress(log.store, log.refresh()) is None


@pytest.mark.parametrize("parts", [1, 2, 3, 4, 7, 8, 9, 1000])
def test_the_last_part_of_the_latest_attempt_is_found_without_reading_the_others(log, parts):
    for number in (attempt(log), attempt(log)):
        for part in range(parts):
            upload(log.store, number, part, [line(10_000 * number + part)])
    asked = []
    store = log.store.view(before=lambda method, name: asked.append(method))
    found = read_progress(store, log.refresh())
    assert (found.attempt, found.step) == (2, 20_000 + parts - 1)
    assert "list" not in asked
    assert len(asked) <= 2 * parts.bit_length() + 2


def test_a_loss_that_is_not_finite_is_shown_as_such():
    assert progress(1, [line(4, loss=None)], None).loss is None


def test_a_run_that_is_over_has_no_time_left():
    assert progress(1, [line(9)], 10).left_s == 0


@pytest.mark.parametrize(
    ("changed", "steps"),
    [({}, 100), ({"run.steps": [100, 130]}, 130), ({"run.epochs": [2, 5]}, 250), ({"checkpoint.keep": [1, 9]}, 100)],
)
def test_a_run_that_a_submit_made_longer_has_more_steps(log, changed, steps):
    attempt(log)
    attempt(log, **changed)
    assert total_steps(log.refresh()) == steps


def test_a_damaged_part_is_named_by_its_line(log, monkeypatch):
    monkeypatch.setattr("gmml_cluster.store.verified.sleep", lambda seconds: None)
    number = attempt(log)
    log.store.put(f"{metrics_stem(number)}-000000.jsonl", b'{"step": 1}\n{"st')
    with pytest.raises(StorageError, match=r"metrics-000000\.jsonl:2: is no JSON"):
        read_progress(log.store, log.refresh())


def test_reading_progress_imports_neither_pydantic_nor_numpy_nor_torch():
    code = "import gmml_cluster.run.progress, sys; print([m for m in ('pydantic','numpy','torch') if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
