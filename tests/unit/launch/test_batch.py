"""The lines around srun, run by a real bash with stand-ins for scontrol and Python."""

import hashlib
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from gmml_cluster.launch import batch
from gmml_cluster.launch.launcher import Submission
from gmml_cluster.launch.snapshot import Snapshot
from gmml_cluster.spec.cluster import ClusterProfile
from gmml_cluster.spec.lengths import NodeRange

Bash = Callable[..., subprocess.CompletedProcess[str]]
DATA = b"not really a zip"


@pytest.fixture
def submission(tmp_path: Path) -> Submission:
    profile = {"launcher": "slurm", "root": str(tmp_path), "slurm": {"python": "the_python", "setup": ["set -e"]}}
    return Submission(
        root=str(tmp_path),
        name="a-run",
        token="tok3n",
        profile=ClusterProfile.model_validate(profile),
        nodes=NodeRange(least=1, most=1),
        ranks_per_node=1,
        code=Snapshot(hashlib.sha256(DATA).hexdigest(), DATA),
    )


@pytest.fixture
def bash(tmp_path: Path, submission: Submission) -> Bash:
    """Runs shell lines as job 17, in whose stderr file one line stands already."""
    (tmp_path / ".slurm/17").mkdir(parents=True)
    (tmp_path / ".slurm/code").mkdir()
    (tmp_path / ".slurm/17/17_0_log.err").write_text("*** JOB 17 ON n1 CANCELLED AT 1 DUE TO PREEMPTION ***\n")
    batch.archive(submission).write_bytes(DATA)

    def run(lines: list[str], **environment: object) -> subprocess.CompletedProcess[str]:
        path = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "17"}
        given = {**path, **{name: str(value) for name, value in environment.items()}}
        return subprocess.run(["bash", "-c", "\n".join(lines)], env=given, capture_output=True, text=True, check=False)

    return run


def tool(folder: Path, name: str, *lines: str) -> None:
    (folder / name).write_text("\n".join(["#!/bin/sh", *lines, ""]))
    (folder / name).chmod(0o755)


def outcome(bash: Bash, submission: Submission, *, verdict: str, rc: int, state: str, why: str, restart: int) -> bool:
    """Whether the script of a job that ended so calls `scontrol requeue`."""
    folder = Path(submission.root)
    err = folder / ".slurm/17/17_0_log.err"
    tool(folder, "scontrol", f'[ "$1" = requeue ] && touch {folder}/requeued', f"echo JobState={state} StdErr={err}")
    tool(folder, "the_python", f'echo "$@" > {folder}/asked', verdict or "exit 4")
    line = f"echo '*** JOB 17 ON n1 CANCELLED AT 2 DUE TO {why} ***' >> {err}" if why else "true"
    ranks = [line, f"(exit {rc})"]
    lines = [*batch.setup_lines(submission), *ranks, *batch.teardown_lines(submission)]
    done = bash(lines, **({"SLURM_RESTART_COUNT": restart} if restart else {}))
    assert done.returncode == rc, done.stderr
    told = f"{folder}/a-run --submit tok3n --job 17 --restart {restart} --rc {rc}"
    assert (folder / "asked").read_text() == f"-m gmml_cluster.launch.after {told}\n"
    return (folder / "requeued").exists()


@pytest.mark.parametrize(
    ("verdict", "rc", "state", "why", "restart", "requeued"),
    [
        ("echo requeue", 77, "RUNNING", "", 0, True),
        ("echo requeue", 77, "COMPLETING", "PREEMPTION", 0, True),
        ("echo requeue", 77, "COMPLETING", "TIME LIMIT", 0, True),
        ("echo requeue", 77, "COMPLETING", "", 0, False),
        ("echo requeue", 77, "COMPLETING", "JOB REQUEUE", 0, False),
        ("echo requeue", 78, "RUNNING", "", 0, True),
        ("echo requeue", 77, "RUNNING", "", 500, True),
        ("echo nothing", 77, "RUNNING", "", 0, False),
        ("echo nothing", 137, "COMPLETING", "PREEMPTION", 0, False),
        ("", 77, "RUNNING", "", 0, True),
        ("", 137, "RUNNING", "", 19, True),
        ("", 137, "RUNNING", "", 20, False),
        ("", 1, "COMPLETING", "PREEMPTION", 3, True),
        ("", 78, "RUNNING", "", 0, False),
        ("", 0, "RUNNING", "", 0, False),
        ("", 77, "COMPLETING", "", 0, False),
        ("echo some warning", 77, "RUNNING", "", 0, True),
        ("echo some warning", 77, "RUNNING", "", 20, False),
    ],
)
def test_the_log_s_word_decides_and_without_it_the_exit_code(
    bash: Bash, submission: Submission, verdict: str, rc: int, state: str, why: str, restart: int, requeued: bool
) -> None:
    found = outcome(bash, submission, verdict=verdict, rc=rc, state=state, why=why, restart=restart)
    assert found is requeued


def test_a_verdict_that_never_comes_is_not_waited_for(
    bash: Bash, submission: Submission, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "AFTER_S", 1)
    assert outcome(bash, submission, verdict="exec sleep 60", rc=77, state="RUNNING", why="", restart=0)


def test_a_cancel_during_the_teardown_lets_the_verdict_be_written(bash: Bash, submission: Submission) -> None:
    folder = Path(submission.root)
    verdict = f"kill -TERM 0; sleep 0.2; touch {folder}/written; echo nothing"
    assert not outcome(bash, submission, verdict=verdict, rc=77, state="COMPLETING", why="", restart=0)
    assert (folder / "written").exists()


def test_damaged_code_is_refused_before_anything_runs(bash: Bash, submission: Submission) -> None:
    batch.archive(submission).write_bytes(b"damaged")
    done = bash([*batch.setup_lines(submission), "echo ran"])
    assert (done.returncode, done.stdout) == (78, "")
    assert "not the submitted code" in done.stderr
