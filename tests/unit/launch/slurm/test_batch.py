"""The lines around srun, run by a real bash with stand-ins for scontrol and Python."""

import hashlib
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from gmml_cluster.launch.protocol import Submission
from gmml_cluster.launch.slurm import batch
from gmml_cluster.launch.snapshot import Snapshot
from gmml_cluster.run.codes import RESTARTS, UNFIT, UNMET
from gmml_cluster.spec.cluster import ClusterProfile
from tests.fixtures import submissions

Bash = Callable[..., subprocess.CompletedProcess[str]]
DATA = b"not really a zip"


@pytest.fixture
def submission(tmp_path: Path) -> Submission:
    profile = {"launcher": "slurm", "root": str(tmp_path), "slurm": {"python": "the_python", "setup": ["set -eu"]}}
    code = Snapshot(hashlib.sha256(DATA).hexdigest(), DATA)
    return submissions.submission(ClusterProfile.model_validate(profile), token="tok3n", code=code)


@pytest.fixture
def bash(tmp_path: Path, submission: Submission) -> Bash:
    """Runs shell lines as job 17, in whose stderr file one line is already."""
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


def python(folder: Path, *verdict: str, imports: str = "exit 0") -> None:
    """A stand-in for the job's Python: answers to the check of imports, and to the question for the verdict."""
    check = f'case "$*" in *launch.imports*) {imports} ;; *launch.notify*) exit 0 ;; esac'
    tool(folder, "the_python", check, f'for word; do echo "$word"; done > {folder}/asked', *verdict)


def asked(folder: Path) -> dict[str, str]:
    """Options that the verdict was asked for with."""
    words = (folder / "asked").read_text().splitlines()
    assert words[:2] == ["-m", "gmml_cluster.launch.slurm.restart"]
    return {"run_root": words[2], **dict(zip(words[3::2], words[4::2], strict=True))}


def outcome(
    bash: Bash, submission: Submission, *, verdict: str, rc: int, state: str, why: str, restart: int, blind: int = 0
) -> bool:
    """Whether the script of a job that ended so calls `scontrol requeue`.

    Args:
        blind: restarts that were decided without the log before.
    """
    folder = Path(submission.root)
    err = folder / ".slurm/17/17_0_log.err"
    count = folder / ".slurm/17/17_0_log.restarts-without-log"
    if blind:
        count.write_text(str(blind))
    shown = f"echo JobId=17 JobState={state} StdErr={err}"
    tool(folder, "scontrol", f'case "$1" in requeue) touch {folder}/requeued ;; esac', shown)
    python(folder, verdict or "exit 4")
    line = f"echo '*** JOB 17 ON n1 CANCELLED AT 2 DUE TO {why} ***' >> {err}" if why else "true"
    ranks = [line, f"(exit {rc})"]
    lines = [*batch.setup_lines(submission), *ranks, "gmml_after"]
    done = bash(lines, **({"SLURM_RESTART_COUNT": restart} if restart else {}))
    assert done.returncode == (rc or 1), done.stderr
    given = asked(folder)
    assert given["run_root"] == f"{folder}/a-run"
    expected = {"--submit": "tok3n", "--job": "17", "--restart": restart, "--rc": rc, "--errors": err, "--seen": 1}
    assert given.items() >= {name: str(value) for name, value in expected.items()}.items()
    assert given["--scheduler-job"] == f"JobId=17 JobState={state} StdErr={err}"
    assert not (verdict in ("echo requeue", "echo nothing") and count.exists())
    return (folder / "requeued").exists()


@pytest.mark.parametrize(
    ("verdict", "rc", "state", "why", "blind", "requeued"),
    [
        ("echo requeue", 77, "RUNNING", "", 0, True),
        ("echo requeue", 77, "COMPLETING", "PREEMPTION", 0, True),
        ("echo requeue", 77, "COMPLETING", "TIME LIMIT", 0, True),
        ("echo requeue", 77, "COMPLETING", "", 0, False),
        ("echo requeue", 77, "COMPLETING", "NODE FAILURE", 0, True),
        ("echo requeue", 77, "COMPLETING", "JOB REQUEUE", 0, False),
        ("echo requeue", 78, "RUNNING", "", 0, True),
        ("echo requeue", 77, "RUNNING", "", RESTARTS, True),
        ("echo nothing", 77, "RUNNING", "", 0, False),
        ("echo nothing", 137, "COMPLETING", "PREEMPTION", 0, False),
        ("", 77, "RUNNING", "", 0, True),
        ("", 137, "RUNNING", "", RESTARTS - 1, True),
        ("", 137, "RUNNING", "", RESTARTS, False),
        ("", 1, "COMPLETING", "PREEMPTION", 3, True),
        ("", 78, "RUNNING", "", 0, False),
        ("", 0, "RUNNING", "", 0, True),
        ("", UNFIT, "RUNNING", "", 0, False),
        ("", 77, "COMPLETING", "", 0, False),
        ("echo some warning", 77, "RUNNING", "", 0, True),
        ("echo some warning", 77, "RUNNING", "", RESTARTS, False),
        ("exit 127", 127, "RUNNING", "", 0, False),
    ],
)
def test_the_log_s_word_decides_and_without_it_the_exit_code(
    bash: Bash, submission: Submission, verdict: str, rc: int, state: str, why: str, blind: int, requeued: bool
) -> None:
    found = outcome(bash, submission, verdict=verdict, rc=rc, state=state, why=why, restart=500, blind=blind)
    assert found is requeued


@pytest.mark.parametrize(("answer", "code"), [("nothing finished", 0), ("nothing", 1), ("requeue", 1)])
def test_a_job_leaves_with_0_only_where_the_log_says_that_the_run_has_finished(
    bash: Bash, submission: Submission, answer: str, code: int
) -> None:
    folder = Path(submission.root)
    tool(folder, "scontrol", "echo JobId=17 JobState=RUNNING Restarts=0")
    python(folder, f"echo {answer}")
    done = bash([*batch.setup_lines(submission), "true", "gmml_after"])
    assert done.returncode == code, done.stderr


def test_a_verdict_that_never_comes_is_not_waited_for(
    bash: Bash, submission: Submission, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "VERDICT_S", 1)
    assert outcome(bash, submission, verdict="exec sleep 60", rc=77, state="RUNNING", why="", restart=0)


def test_a_cancel_during_the_teardown_lets_the_verdict_be_written(bash: Bash, submission: Submission) -> None:
    folder = Path(submission.root)
    verdict = f"kill -TERM 0; sleep 0.2; touch {folder}/written; echo nothing"
    assert not outcome(bash, submission, verdict=verdict, rc=77, state="COMPLETING", why="", restart=0)
    assert (folder / "written").exists()


def with_setup(submission: Submission, lines: list[str]) -> Submission:
    slurm = submission.profile.slurm.model_copy(update={"setup": tuple(lines)})
    return replace(submission, profile=submission.profile.model_copy(update={"slurm": slurm}))


def test_damaged_code_is_refused_before_anything_runs(bash: Bash, submission: Submission, tmp_path: Path) -> None:
    tool(tmp_path, "scontrol", "echo JobState=RUNNING")
    python(tmp_path, "echo nothing")
    batch.archive(submission).write_bytes(b"damaged")
    done = bash([*batch.setup_lines(submission), "echo ran"])
    assert done.returncode == UNMET
    assert "ran" not in done.stdout.splitlines()
    assert "not the submitted code" in done.stderr
    assert asked(tmp_path)["--rc"] == str(UNMET)


@pytest.mark.parametrize("lines", [["true", "ls /nowhere", "true"], ["set -u", 'echo "$NOT_SET"'], ["exit 3"]])
def test_a_failing_setup_line_ends_the_job_and_is_reported(
    bash: Bash, submission: Submission, tmp_path: Path, lines: list[str]
) -> None:
    tool(tmp_path, "scontrol", "echo JobState=RUNNING")
    python(tmp_path, "echo nothing")
    done = bash([*batch.setup_lines(with_setup(submission, lines)), "echo ran"])
    assert "ran" not in done.stdout.splitlines()
    assert asked(tmp_path)["--rc"] == str(done.returncode)
    assert "ls /nowhere" not in lines or "slurm.setup: ls /nowhere: exited with 2" in done.stderr


def test_what_a_sourced_file_of_the_setup_passes_over_is_passed_over(
    bash: Bash, submission: Submission, tmp_path: Path
) -> None:
    tool(tmp_path, "scontrol", "echo JobState=RUNNING")
    python(tmp_path)
    (tmp_path / "activate").write_text("false\nexport FOUND=1\n")
    lines = batch.setup_lines(with_setup(submission, [f". {tmp_path}/activate"]))
    assert bash([*lines, "echo ran $FOUND", "trap - EXIT"]).stdout.splitlines() == ["ran 1"]


def test_a_controller_that_is_away_at_the_end_is_waited_for(bash: Bash, submission: Submission, tmp_path: Path) -> None:
    away = f"[ $(wc -l < {tmp_path}/calls) -gt 3 ] || {{ echo 'Unable to contact slurm controller' >&2; exit 1; }}"
    tool(tmp_path, "sleep", "true")
    tool(tmp_path, "scontrol", f"echo $* >> {tmp_path}/calls", away, "echo JobState=RUNNING")
    python(tmp_path, "echo requeue")
    bash([*batch.setup_lines(submission), "(exit 77)", "gmml_after"])
    assert (tmp_path / "calls").read_text().splitlines()[-1] == "requeue 17"


def test_memory_asked_for_by_a_surrounding_allocation_does_not_reach_the_ranks(
    bash: Bash, submission: Submission, tmp_path: Path
) -> None:
    tool(tmp_path, "scontrol", "true")
    python(tmp_path)
    shown = bash([*batch.setup_lines(submission), "env", "trap - EXIT"], SLURM_MEM_PER_CPU=100).stdout
    assert "GMML_KILL_WAIT_S" in shown
    assert "SLURM_MEM_PER_CPU" not in shown


def test_nodes_are_asked_about_where_slurm_ends_a_job_without_a_reason(
    bash: Bash, submission: Submission, tmp_path: Path
) -> None:
    node = "echo 'NodeName=n2 Arch=x86_64 CPUAlloc=1 State=DOWN* ThreadsPerCore=1'"
    shown = f'case "$*" in *"show node n[1-2]"*) {node} ;; *) echo JobState=COMPLETING ;; esac'
    tool(tmp_path, "scontrol", shown)
    python(tmp_path, "echo nothing")
    bash([*batch.setup_lines(submission), "(exit 77)", "gmml_after"], SLURM_JOB_NODELIST="n[1-2]")
    assert asked(tmp_path)["--nodes"] == "n2=DOWN*"


@pytest.mark.parametrize(("spare", "excluded"), [(["n1", "n3"], True), (["n1"], True), ([], False)])
def test_a_bad_node_is_excluded_at_the_requeue_where_enough_others_are_left(
    bash: Bash, submission: Submission, tmp_path: Path, spare: list[str], excluded: bool
) -> None:
    states = {"n2": "ALLOCATED", "n4": "DOWN*", **dict.fromkeys(spare, "IDLE")}
    nodes = "".join(
        f"echo 'NodeName={node} A=1 State={state} B=1 Partitions=a,low C=1';" for node, state in states.items()
    )
    shown = f'case "$*" in *"show node"*) {nodes} ;; *) echo JobState=RUNNING ExcNodeList=n9 ;; esac'
    tool(tmp_path, "scontrol", f'echo "$*" >> {tmp_path}/calls', shown)
    python(tmp_path, "echo requeue n2")
    bash([*batch.setup_lines(submission), "(exit 1)", "gmml_after"], SLURM_JOB_PARTITION="low")
    calls = (tmp_path / "calls").read_text().splitlines()
    assert "requeue 17" in calls
    assert ("update JobId=17 ExcNodeList=n9,n2" in calls) is excluded


DISABLED = "Requested operation is presently disabled for job 17"


def ended_without_requeue(
    bash: Bash, submission: Submission, verdict: str, sbatch: str
) -> subprocess.CompletedProcess[str]:
    """A job whose ranks left after a notice and that SLURM refuses to requeue."""
    folder = Path(submission.root)
    nodes = "".join(f"echo 'NodeName={node} A=1 State=IDLE B=1 Partitions=low C=1';" for node in ("n1", "n2"))
    other = f'*"show node"*) {nodes} ;; *) echo JobState=RUNNING Requeue=0 ExcNodeList=n9 ;;'
    tool(folder, "scontrol", f'case "$*" in requeue*) echo {DISABLED} >&2; exit 1 ;; {other} esac')
    tool(folder, "sbatch", f'echo "$*" > {folder}/submitted', f"env > {folder}/environment", sbatch)
    python(folder, verdict)
    for name in ("submission.sh", "submitted.pkl"):
        (folder / ".slurm/17" / f"17_{name}").write_text(name)
    profile = submission.profile.model_copy(update={"environment": {"ADDED": "here"}})
    lines = [*batch.setup_lines(replace(submission, profile=profile)), "(exit 77)", "gmml_after"]
    of_slurm = {"SLURM_JOB_PARTITION": "low", "SLURM_CONF": "/etc/slurm.conf", "SLURM_RESTART_COUNT": 3}
    return bash(lines, PYTHONPATH="/mine", SECRET='it\'s "$HOME"', **of_slurm)


@pytest.mark.parametrize(("bad", "excluded"), [("", ""), (" n2", "--exclude=n9,n2 ")])
def test_a_job_that_slurm_does_not_requeue_hands_the_run_on_to_a_successor(
    bash: Bash, submission: Submission, tmp_path: Path, bad: str, excluded: str
) -> None:
    done = ended_without_requeue(bash, submission, f"echo requeue{bad}", "echo '18;cluster'")
    assert done.returncode == 77
    assert done.stdout.splitlines()[-1] == "gmml: job 18 follows"
    script = tmp_path / ".slurm/17/17_submission.sh"
    assert (tmp_path / "submitted").read_text() == f"--parsable --begin=now+10 {excluded}{script}\n"
    made = {path.name: path.read_text() for path in (tmp_path / ".slurm/18").iterdir()}
    own = {f"18_{name}": name for name in ("submission.sh", "submitted.pkl")}
    assert made == {**own, "18_0_log.restarts-here": "\n" * 4}, "its first start is number 4, behind start 3 of job 17"
    words = (tmp_path / "asked").read_text().split()
    assert words == ["-m", "gmml_cluster.launch.slurm.successor", submission.run_root, "tok3n", "18"]
    environment = (tmp_path / "environment").read_text().splitlines()
    assert {"PYTHONPATH=/mine", "SLURM_CONF=/etc/slurm.conf", 'SECRET=it\'s "$HOME"'} <= set(environment)
    assert not any(line.startswith(("ADDED", "GMML_", "SLURM_JOB", "SLURM_RESTART")) for line in environment)


def test_where_the_site_takes_no_successor_the_reason_is_said(bash: Bash, submission: Submission) -> None:
    done = ended_without_requeue(bash, submission, "echo requeue", "echo 'Access denied' >&2; exit 1")
    assert done.returncode == 77
    assert done.stdout.splitlines()[-1] == "gmml: no successor: Access denied; gmml resume continues the run"


def test_missing_modules_end_the_first_start_before_any_rank(
    bash: Bash, submission: Submission, tmp_path: Path
) -> None:
    tool(tmp_path, "scontrol", "echo JobState=RUNNING")
    python(tmp_path, "exit 4", imports=f"echo n1: no torch >&2; exit {UNFIT}")
    done = bash([*batch.setup_lines(submission), "echo ran"])
    assert done.returncode == UNFIT
    assert "ran" not in done.stdout.splitlines()
    assert done.stdout.splitlines()[-1].endswith(": nothing")


@pytest.mark.parametrize("argument", ["--container-image=a.sqsh", "--environment=b"])
def test_the_script_s_own_python_is_not_asked_for_modules_that_lie_in_the_ranks_container(
    submission: Submission, argument: str
) -> None:
    slurm = submission.profile.slurm.model_copy(update={"srun_args": (argument,)})
    made = replace(submission, profile=submission.profile.model_copy(update={"slurm": slurm}))
    assert not any("launch.imports" in line for line in batch.setup_lines(made))
    assert any("launch.imports --exit 80 torch" in line for line in batch.setup_lines(submission))


JOB = "JobState=RUNNING Restarts=2 NodeList=n[1-3] PreemptTime={preempt}"


def ranks_started(bash: Bash, submission: Submission, *, verdicts: list[str], preempt: str = "None") -> list[str]:
    """What each start of a job that was requeued twice is given: its number and srun's arguments.

    Args:
        verdicts: what the verdict is after each start; the last also after those that follow.
    """
    folder = Path(submission.root)
    node = "echo 'NodeName=n2 A=1 State=DOWN* B=1'"
    tool(folder, "scontrol", f'echo "$*" >> {folder}/calls')
    lines = [
        "#!/bin/sh",
        f'echo "$*" >> {folder}/calls',
        f'case "$*" in *"show node"*) {node} ;; *) echo {JOB} ;; esac',
    ]
    (folder / "scontrol").write_text("\n".join(lines).format(preempt=preempt))
    tool(folder, "sleep", f'echo "$*" >> {folder}/slept')
    tool(folder, "srun", f'echo "$GMML_RESTART $*" >> {folder}/started; exit 137')
    answers = "".join(f"{number}) echo '{verdict}' ;; " for number, verdict in enumerate(verdicts, 1))
    count = f"case $(wc -l < {folder}/started) in {answers} *) echo nothing ;; esac"
    python(folder, count)
    text = batch.text(submission)
    bash([text], SLURM_RESTART_COUNT=2, SLURM_JOB_NODELIST="n[1-3]")
    return (folder / "started").read_text().splitlines()


KILLED = "JOB 17 ON n1 CANCELLED AT 2026-11-30T22:26:01 DUE TO PREEMPTION"
BEGAN = "gmml: start {} of job 17, rank 0\n"


@pytest.mark.parametrize(
    ("written", "word"),
    [
        (f"{BEGAN.format(0)}slurmstepd-n1: error: *** {KILLED} ***\nsrun: forcing job termination\n", KILLED),
        (f"{BEGAN.format(0)}slurmstepd-n1: error: *** {KILLED} ***\n{BEGAN.format(1)}a rank's line\n", ""),
        (f"{BEGAN.format(0)}slurmstepd-n1: error: *** {KILLED.replace('JOB 17', 'STEP 17.0')} ***\n", ""),
        ("", ""),
    ],
    ids=["the start before was killed", "one before it was", "a step of it was", "there was none"],
)
def test_ranks_learn_why_slurm_killed_the_start_before_and_those_behind_them_do_not(
    bash: Bash, submission: Submission, tmp_path: Path, written: str, word: str
) -> None:
    (tmp_path / ".slurm/17/17_0_log.err").write_text(written)
    tool(tmp_path, "scontrol", f"echo {JOB.format(preempt='None')}")
    tool(tmp_path, "srun", f'echo "$GMML_KILLED" >> {tmp_path}/heard')
    python(tmp_path, f"[ $(wc -l < {tmp_path}/heard) = 1 ] && echo 'here 0 1 -' || echo nothing")
    bash([batch.text(submission)], SLURM_RESTART_COUNT=2, SLURM_JOB_NODELIST="n1")
    assert (tmp_path / "heard").read_text().splitlines() == [word, ""]


def test_ranks_are_started_again_by_the_same_script_without_the_nodes_that_are_left_out(
    bash: Bash, submission: Submission, tmp_path: Path
) -> None:
    first, second, third = ranks_started(bash, submission, verdicts=["here 0 3 -", "here 10 2 n1,n2 n1", "nothing"])
    assert first.startswith("2 --open-mode=append --unbuffered ")
    assert second.startswith("3 --open-mode=append --overlap --nodes=3 --unbuffered ")
    assert third.startswith("4 --open-mode=append --overlap --nodes=2 --exclude=n1,n2 --unbuffered ")
    assert len({start.partition(" --unbuffered ")[2] for start in (first, second, third)}) == 1
    assert (tmp_path / "slept").read_text().splitlines() == ["0", "10"]
    given = asked(tmp_path)
    assert (given["--restart"], given["--bad"], given["--least"], given["--nodes"]) == ("4", "n1", "1", "n2=DOWN*")
    assert len((tmp_path / ".slurm/17/17_0_log.restarts-here").read_text().splitlines()) == 2


def test_a_bad_node_that_the_job_no_longer_has_is_not_left_out_and_still_avoided(
    bash: Bash, submission: Submission, tmp_path: Path
) -> None:
    _, second = ranks_started(bash, submission, verdicts=["here 0 2 - n9", "nothing"])
    assert second.startswith("3 --open-mode=append --overlap --nodes=2 --unbuffered ")
    assert asked(tmp_path)["--bad"] == "n9"


def test_starts_are_numbered_on_over_requeues(bash: Bash, submission: Submission, tmp_path: Path) -> None:
    (tmp_path / ".slurm/17/17_0_log.restarts-here").write_text("\n\n\n")
    assert [start.split()[0] for start in ranks_started(bash, submission, verdicts=["here 0 3 -"])] == ["5", "6"]


@pytest.mark.parametrize("lost", ["notice", "no file"])
def test_where_nodes_are_wanted_back_or_no_start_can_be_numbered_the_job_is_requeued(
    bash: Bash, submission: Submission, tmp_path: Path, lost: str
) -> None:
    if lost == "no file":
        (tmp_path / ".slurm/17/17_0_log.restarts-here").mkdir()
    preempt = "2026-11-29T11:28:26" if lost == "notice" else "None"
    assert len(ranks_started(bash, submission, verdicts=["here 0 3 -"], preempt=preempt)) == 1
    assert (tmp_path / "calls").read_text().splitlines()[-1] == "requeue 17"
    assert ("--least" in asked(tmp_path)) is (lost == "no file")


def test_nothing_is_started_again_by_a_script_whose_setup_failed(
    bash: Bash, submission: Submission, tmp_path: Path
) -> None:
    tool(tmp_path, "scontrol", "echo JobState=RUNNING Restarts=0")
    python(tmp_path, "echo nothing")
    bash([*batch.setup_lines(with_setup(submission, ["false"])), "echo ran"])
    assert "--least" not in asked(tmp_path)


@pytest.mark.parametrize(("given", "line"), [(None, "n3,n7"), ("n1", "n1,n3,n7")])
def test_nodes_that_the_run_avoids_are_excluded_beside_those_of_the_profile(
    submission: Submission, given: str | None, line: str
) -> None:
    profile = submission.profile.model_copy(
        update={"slurm": submission.profile.slurm.model_copy(update={"exclude": given})}
    )
    text = batch.text(replace(submission, profile=profile, excluded=("n3", "n7")))
    assert f"#SBATCH --exclude={line}\n" in text


def test_a_task_of_an_array_names_itself_to_slurm_and_never_the_whole_array(
    bash: Bash, submission: Submission, tmp_path: Path
) -> None:
    (tmp_path / ".slurm/16_1").mkdir()
    tool(tmp_path, "scontrol", f'echo "$@" >> {tmp_path}/controlled', "echo JobState=RUNNING Restarts=0")
    python(tmp_path, "echo requeue n2")
    runs = [replace(submission, name=f"vit-{n}", token=f"token-{n}") for n in range(2)]
    array = {"SLURM_ARRAY_JOB_ID": 16, "SLURM_ARRAY_TASK_ID": 1, "SLURM_JOB_ID": 16}
    bash([*batch.setup_lines(*runs), "(exit 77)", "gmml_after"], **array)
    given = asked(tmp_path)
    assert (given["run_root"], given["--submit"], given["--job"]) == (runs[1].run_root, "token-1", "16_1")
    about = [line for line in (tmp_path / "controlled").read_text().splitlines() if "config" not in line]
    assert {"-o show job 16_1", "requeue 16_1"} <= set(about)
    assert not any(word in ("16", "JobId=16") for line in about for word in line.split())


def test_a_task_s_successor_is_an_array_of_that_task_alone(bash: Bash, submission: Submission, tmp_path: Path) -> None:
    (tmp_path / ".slurm/16_1").mkdir()
    for name in ("submission.sh", "submitted.pkl"):
        (tmp_path / f".slurm/16_1/16_1_{name}").write_text(name)
    tool(tmp_path, "scontrol", 'case "$1" in requeue) echo disabled >&2; exit 1 ;; esac', "echo JobState=RUNNING")
    tool(tmp_path, "sbatch", f'echo "$@" > {tmp_path}/submitted', "echo 18")
    python(tmp_path, "echo requeue")
    runs = [replace(submission, name=f"vit-{n}", token=f"token-{n}") for n in range(2)]
    array = {"SLURM_ARRAY_JOB_ID": 16, "SLURM_ARRAY_TASK_ID": 1, "SLURM_JOB_ID": 17}
    done = bash([*batch.setup_lines(*runs), "(exit 77)", "gmml_after"], **array)
    assert done.stdout.splitlines()[-1] == "gmml: job 18_1 follows"
    script = tmp_path / ".slurm/16_1/16_1_submission.sh"
    assert (tmp_path / "submitted").read_text() == f"--parsable --begin=now+10 --array=1 {script}\n"
    assert (tmp_path / ".slurm/18_1/18_1_submitted.pkl").read_text() == "submitted.pkl"
    assert (tmp_path / "asked").read_text().split()[-2:] == ["token-1", "18_1"]
