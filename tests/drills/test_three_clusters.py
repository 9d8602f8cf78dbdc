"""One run on three clusters over a real S3 store: SLURM preempts it, Ray resumes it, and so on to this machine."""

import pytest

from gmml_cluster.store.open import open_store
from tests.drills.on_ray import STEPS, committed_in, figures, on_one_machine, ray_profile
from tests.fixtures.chain import assert_whole, attempts_of, run_until_preempted
from tests.fixtures.ray import running_ray
from tests.fixtures.runs import Workshop, ended
from tests.fixtures.slurm import until

__all__ = ["on_one_machine"]
pytestmark = pytest.mark.timeout(2400)

OF_SLURM = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED")


@pytest.fixture
def site(tmp_path, digits, slurm, s3_server, monkeypatch):
    """Corpus and runs in a bucket, and a home from which jobs go to SLURM and to Ray."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    bucket = f"s3://{s3_server.make_bucket()}"
    for file in (digits / "train").iterdir():
        open_store(f"{bucket}/digits").put_file(file.name, file)
    return Workshop(tmp_path, f"{bucket}/digits/*.tar", f"{bucket}/runs", dict(slurm.environment))


def cancel(site, attempt):
    site.call("gmml", "cancel", "chain")
    site.until("chain", lambda entries: len(ended(entries)) == attempt)


def test_one_run_is_preempted_on_slurm_resumed_on_ray_and_back_and_finished_on_this_machine(
    site, slurm, s3_server, on_one_machine
):
    names = list(s3_server.environment)
    section = {"partition": "r40", "time": "30 min", "notice": "60 s", "folder": str(site.folder / "slurm")}
    on_slurm = site.profile(1, launcher="slurm", secrets=names, slurm=section, environment=site.gates)
    site.pace(2, after=25)
    job = site.job("chain", run={"steps": STEPS}, resources={"nodes": "1..2"})
    urgent = run_until_preempted(site, slurm, job, on_slurm)
    with running_ray(nodes=2, **s3_server.environment) as cluster:
        site.call("gmml", "resume", "chain", "--cluster", ray_profile(site, cluster, secrets=names), "--take-over")
        entries = site.until("chain", committed_in(2))
        # SLURM starts the job that it kept waiting: the run is another's by now, and it leaves without a word
        waiting = next(entry["job"] for entry in entries if entry["kind"] == "queued")
        slurm.call("scancel", urgent)
        until(lambda: slurm.job(waiting)["JobState"] not in OF_SLURM, 600, "the job that was preempted has left")
        assert slurm.job(waiting)["ExitCode"] == "78:0"
        cancel(site, 2)
        site.call("gmml", "resume", "chain", "--cluster", on_slurm)
        site.until("chain", committed_in(3))
        cancel(site, 3)
    site.pace(0)
    site.call("gmml", "resume", "chain", "--cluster", site.profile(2), "--follow")
    rows = attempts_of(site.entries("chain"))
    print(*rows, sep="\n")
    assert [(launcher, ranks, cause) for launcher, ranks, _, _, cause in rows] == [
        ("slurm", 2, "preempted"),
        ("ray", 2, "cancelled"),
        ("slurm", 2, "cancelled"),
        ("local", 2, "finished"),
    ]
    assert_whole(rows, STEPS)
    assert figures(site.lines("chain")) == figures(on_one_machine)
