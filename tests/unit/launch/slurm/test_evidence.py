"""What SLURM's record of a job, its stderr and the ranks' files prove. Texts as SLURM 22.05.8 wrote them."""

from pathlib import Path

import pytest

from gmml_cluster.launch.after.evidence import Evidence
from gmml_cluster.launch.slurm.evidence import allocation, examine

CANCELLED = "slurmstepd-n1: error: *** JOB 1 ON n1 CANCELLED AT 2026-11-29T11:28:26"
NODE_FAILURE = f"""\
srun: error: Node failure on n2
{CANCELLED} DUE TO NODE FAILURE, SEE SLURMCTLD LOG FOR DETAILS ***
srun: Job step aborted: Waiting up to 7 seconds for job step to finish.
"""
RUNNING = "JobId=1 JobState=RUNNING Reason=None Requeue=1 RunTime=00:01:00 TimeLimit=01:00:00 "
COMPLETING = RUNNING.replace("RUNNING", "COMPLETING")
UP, DOWN = "n1=MIXED+COMPLETING n2=IDLE", "n1=MIXED+COMPLETING n2=DOWN*"


def found(tmp_path: Path, job: str, stderr: str, nodes: str = "") -> Evidence:
    errors = tmp_path / "1_0_log.err"
    errors.write_text(f"{CANCELLED} DUE TO PREEMPTION ***\n{stderr}")
    return examine(job, nodes, errors, seen=1, notice_s=120)


@pytest.mark.parametrize(
    ("job", "stderr", "nodes", "cause"),
    [
        (COMPLETING, NODE_FAILURE, "", "node_lost"),
        (COMPLETING, "srun: error: Node failure on n2\n", UP, "node_lost"),
        (RUNNING, "srun: error: Node failure on n2\n", "", "node_lost"),
        (COMPLETING, "", DOWN, "node_lost"),
        (COMPLETING, "", UP, "cancelled"),
        (COMPLETING, f"{CANCELLED} ***\n", UP, "cancelled"),
        (COMPLETING, "", "", None),
        (COMPLETING, f"{CANCELLED} DUE TO PREEMPTION ***\n", "", "preempted"),
        (COMPLETING, f"{CANCELLED} DUE TO TIME LIMIT ***\n", "", "time_limit"),
        (COMPLETING, f"{CANCELLED} DUE TO JOB REQUEUE ***\n", UP, None),
        (COMPLETING, f"{CANCELLED.replace('JOB 1', 'STEP 1.0')} DUE TO PREEMPTION ***\n", UP, "cancelled"),
        (RUNNING, "", "", None),
        ("", "", "", None),
    ],
)
def test_only_what_slurm_says_proves_a_cause(
    tmp_path: Path, job: str, stderr: str, nodes: str, cause: str | None
) -> None:
    evidence = found(tmp_path, job, stderr, nodes)
    assert evidence.cause == cause
    assert bool(evidence.proof) is (cause is not None)


@pytest.mark.parametrize(
    ("job", "notice", "proof"),
    [
        (RUNNING + "PreemptTime=2026-11-29T11:29:02", "preempted", "PreemptTime=2026-11-29T11:29:02"),
        (RUNNING + "PreemptTime=None", None, ""),
        (RUNNING.replace("00:01:00", "00:57:30"), "time_limit", "RunTime=00:57:30 TimeLimit=01:00:00"),
        (RUNNING.replace("TimeLimit=01:00:00", "TimeLimit=UNLIMITED"), None, ""),
        (RUNNING.replace("TimeLimit=01:00:00", "TimeLimit=2-01:00:00"), None, ""),
        (COMPLETING.replace("00:01:00", "00:57:30"), None, ""),
    ],
)
def test_a_notice_to_a_job_that_still_runs_is_explained_by_its_record(
    tmp_path: Path, job: str, notice: str | None, proof: str
) -> None:
    evidence = found(tmp_path, job, "")
    assert (evidence.cause, evidence.notice, evidence.proof) == (None, notice, proof)


def test_a_broken_device_is_hardware_unless_slurm_ended_the_job(tmp_path: Path) -> None:
    (tmp_path / "1_1_log.err").write_text("RuntimeError: CUDA error: uncorrectable ECC error encountered\n")
    blamed = "srun: error: n2: task 1: Exited with exit code 1\n"
    evidence = found(tmp_path, RUNNING, blamed)
    assert (evidence.cause, evidence.bad_nodes) == ("hardware", ("n2",))
    assert evidence.proof.startswith("n2, rank 1: RuntimeError: CUDA error: uncorrectable ECC")
    assert found(tmp_path, COMPLETING, blamed + NODE_FAILURE).cause == "node_lost"


@pytest.mark.parametrize(
    ("job", "held"),
    [
        (RUNNING, True),
        (COMPLETING, False),
        ("", False),
        (f"{RUNNING}PreemptTime=None", True),
        (f"{RUNNING}PreemptTime=2026-11-29T11:28:26", False),
        (RUNNING.replace("TimeLimit=01", "TimeLimit=UNLIMITED"), True),
        (RUNNING.replace("RunTime=00:01", "RunTime=00:58"), False),
    ],
)
def test_nodes_are_the_job_s_until_slurm_wants_them_back(job: str, held: bool) -> None:
    assert allocation(job, "n1=MIXED n2=ALLOCATED", (), least=2, notice_s=120).held is held


def test_a_node_is_sound_if_it_answers_and_neither_drains_nor_failed() -> None:
    nodes = "n1=ALLOCATED n2=DOWN+NOT_RESPONDING n3=MIXED+DRAIN n4=ALLOCATED* n5=MIXED n6=ALLOCATED"
    left = allocation(RUNNING, nodes, ("n6", "n9"), least=2, notice_s=120)
    assert (left.sound, left.bad) == (("n1", "n5"), ("n2", "n3", "n4", "n6"))
    assert allocation(RUNNING, "", (), least=1, notice_s=120).sound == ()
