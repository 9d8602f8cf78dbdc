"""The real worker on a real SLURM whose nodes become free while a run does with fewer."""

import pytest

from tests.fixtures.runs import Workshop, ended

pytestmark = pytest.mark.timeout(1800)
STEPS = 100_000


def commits_of(entries, attempt):
    return [entry["step"] for entry in entries if (entry["kind"], entry["attempt"]) == ("commit", attempt)]


def test_a_run_grows_by_a_requeue_once_a_node_of_its_range_is_free(tmp_path, three_nodes, digits):
    site = Workshop(tmp_path, f"{digits}/train/*.tar", str(tmp_path / "runs"), three_nodes.environment)
    other = three_nodes.submit("sleep 3600", "--partition=low", "--nodes=1", "--exclusive")
    section = {"partition": "low", "time": "20 min", "notice": "60 s", "sbatch_args": {"exclusive": True}}
    cluster = site.profile(1, launcher="slurm", slurm=section)
    job = site.job("grows", run={"steps": STEPS}, checkpoint={"every": "50 steps", "keep": 2})
    site.call("gmml-submit", job, "--cluster", cluster, "resources.nodes=2..3")
    site.until("grows", lambda entries: commits_of(entries, 1))
    three_nodes.call("scancel", other)
    site.until("grows", lambda entries: commits_of(entries, 2))
    site.call("gmml", "cancel", "grows")
    entries = site.until("grows", lambda entries: "cancelled" in ended(entries))
    assert ended(entries) == ["notice", "cancelled"]
    assert [entry["topology"]["ranks"] for entry in entries if entry["kind"] == "claim"] == [2, 3]
    (cause,) = [entry for entry in entries if entry["kind"] == "cause"]
    assert (cause["cause"], cause["proof"]) == ("notice", "there is room for 3 nodes instead of 2")
    begins, ends = ([entry["step"] for entry in entries if entry["kind"] == kind] for kind in ("begin", "end"))
    assert begins[1] == ends[0] + 1
    lines = site.lines("grows")
    assert [(line["step"], line["samples"]) for line in lines] == [(s, (s + 1) * 32) for s in range(len(lines))]
