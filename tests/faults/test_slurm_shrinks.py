"""The real worker on a real SLURM that loses a node of a run which can do with fewer."""

from tests.fixtures.runs import Workshop, ended
from tests.fixtures.slurm import node_of
from tests.fixtures.supervised import ranks_of

STEPS = 100


def test_a_run_goes_on_without_a_lost_node_in_the_same_allocation(tmp_path, three_nodes, digits):
    site = Workshop(tmp_path, f"{digits}/train/*.tar", str(tmp_path / "runs"), three_nodes.environment)
    section = {"partition": "low", "time": "10 min", "notice": "60 s", "sbatch_args": {"exclusive": True}}
    cluster = site.profile(1, launcher="slurm", slurm=section, environment=site.gates)
    engine = {"zero": "ddp"}  # its ranks start faster than DeepSpeed's
    job = site.job("shrinks", run={"steps": STEPS}, engine=engine, checkpoint={"every": "20 steps", "keep": 2})
    site.pace(3, after=30)
    site.call("gmml-submit", job, "--cluster", cluster, "resources.nodes=2..3")
    site.until("shrinks", lambda entries: "commit" in [entry["kind"] for entry in entries])
    last = ranks_of(site, "shrinks")[2]
    three_nodes.crash(node_of(last), last)
    site.pace(0)
    entries = site.until("shrinks", lambda entries: "finished" in ended(entries))
    found = {kind: [entry for entry in entries if entry["kind"] == kind] for kind in ("claim", "cause", "queued")}
    assert ended(entries) == ["lost", "finished"]
    assert [entry["cause"] for entry in found["cause"]] == ["node_lost"]
    assert [entry["topology"]["ranks"] for entry in found["claim"]] == [3, 2]
    assert three_nodes.job(found["queued"][0]["job"])["Restarts"] == "0"
    lines = site.lines("shrinks")
    assert [(line["step"], line["samples"]) for line in lines] == [(step, (step + 1) * 32) for step in range(STEPS)]
