"""A machine that goes down takes nothing with it, and what a run computed can be computed again."""

import json
import os
import signal

import pytest

from tests.fixtures.runs import Workshop, ended
from tests.fixtures.supervised import ranks_of, supervisor_of, wait_for


def committed(entries):
    return [entry["step"] for entry in entries if entry["kind"] == "commit"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory, digits):
    """A run whose supervisor and ranks were killed at once, as by a power cut, and that `resume --all` brought back."""
    folder = tmp_path_factory.mktemp("replayed")
    shop = Workshop(folder, f"{digits}/train/*.tar", str(folder / "runs"), {})
    job = shop.job("cut", run={"steps": 40})
    shop.call("gmml-submit", job, "--cluster", shop.profile(2))
    shop.until("cut", committed)
    pids = [supervisor_of(shop, "cut"), *ranks_of(shop, "cut").values()]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids))
    status = json.loads(shop.call("gmml", "status", "cut", "--json"))
    assert (status["state"], status["attempts"][0]["cause"]) == ("interrupted", "lost")
    (resumed,) = json.loads(shop.call("gmml", "resume", "--all", "--json"))
    assert (resumed["run"], resumed["action"]) == ("cut", "resumed")
    assert "nothing was done" in shop.call("gmml", "resume", "--all")
    assert ended(shop.until("cut", lambda entries: "finished" in ended(entries))) == ["lost", "finished"]
    return shop


def test_a_run_that_lost_its_machine_is_brought_back_and_continues_from_its_checkpoint(shop):
    entries = shop.entries("cut")
    begins = [entry for entry in entries if entry["kind"] == "begin"]
    assert begins[1]["resumed"]["step"] == begins[1]["step"] - 1 >= 9
    assert [line["step"] for line in shop.lines("cut")] == list(range(40))
