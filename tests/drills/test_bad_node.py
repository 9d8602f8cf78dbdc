"""A node on which ranks are killed repeatedly, on a real SLURM: from the second time on the run leaves it alone."""

import os
import signal

import pytest

from tests.fixtures.runs import Workshop, ended
from tests.fixtures.slurm import node_of
from tests.fixtures.supervised import ranks_of


def of_kind(entries, kind):
    return [entry for entry in entries if entry["kind"] == kind]


@pytest.mark.timeout(1200)
def test_a_node_where_ranks_were_killed_twice_is_excluded_and_the_run_ends_on_the_others(tmp_path, three_nodes, digits):
    site = Workshop(tmp_path, f"{digits}/train/*.tar", str(tmp_path / "runs"), three_nodes.environment)
    section = {"partition": "low", "time": "20 min", "notice": "60 s", "sbatch_args": {"exclusive": True}}
    cluster = site.profile(1, launcher="slurm", slurm=section)
    job = site.job("bad", run={"steps": 300}, checkpoint={"every": "20 steps", "keep": 2})
    site.call("gmml-submit", job, "--cluster", cluster, "resources.nodes=2")
    bad = ""
    for attempt in (1, 2):
        site.until("bad", lambda entries, n=attempt: any(e["attempt"] == n for e in of_kind(entries, "commit")))
        nodes = {node_of(pid): pid for pid in ranks_of(site, "bad").values()}
        bad = bad or sorted(nodes)[1]
        os.kill(nodes[bad], signal.SIGKILL)
    entries = site.until("bad", lambda entries: "finished" in ended(entries))
    assert ended(entries) == ["lost", "lost", "finished"]
    assert [(entry["cause"], entry["node"]) for entry in of_kind(entries, "cause")] == [("killed", bad)] * 2
    (excluded,) = of_kind(entries, "exclude")
    assert (excluded["node"], excluded["reason"]) == (
        bad,
        "attempt 1 ended with killed and attempt 2 ended with killed",
    )
    assert [entry["restart"] for entry in of_kind(entries, "claim")] == [0, 1, 2]
    job_id = of_kind(entries, "queued")[0]["job"]
    assert three_nodes.job(job_id)["ExcNodeList"] == bad
    assert f"avoids       {bad}: " in site.call("gmml", "status", "bad")
