"""The SLURM launcher on a real SLURM of two nodes: the carrier, the script and its teardown as a run meets them."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from gmml_cluster.launch import snapshot
from gmml_cluster.launch.launcher import Submission
from gmml_cluster.launch.slurm import SlurmLauncher
from gmml_cluster.spec.cluster import ClusterProfile
from gmml_cluster.spec.lengths import NodeRange
from tests.fixtures.slurm import Slurm, free_ports, slurm, until

__all__ = ["slurm"]

TOKEN = "5ubm1tt0ken"
NAME = "stand-in"

# Takes the place of the worker in the snapshot: notes what it was given, then behaves as the variable says.
WORKER = """
import json, os, pathlib, signal, sys, time
argued = dict(zip(sys.argv[1::2], sys.argv[2::2]))
restart = int(argued["--restart"])
held = sorted(number.name for number in signal.pthread_sigmask(signal.SIG_BLOCK, []))
told = {"argued": argued, "held": held, "code": __file__, "path": os.environ["PYTHONPATH"],
        "urg_ignored": signal.getsignal(signal.SIGURG) == signal.SIG_IGN, "secret": os.environ.get("A_SECRET"),
        "marked": os.environ["MARK"], "kill_wait": os.environ["GMML_KILL_WAIT_S"],
        "place": {name: os.environ[name] for name in
                  ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK")}}
def leave(*_):
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    time.sleep(0.3)
    os._exit(77)
for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGCONT):
    signal.signal(number, leave if number != signal.SIGCONT else lambda *_: None)
signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGUSR2, signal.SIGCONT))
note = pathlib.Path(argued["--root"]) / f"rank-{os.environ['RANK']}-{restart}.json"
note.with_suffix(".part").write_text(json.dumps(told))
note.with_suffix(".part").rename(note)
notes = [note.with_name(f"rank-{rank}-{restart}.json") for rank in range(int(os.environ["WORLD_SIZE"]))]
while not all(other.exists() for other in notes):
    time.sleep(0.05)
behaviour = os.environ["BEHAVIOUR"].split(",")[restart]
if behaviour == "wait":
    time.sleep(60)
os._exit(int(behaviour))
"""

Submit = Callable[..., tuple[Submission, str]]


def code() -> snapshot.Snapshot:
    """This project's code with the stand-in for its worker."""
    package = Path(snapshot.__file__).parents[1]
    kept = {
        str(path.relative_to(package.parent)): path.read_bytes()
        for path in package.rglob("*.py")
        if path.parent.name in ("gmml_cluster", "launch", "run", "store", "train")
    }
    return snapshot.Snapshot.of({**kept, "gmml_cluster/train/worker.py": WORKER.encode()})


def submission_for(root: Path, *, behaviour: str = "0", nodes: str = "2", **slurm_options: object) -> Submission:
    """A submission of one rank a node."""
    section = {"partition": "low", "time": "10 min", "notice": "60 s", **slurm_options}
    profile = ClusterProfile.model_validate(
        {
            "launcher": "slurm",
            "root": str(root),
            "ranks_per_node": 1,
            "environment": {"BEHAVIOUR": behaviour, "MARK": 'it\'s "$HOME" set'},
            "secrets": ["A_SECRET"],
            "slurm": section,
        }
    )
    return Submission(
        root=str(root),
        name=NAME,
        token=TOKEN,
        profile=profile,
        nodes=NodeRange.model_validate(nodes),
        ranks_per_node=1,
        code=code(),
    )


@pytest.fixture
def submit(slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Submit:
    """Submits a stand-in through the launcher; its notes appear in `tmp_path`."""
    for name in ("PATH", "SLURM_CONF"):
        monkeypatch.setenv(name, slurm.environment[name])
    monkeypatch.setenv("A_SECRET", "s3cr3t-value")

    def give(behaviour: str, **options: object) -> tuple[Submission, str]:
        made = submission_for(tmp_path, behaviour=behaviour, **options)
        return made, SlurmLauncher().submit(made)

    return give


def note(root: Path, rank: int, restart: int, limit_s: float = 30) -> dict:
    path = root / f"rank-{rank}-{restart}.json"
    until(path.exists, limit_s, f"rank {rank} of start {restart} runs; see {root}/.slurm")
    return json.loads(path.read_text())


def ended(slurm: Slurm, job: str) -> dict[str, str]:
    until(lambda: SlurmLauncher().poll({job: NAME}) == {job: "gone"}, 40, f"job {job} is gone")
    return slurm.job(job)


def test_each_rank_runs_the_submitted_code_in_its_place_with_signals_held(
    slurm: Slurm, submit: Submit, tmp_path: Path
) -> None:
    submission, job = submit("0", nodes="1..2")
    told = [note(tmp_path, rank, 0) for rank in range(2)]
    assert ended(slurm, job)["JobState"] == "COMPLETED"
    for rank, one in enumerate(told):
        place = {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1, "NODE_RANK": rank}
        assert one["place"] == {name: str(value) for name, value in place.items()}
        assert one["argued"] == {
            "--root": str(tmp_path), "--run": NAME, "--submit": TOKEN, "--job": job, "--restart": "0",
        }  # fmt: skip
        assert one["held"] == ["SIGCONT", "SIGTERM", "SIGUSR2"]
        assert one["urg_ignored"]
        assert submission.code.digest in one["code"]
        assert one["path"].split(os.pathsep)[0] in one["code"]
        assert (one["marked"], one["secret"], one["kill_wait"]) == ('it\'s "$HOME" set', "s3cr3t-value", "5")


def test_the_script_shown_is_the_script_used_and_no_secret_is_in_any_file(
    slurm: Slurm, submit: Submit, tmp_path: Path
) -> None:
    submission, job = submit("0")
    shown = SlurmLauncher().script(submission)
    used = next((tmp_path / ".slurm" / job).glob("*_submission.sh")).read_text()
    assert TOKEN not in shown
    assert used == shown.replace("<token>", TOKEN)
    ended(slurm, job)
    files = [path.read_bytes() for path in (tmp_path / ".slurm").rglob("*") if path.is_file()]
    assert files
    assert not any(b"s3cr3t-value" in content for content in files)


def test_a_notice_brings_the_job_back_under_its_own_number(slurm: Slurm, submit: Submit, tmp_path: Path) -> None:
    _, job = submit("wait,0")
    for rank in range(2):
        note(tmp_path, rank, 0)
    slurm.call("scancel", "--signal=USR2", job)
    assert note(tmp_path, 1, 1)["argued"]["--restart"] == "1"
    state = ended(slurm, job)
    assert (state["JobState"], state["Restarts"]) == ("COMPLETED", "1")


def test_a_preemption_without_grace_brings_the_job_back(slurm: Slurm, submit: Submit, tmp_path: Path) -> None:
    _, job = submit("wait,0", sbatch_args={"exclusive": True})
    for rank in range(2):
        note(tmp_path, rank, 0)
    urgent = slurm.submit("sleep 1", "-p", "high", "-N", "2", "--exclusive")
    note(tmp_path, 0, 1, limit_s=40)
    state = ended(slurm, job)
    assert (state["JobState"], state["Restarts"]) == ("COMPLETED", "1")
    assert slurm.job(urgent)["JobState"] == "COMPLETED"


def test_a_cancelled_job_stays_cancelled(slurm: Slurm, submit: Submit, tmp_path: Path) -> None:
    _, job = submit("wait,0")
    for rank in range(2):
        note(tmp_path, rank, 0)
    assert SlurmLauncher().poll({job: NAME}) == {job: "running"}
    SlurmLauncher().cancel(job)
    state = ended(slurm, job)
    assert (state["JobState"], state["Restarts"]) == ("CANCELLED", "0")
    SlurmLauncher().cancel(job)


def test_a_queued_job_is_told_queued_and_another_runs_job_under_its_number_gone(
    slurm: Slurm, submit: Submit, tmp_path: Path
) -> None:
    _, job = submit("0", sbatch_args={"hold": True})
    assert SlurmLauncher().poll({job: NAME, "999999": NAME}) == {job: "queued", "999999": "gone"}
    assert SlurmLauncher().poll({job: "another-run"}) == {job: "gone"}
    assert SlurmLauncher().poll({"999999": NAME}) == {"999999": "gone"}
    SlurmLauncher().cancel(job)
    assert ended(slurm, job)["JobState"] == "CANCELLED"


def test_code_78_is_never_requeued(slurm: Slurm, submit: Submit) -> None:
    _, job = submit("78")
    state = ended(slurm, job)
    assert (state["JobState"], state["ExitCode"], state["Restarts"]) == ("FAILED", "78:0", "0")


def test_a_controller_out_of_reach_means_unknown(
    slurm: Slurm, submit: Submit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, job = submit("0", sbatch_args={"hold": True})
    config = Path(slurm.environment["SLURM_CONF"]).read_text()
    (tmp_path / "slurm.conf").write_text(re.sub("SlurmctldPort=.*", f"SlurmctldPort={free_ports(1)[0]}", config))
    with monkeypatch.context() as away:
        away.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
        assert SlurmLauncher().poll({job: NAME}) == {job: "unknown"}
    SlurmLauncher().cancel(job)


def test_preflight_passes_what_slurm_would_take_and_leaves_nothing_behind(
    slurm: Slurm, submit: Submit, tmp_path: Path
) -> None:
    assert SlurmLauncher().preflight(submission_for(tmp_path / "runs")) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "field", "words"),
    [
        ({"partition": "nonesuch"}, "slurm.partition", ("'nonesuch'", "nvalid partition", "sinfo")),
        ({"nodes": "3"}, "resources.nodes", ("3..3", "sinfo")),
        ({"folder": "/proc/self"}, "slurm.folder", ("/proc/self",)),
        ({"sbatch_args": {"signal": "TERM"}}, "slurm.sbatch_args", ("'signal'",)),
    ],
)
def test_preflight_says_in_a_sentence_why_slurm_refuses(
    slurm: Slurm, submit: Submit, tmp_path: Path, options: dict, field: str, words: tuple[str, ...]
) -> None:
    faults = SlurmLauncher().preflight(submission_for(tmp_path, **options))
    assert [fault.where for fault in faults] == [field]
    assert all(word in faults[0].message for word in words), faults[0]
