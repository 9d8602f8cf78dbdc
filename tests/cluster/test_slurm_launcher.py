"""The SLURM launcher on a real SLURM of two nodes: the entry, the script and its teardown as a run meets them."""

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gmml_cluster.launch import snapshot
from gmml_cluster.launch.protocol import Submission
from gmml_cluster.launch.slurm.launcher import SlurmLauncher
from gmml_cluster.run import protocol
from gmml_cluster.run.log import Draft, Log
from gmml_cluster.spec.cluster import ClusterProfile
from gmml_cluster.store.open import open_store
from tests.fixtures import submissions
from tests.fixtures.slurm import Slurm, slurm, until

__all__ = ["slurm"]

NAME = "stand-in"
MARK = 'it\'s "$HOME" set'
OUT_OF_REACH = "ftp://nowhere"

# Replaces the worker in the snapshot: notes what it was given, lets rank 0 claim as the worker would, and
# then does what the variable says for this start: wait for a notice, finish, fail (`ecc`: by a broken device), or leave
# for good.
WORKER = """
import json, os, pathlib, signal, sys, time
from gmml_cluster.run import protocol
from gmml_cluster.run.log import Log
from gmml_cluster.store.open import open_store
from gmml_cluster.train.ranks.cluster_env import killed_before
argued = dict(zip(sys.argv[1::2], sys.argv[2::2]))
restart, rank = int(argued["--restart"]), int(os.environ["RANK"])
does = os.environ["BEHAVIOUR"].split(",")[restart]
seen = {"argued": argued, "code": __file__, "path": os.environ["PYTHONPATH"], "pid": os.getpid(),
        "node": os.environ["SLURMD_NODENAME"],
        "held": sorted(number.name for number in signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        "urg_ignored": signal.getsignal(signal.SIGURG) == signal.SIG_IGN, "secret": os.environ.get("A_SECRET"),
        "marked": os.environ["MARK"], "kill_wait": os.environ["GMML_KILL_WAIT_S"],
        "rank_environment": {name: os.environ[name] for name in
                  ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK")}}
log = None
if rank == 0 and "://" not in argued["--root"]:
    log = Log(open_store(argued["--root"] + "/" + argued["--run"]))
    claim = protocol.claim(
        log, submit=argued["--submit"], job=argued["--job"], restart=restart, topology={}, machine={},
        proofs=lambda attempt: killed_before(),
    )
ended = pathlib.Path(os.environ["NOTES"]) / f"ended-{restart}"
def leave(code, cause):
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    if log and cause:
        protocol.end(log, claim.attempt, cause)
    if rank == 0:
        ended.touch()
        time.sleep(0.3)
    while not ended.exists():
        time.sleep(0.02)
    os._exit(code)
for number in (signal.SIGTERM, signal.SIGUSR2):
    signal.signal(number, lambda *_: leave(77, "notice"))
signal.signal(signal.SIGCONT, lambda *_: None)
signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGUSR2, signal.SIGCONT))
notes = [pathlib.Path(os.environ["NOTES"]) / f"rank-{r}-{restart}.json" for r in range(int(os.environ["WORLD_SIZE"]))]
notes[rank].with_suffix(".part").write_text(json.dumps(seen))
notes[rank].with_suffix(".part").rename(notes[rank])
while not all(note.exists() for note in notes):
    time.sleep(0.05)
if does == "wait":
    time.sleep(90)
if does == "ecc":
    print("RuntimeError: CUDA error: uncorrectable ECC error encountered", file=sys.stderr, flush=True)
    does = "fail"
leave(*{"finish": (78, "finished"), "fail": (1, None), "never": (78, None)}[does])
"""

Submit = Callable[..., tuple[Submission, str]]


def code() -> snapshot.Snapshot:
    """This project's code with the stand-in for its worker."""
    package = Path(snapshot.__file__).parents[1]
    kept = {
        str(path.relative_to(package.parent)): path.read_bytes()
        for path in package.rglob("*.py")
        if path.relative_to(package).parts[0]
        in ("__init__.py", "errors.py", "launch", "outputs", "run", "store", "train")
    }
    return snapshot.Snapshot.of({**kept, "gmml_cluster/train/worker.py": WORKER.encode()})


def submission_for(
    notes: Path,
    *,
    token: str = "t0ken",
    behaviour: str = "finish",
    nodes: str = "2",
    root: str = "",
    imports: tuple[str, ...] = ("torch",),
    **section: object,
) -> Submission:
    """A submission of one rank a node, under the folder of its notes where no root is given."""
    profile = ClusterProfile.model_validate(
        {
            "launcher": "slurm",
            "root": str(notes),
            "environment": {"BEHAVIOUR": behaviour, "NOTES": str(notes), "MARK": MARK, "TMPDIR": str(notes)},
            "secrets": ["A_SECRET"],
            "slurm": {"partition": "low", "time": "10 min", "notice": "60 s", **section},
        }
    )
    made = submissions.submission(profile, root=root or None, name=NAME, token=token, nodes=nodes, code=code())
    return replace(made, imports=imports)


def polled(jobs: dict[str, str]) -> dict[str, str]:
    """State of each job, as the launcher reports it."""
    return {job: report.state for job, report in SlurmLauncher().poll(jobs).items()}


@pytest.fixture
def submit(slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Submit:
    """Submits a stand-in through the launcher; its notes and its log appear in `tmp_path`."""
    for name in ("PATH", "SLURM_CONF"):
        monkeypatch.setenv(name, slurm.environment[name])
    monkeypatch.setenv("A_SECRET", "s3cr3t-value")

    def give(behaviour: str, **options: object) -> tuple[Submission, str]:
        token = "t0ken"
        if "root" not in options:
            log = run_log(tmp_path)
            log.append(lambda _: Draft("open", None, {}, run="r"))
            token = protocol.submit(log, launcher="slurm", code="c", bounds={})
        made = submission_for(tmp_path, token=token, behaviour=behaviour, **options)
        return made, SlurmLauncher().submit(made)

    return give


def run_log(root: Path) -> Log:
    return Log(open_store(root / NAME))


def causes(root: Path) -> list[tuple[int, str | None]]:
    """Restart count and cause of each attempt."""
    return [(attempt.restart, attempt.cause) for attempt in run_log(root).refresh().attempts]


def note(notes: Path, *, rank: int, restart: int = 0) -> dict[str, Any]:
    """What a rank of a start was given, once it runs; a requeued job waits 5 s for its credential to expire."""
    path = notes / f"rank-{rank}-{restart}.json"

    until(path.exists, 90, f"rank {rank} of start {restart} runs; see {notes}/.slurm")
    seen: dict[str, Any] = json.loads(path.read_text())
    return seen


def pids(notes: Path) -> list[int]:
    """Process ids of the two ranks of the first start, once both run."""
    return [note(notes, rank=rank)["pid"] for rank in range(2)]


def ended(slurm: Slurm, job: str) -> tuple[str, str, str]:
    """State, exit code and restarts of a job that is gone."""
    until(lambda: polled({job: NAME}) == {job: "gone"}, 90, f"job {job} is gone")
    seen = slurm.job(job)
    return seen["JobState"], seen["ExitCode"], seen["Restarts"]


FINISHED = ("FAILED", "78:0")


def test_each_rank_runs_the_submitted_code_in_its_place_with_signals_held(
    slurm: Slurm, submit: Submit, tmp_path: Path
) -> None:
    submission, job = submit("finish", nodes="1..2")
    seen = [note(tmp_path, rank=rank) for rank in range(2)]
    assert ended(slurm, job) == (*FINISHED, "0")
    for rank, one in enumerate(seen):
        expected = {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1, "NODE_RANK": rank}
        argued = {"root": str(tmp_path), "run": NAME, "submit": submission.token, "job": job, "restart": "0"}
        assert one["rank_environment"] == {name: str(value) for name, value in expected.items()}
        assert one["argued"] == {f"--{name}": value for name, value in argued.items()}
        assert one["held"] == ["SIGCONT", "SIGTERM", "SIGUSR2"]
        assert one["urg_ignored"]
        assert submission.code.digest in one["code"]
        assert one["path"].split(os.pathsep)[0] in one["code"]
        assert (one["marked"], one["secret"], one["kill_wait"]) == (MARK, "s3cr3t-value", "5")
    assert causes(tmp_path) == [(0, "finished")]


# Stands for apptainer: an image has a PYTHONPATH and a MARK of its own, and what is mounted is noted.
APPTAINER = """\
#!/bin/sh
echo "$@" >> "$NOTES/opened"
while [ "$1" != /i.sif ]; do shift; done
shift
PYTHONPATH=/of/the/image MARK=of-the-image
exec env PYTHONPATH="${APPTAINERENV_PYTHONPATH:-$PYTHONPATH}" MARK="${APPTAINERENV_MARK:-$MARK}" "$@"
"""


def test_ranks_run_in_the_image_with_the_submitted_code_and_the_script_outside_decides_on_restarts(
    slurm: Slurm, submit: Submit, tmp_path: Path
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "apptainer").write_text(APPTAINER)
    (tmp_path / "bin" / "apptainer").chmod(0o755)
    container = {"runtime": "apptainer", "image": "/i.sif", "mounts": ["/corpora"], "python": sys.executable}
    _, job = submit("wait,finish", container=container, setup=[f"export PATH={tmp_path}/bin:$PATH"])
    assert [note(tmp_path, rank=rank)["marked"] for rank in range(2)] == [MARK, MARK]
    slurm.call("scancel", "--signal=USR2", job)
    assert note(tmp_path, rank=1, restart=1)["marked"] == MARK
    assert ended(slurm, job) == (*FINISHED, "1")
    opened = (tmp_path / "opened").read_text().splitlines()
    mounts = (
        f"exec --bind={tmp_path}:{tmp_path} --bind={tmp_path}/.slurm:{tmp_path}/.slurm --bind=/corpora:/corpora /i.sif"
    )
    assert all(line.startswith(f"{mounts} env PYTHONNOUSERSITE=1 {sys.executable} ") for line in opened)
    asked = ["gmml_cluster.launch.imports", *["submitit.core._submit"] * 2]
    assert [line.partition(" -m ")[2].split()[0] for line in opened] == asked * 2


def test_the_script_shown_is_the_script_used_and_no_secret_is_in_any_file(
    slurm: Slurm, submit: Submit, tmp_path: Path
) -> None:
    submission, job = submit("finish")
    shown = SlurmLauncher().script(submission)
    used = next((tmp_path / ".slurm" / job).glob("*_submission.sh")).read_text()
    assert submission.token not in shown
    assert used == shown.replace("<token>", submission.token)
    ended(slurm, job)
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".json"]
    assert files
    assert not any(b"s3cr3t-value" in content for content in files)


def test_a_notice_brings_the_job_back_under_its_own_number(slurm: Slurm, submit: Submit, tmp_path: Path) -> None:
    _, job = submit("wait,finish")
    for rank in range(2):
        note(tmp_path, rank=rank)
    slurm.call("scancel", "--signal=USR2", job)
    assert note(tmp_path, rank=1, restart=1)["argued"]["--job"] == job
    assert ended(slurm, job) == (*FINISHED, "1")
    assert causes(tmp_path) == [(0, "notice"), (1, "finished")]


def test_a_job_that_slurm_does_not_requeue_hands_the_run_on_to_a_successor(
    slurm: Slurm, submit: Submit, tmp_path: Path
) -> None:
    _, job = submit("wait,wait", sbatch_args={"no-requeue": True})
    for rank in range(2):
        note(tmp_path, rank=rank)
    slurm.call("scancel", "--signal=USR2", job)
    again = note(tmp_path, rank=1, restart=1)["argued"]  # numbered on from its predecessor's start
    assert again["--job"] != job
    assert ended(slurm, job) == ("FAILED", "77:0", "0")
    until(lambda: len(causes(tmp_path)) == 2, 90, "the successor claims")
    history = run_log(tmp_path).refresh()
    assert history.submit is not None
    assert (again["--submit"], again["--job"]) == (history.submit.token, history.submit.job)
    assert causes(tmp_path) == [(0, "notice"), (1, None)]
    SlurmLauncher().cancel(again["--job"])
    assert ended(slurm, again["--job"])[0] == "CANCELLED", "a cancel has no successor"
    assert causes(tmp_path) == [(0, "notice"), (1, "cancelled")]


def test_a_preemption_without_grace_brings_the_job_back(slurm: Slurm, submit: Submit, tmp_path: Path) -> None:
    _, job = submit("wait,finish", sbatch_args={"exclusive": True})
    for rank in range(2):
        note(tmp_path, rank=rank)
    urgent = slurm.submit("sleep 1", "-p", "high", "-N", "2", "--exclusive")
    until(lambda: slurm.job(urgent)["JobState"] == "COMPLETED", 90, "the urgent job is done")
    note(tmp_path, rank=0, restart=1)
    assert ended(slurm, job) == (*FINISHED, "1")
    assert causes(tmp_path) == [(0, "preempted"), (1, "finished")]


def test_killed_ranks_are_started_again_in_the_same_allocation(slurm: Slurm, submit: Submit, tmp_path: Path) -> None:
    _, job = submit("wait,finish")
    for pid in pids(tmp_path):
        os.kill(pid, signal.SIGKILL)
    again = note(tmp_path, rank=1, restart=1)
    assert (again["node"], again["argued"]["--job"]) == (note(tmp_path, rank=1)["node"], job)
    assert ended(slurm, job) == (*FINISHED, "0")
    assert causes(tmp_path) == [(0, "killed"), (1, "finished")]


def test_a_lost_node_is_node_lost_and_the_job_comes_back(slurm: Slurm, submit: Submit, tmp_path: Path) -> None:
    _, job = submit("wait,finish")
    _, second = pids(tmp_path)
    slurm.crash(note(tmp_path, rank=1)["node"], second)
    until(lambda: causes(tmp_path) == [(0, "node_lost")], 60, "SLURM gives the node up")
    slurm.repair(note(tmp_path, rank=1)["node"])
    assert note(tmp_path, rank=1, restart=1)["argued"]["--job"] == job
    assert ended(slurm, job) == (*FINISHED, "1")
    assert causes(tmp_path) == [(0, "node_lost"), (1, "finished")]


def test_a_node_whose_device_is_broken_is_excluded_at_the_requeue(slurm: Slurm, submit: Submit, tmp_path: Path) -> None:
    _, job = submit("ecc,finish", nodes="1")
    first = note(tmp_path, rank=0)["node"]
    assert note(tmp_path, rank=0, restart=1)["node"] != first
    assert ended(slurm, job) == (*FINISHED, "1")
    assert causes(tmp_path) == [(0, "hardware"), (1, "finished")]
    assert slurm.job(job)["ExcNodeList"] == first


def test_a_python_without_what_ranks_import_ends_the_first_start_and_says_so(
    slurm: Slurm, submit: Submit, tmp_path: Path
) -> None:
    _, job = submit("finish", imports=("torch", "no_such_package"))
    assert ended(slurm, job) == ("FAILED", "80:0", "0")
    failed = run_log(tmp_path).refresh().submit.failed
    assert "has no no_such_package, which the ranks import; install them there" in failed
    assert "no torch" not in failed


def test_a_failing_rank_ends_the_job_and_its_end_is_logged(slurm: Slurm, submit: Submit, tmp_path: Path) -> None:
    _, job = submit("fail,finish")
    assert ended(slurm, job)[2] == "0"
    assert causes(tmp_path) == [(0, "error")]


def test_a_cancelled_job_stays_cancelled(slurm: Slurm, submit: Submit, tmp_path: Path) -> None:
    _, job = submit("wait,finish")
    for rank in range(2):
        note(tmp_path, rank=rank)
    assert polled({job: NAME}) == {job: "running"}
    SlurmLauncher().cancel(job)
    state, _, restarts = ended(slurm, job)
    assert (state, restarts) == ("CANCELLED", "0")
    assert causes(tmp_path) == [(0, "cancelled")]
    SlurmLauncher().cancel(job)


def test_where_the_log_is_out_of_reach_the_exit_code_decides(slurm: Slurm, submit: Submit, tmp_path: Path) -> None:
    _, job = submit("wait,never", root=OUT_OF_REACH, folder=str(tmp_path / "jobs"))
    for rank in range(2):
        note(tmp_path, rank=rank)
    slurm.call("scancel", "--signal=USR2", job)
    note(tmp_path, rank=0, restart=1)
    assert ended(slurm, job) == (*FINISHED, "1")


def test_a_queued_job_is_queued_and_another_runs_job_under_its_number_gone(
    slurm: Slurm, submit: Submit, tmp_path: Path
) -> None:
    _, job = submit("finish", sbatch_args={"hold": True})
    assert polled({job: NAME, "999999": NAME}) == {job: "queued", "999999": "gone"}
    assert polled({job: "another-run"}) == {job: "gone"}
    assert polled({"999999": NAME}) == {"999999": "gone"}
    SlurmLauncher().cancel(job)
    assert ended(slurm, job)[0] == "CANCELLED"


def test_preflight_passes_what_slurm_would_take_and_leaves_nothing_behind(
    slurm: Slurm, submit: Submit, tmp_path: Path
) -> None:
    assert SlurmLauncher().preflight(submission_for(tmp_path / "runs")) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "field", "problems"),
    [
        ({"partition": "nonesuch"}, "slurm.partition", ("'nonesuch'", "nvalid partition", "sinfo")),
        ({"nodes": "3"}, "resources.nodes", ("3..3", "sinfo")),
        ({"folder": "/proc/self"}, "slurm.folder", ("/proc/self",)),
        ({"sbatch_args": {"signal": "TERM"}}, "slurm.sbatch_args", ("'signal'",)),
    ],
)
def test_preflight_says_in_a_sentence_why_slurm_refuses(
    slurm: Slurm, submit: Submit, tmp_path: Path, options: dict, field: str, problems: tuple[str, ...]
) -> None:
    faults = SlurmLauncher().preflight(submission_for(tmp_path, **options))
    assert [fault.where for fault in faults] == [field]
    assert all(word in str(faults[0]) for word in problems), faults[0]
