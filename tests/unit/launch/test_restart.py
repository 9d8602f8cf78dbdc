import subprocess
import sys
from pathlib import Path

import pytest

from gmml_cluster.errors import Fenced
from gmml_cluster.launch.after.evidence import Evidence
from gmml_cluster.launch.restart import JobStart, judge, restart_delay_s
from gmml_cluster.launch.slurm.restart import main
from gmml_cluster.run import protocol
from gmml_cluster.run.codes import RESTARTS, UNFIT, UNMET
from gmml_cluster.run.log import Draft, Log
from gmml_cluster.store.open import open_store


@pytest.fixture
def log(tmp_path: Path) -> Log:
    """A run that was submitted once."""
    made = Log(open_store(tmp_path / "a-run"))
    put(made, "open", None, run="r")
    submit(made)
    return made


def put(log: Log, kind: str, attempt: int | None, *, run: str = "", **fields: object) -> None:
    log.append(lambda _: Draft(kind, attempt, fields, run=run))


def submit(log: Log) -> None:
    protocol.submit(log, launcher="slurm", code="c", bounds={})


def mine(log: Log, *, restart: int = 0, job: str = "17") -> JobStart:
    submitted = log.refresh().submit
    assert submitted is not None
    return JobStart(submitted.token, job, restart)


def claim(log: Log, who: JobStart) -> int:
    fields = {"submit": who.submit, "job": who.job, "restart": who.restart}
    return protocol.claim(log, **fields, topology={}, machine={}).attempt


def last(log: Log) -> tuple[str, int | None, str]:
    entry = list(log.read())[-1]
    return entry.kind, entry.attempt, entry.fields.get("cause", "")


@pytest.mark.parametrize(
    ("rc", "cause", "again"),
    [(77, "notice", True), (1, "error", False), (74, "storage", True), (137, "lost", True), (143, "lost", True),
     (139, "error", False), (78, "lost", True), (0, "lost", True)],
)  # fmt: skip
def test_a_missing_end_is_appended_with_the_cause_the_code_proves(log: Log, rc: int, cause: str, again: bool) -> None:
    claim(log, mine(log))
    assert judge(log, mine(log), rc).again is again
    assert last(log) == ("end", 1, cause)


@pytest.mark.parametrize(
    ("cause", "again"),
    [
        ("notice", True),
        ("lost", True),
        ("storage", True),
        ("finished", False),
        ("cancelled", False),
        ("error", False),
        ("fenced", False),
    ],
)
def test_where_the_log_has_the_end_it_decides_and_not_the_code(log: Log, cause: str, again: bool) -> None:
    attempt = claim(log, mine(log))
    protocol.begin(log, attempt, resumed=None, step=0, start_s=1.0, load_s=1.0, micro=8)
    protocol.end(log, attempt, cause)
    slots = log.refresh().slots
    for rc in (77, 78, 1, 137):
        assert judge(log, mine(log), rc).again is again
    assert log.refresh().slots == slots


def test_a_rank_killed_before_its_first_step_is_lost_although_the_end_says_notice(log: Log) -> None:
    verdicts = []
    for restart in range(3):
        protocol.end(log, claim(log, mine(log, restart=restart)), "notice")
        verdicts.append(judge(log, mine(log, restart=restart), 137).again)
    assert verdicts == [True, True, False]
    assert [attempt.cause for attempt in log.refresh().attempts] == ["lost"] * 3
    assert [e.fields["proof"] for e in log.read() if e.kind == "cause"] == ["exit code 137"] * 3


@pytest.mark.parametrize(
    ("evidence", "cause", "again"),
    [
        (Evidence(), "notice", True),
        (Evidence("preempted", "p"), "preempted", True),
        (Evidence("time_limit", "p"), "time_limit", True),
        (Evidence("node_lost", "p"), "node_lost", True),
        (Evidence("cancelled", "p"), "cancelled", False),
        (Evidence(None, "PreemptTime=x", "preempted"), "preempted", True),
    ],
)
def test_what_the_scheduler_proves_resolves_a_notice(log: Log, evidence: Evidence, cause: str, again: bool) -> None:
    protocol.end(log, claim(log, mine(log)), "notice")
    assert judge(log, mine(log), 77, evidence).again is again
    assert log.refresh().attempts[-1].cause == cause


def test_a_lost_peer_is_a_lost_node_where_the_scheduler_says_so(log: Log) -> None:
    protocol.end(log, claim(log, mine(log)), "lost", message="peer closed")
    assert judge(log, mine(log), 1, Evidence(None, "PreemptTime=x", "preempted")).again
    assert log.refresh().attempts[-1].cause == "lost"
    assert judge(log, mine(log), 1, Evidence("node_lost", "Node failure on n2")).again
    assert log.refresh().attempts[-1].cause == "node_lost"


def test_why_notice_was_given_explains_a_notice_and_no_crash(log: Log) -> None:
    notice = Evidence(None, "PreemptTime=x", "preempted")
    claim(log, mine(log))
    assert not judge(log, mine(log), 1, notice).again
    assert last(log) == ("end", 1, "error")
    submit(log)
    claim(log, mine(log))
    assert judge(log, mine(log), 77, notice).again
    assert last(log) == ("end", 2, "preempted")


def test_broken_hardware_counts_and_comes_back(log: Log) -> None:
    verdicts = []
    for restart in range(3):
        claim(log, mine(log, restart=restart))
        verdicts.append(judge(log, mine(log, restart=restart), 134, Evidence("hardware", "n2: ECC")).again)
    assert verdicts == [True, True, False]
    assert [attempt.cause for attempt in log.refresh().attempts] == ["hardware"] * 3


def test_srun_s_code_0_without_a_claim_is_a_start_that_failed(log: Log) -> None:
    assert [judge(log, mine(log, restart=restart), 0).again for restart in range(3)] == [True, True, False]
    assert [entry.fields["cause"] for entry in log.read() if entry.kind == "end"] == ["start_failed"] * 3


def test_a_python_without_torch_ends_the_first_start_for_good_and_says_so(log: Log) -> None:
    evidence = Evidence(stderr_tail="17_0_log.err ends with 'n1: python3 has no torch'")
    assert not judge(log, mine(log), UNFIT, evidence).again
    assert "has no torch" in str(log.refresh().submit.failed)


def test_a_job_cancelled_by_hand_is_cancelled_whether_it_has_an_end_or_a_claim(log: Log) -> None:
    slots = log.refresh().slots
    assert not judge(log, mine(log), 143, Evidence("cancelled", "SLURM says so")).again
    assert log.refresh().slots == slots
    claim(log, mine(log))
    assert not judge(log, mine(log), 143, Evidence("cancelled", "SLURM says so")).again
    assert last(log) == ("end", 1, "cancelled")


@pytest.mark.parametrize("word", ["preempted", "time_limit"])
def test_what_the_scheduler_took_costs_no_try_although_the_ranks_were_killed(log: Log, word: str) -> None:
    for restart in range(0, 8, 2):
        assert judge(log, mine(log, restart=restart), 79, Evidence(word, "SLURM says so")).again
        claim(log, mine(log, restart=restart + 1))
        assert judge(log, mine(log, restart=restart + 1), 137, Evidence(word, "SLURM says so")).again
    assert [attempt.cause for attempt in log.refresh().attempts] == [word] * 4
    assert last(log)[0] == "end"


def test_a_resolved_cause_outranks_the_end(log: Log) -> None:
    protocol.end(log, claim(log, mine(log)), "notice")
    protocol.resolve_cause(log, 1, "cancelled", "by its stderr")
    assert not judge(log, mine(log), 77).again


def test_a_person_s_stop_ends_the_restarts(log: Log) -> None:
    protocol.end(log, claim(log, mine(log)), "notice")
    protocol.stop(log, "cancelled by a person")
    assert not judge(log, mine(log), 77).again


@pytest.mark.parametrize("later", ["submit", "claim of the next start", "claim of another job"])
def test_nothing_at_all_is_done_where_there_is_a_later_claim_or_submit(log: Log, later: str) -> None:
    first = mine(log)
    claim(log, first)
    if later == "submit":
        submit(log)
    else:
        claim(log, mine(log, restart=1) if later == "claim of the next start" else mine(log, job="18"))
    slots = log.refresh().slots
    assert not judge(log, first, 137).again
    assert log.refresh().slots == slots


def test_a_start_that_failed_before_its_claim_is_logged_and_tried_three_times_in_all(log: Log) -> None:
    verdicts = [judge(log, mine(log, restart=restart), 1).again for restart in range(3)]
    assert verdicts == [True, True, False]
    assert log.refresh().stopped == "no new checkpoint in 3 attempts (3 x start_failed); retries.failures is 3"
    assert log.refresh().submit is not None
    assert "code 1 before its claim" in str(log.refresh().submit.failed)


def test_many_preemptions_before_do_not_count_against_a_start(log: Log) -> None:
    for restart in range(6):
        claim(log, mine(log, restart=restart))
        assert judge(log, mine(log, restart=restart), 77).again
    assert judge(log, mine(log, restart=6), 143).again


@pytest.mark.parametrize("word", ["time_limit", "preempted"])
def test_a_chain_of_jobs_over_time_limits_goes_on_for_ever(log: Log, word: str) -> None:
    """Each start is its predecessor's successor under the same submit; none of them gets as far as a checkpoint."""
    for number in range(60):
        job = str(17 + number)
        protocol.queued(log, mine(log).submit, job)
        start = mine(log, job=job, restart=number)
        attempt = claim(log, start)
        protocol.end(log, attempt, "notice")
        verdict = judge(log, start, 77, Evidence(word, f"DUE TO {word}"))
        assert (verdict.again, verdict.cause, verdict.pause_s) == (True, word, 0.0)
    history = log.refresh()
    assert {a.cause for a in history.attempts} | set(history.older) == {word}
    attempt = claim(log, mine(log, job="77", restart=60))
    protocol.end(log, attempt, "lost")
    assert judge(log, mine(log, job="77", restart=60), 137).pause_s == 0.0, "the first try that counts"


def test_a_successor_s_start_is_judged_although_the_last_attempt_is_its_predecessor_s(log: Log) -> None:
    protocol.queued(log, mine(log).submit, "17")
    protocol.end(log, claim(log, mine(log)), "notice")
    for number, job in enumerate(("18", "19", "20"), 1):  # the `queued` of each may be missing
        start = mine(log, job=job, restart=number)
        assert judge(log, start, 1).again is (job != "20"), "three failed starts are enough"
    assert log.refresh().gave_up


def test_a_start_whose_successor_has_claimed_claims_nothing_and_starts_nothing(log: Log) -> None:
    """Ranks that srun lost before their claim live on, the job is preempted, and its successor claims: with or without
    its `queued` in the log, for what begins first is what counts.
    """
    protocol.queued(log, mine(log).submit, "17")
    claim(log, mine(log, job="18", restart=1))
    with pytest.raises(Fenced, match="start 1 of job 18, its successor, has claimed, and this is start 0"):
        claim(log, mine(log))
    assert not judge(log, mine(log), 0).again
    assert judge(log, mine(log, job="18", restart=1), 137).again


def test_notices_before_the_claim_are_counted_over_successors(log: Log) -> None:
    starts = [mine(log, job=str(17 + number), restart=number) for number in range(RESTARTS + 1)]
    assert [judge(log, start, 77).again for start in starts] == [True] * RESTARTS + [False]


def test_a_notice_before_the_claim_comes_back_without_an_entry(log: Log) -> None:
    slots = log.refresh().slots
    assert judge(log, mine(log), 77).again
    assert log.refresh().slots == slots


def test_notices_before_the_claim_come_back_twenty_times_and_are_then_logged(log: Log) -> None:
    verdicts = [judge(log, mine(log, restart=restart), 77).again for restart in range(RESTARTS + 1)]
    assert verdicts == [True] * RESTARTS + [False]
    assert last(log) == ("end", None, "start_failed")
    assert f"code 77 before its claim, {RESTARTS + 1} starts in a row" in str(log.refresh().submit.failed)


def test_a_claim_resets_the_count_of_notices_before_it(log: Log) -> None:
    claim(log, mine(log, restart=RESTARTS))
    assert judge(log, mine(log, restart=RESTARTS), 77).again
    assert judge(log, mine(log, restart=2 * RESTARTS), 77).again


def test_a_rank_that_failed_before_the_meeting_counts_whatever_its_peers_exited_with(log: Log) -> None:
    verdicts = [judge(log, mine(log, restart=restart), max(77, UNMET)).again for restart in range(3)]
    assert verdicts == [True, True, False]


def test_who_had_no_right_to_claim_leaves_no_trace(log: Log) -> None:
    slots = log.refresh().slots
    assert not judge(log, mine(log), 78).again
    assert log.refresh().slots == slots


def test_three_lost_attempts_without_a_checkpoint_are_enough(log: Log) -> None:
    verdicts = []
    for restart in range(3):
        claim(log, mine(log, restart=restart))
        verdicts.append(judge(log, mine(log, restart=restart), 137).again)
    assert verdicts == [True, True, False]


def test_a_checkpoint_resets_the_count_of_lost_attempts(log: Log) -> None:
    for restart in range(5):
        attempt = claim(log, mine(log, restart=restart))
        protocol.commit(log, attempt, step=10 * restart + 9, manifest="m", size=1, seconds=1.0)
        assert judge(log, mine(log, restart=restart), 137).again


def test_a_removed_run_is_left_alone(tmp_path: Path) -> None:
    assert restart_delay_s(str(tmp_path), "a-run", submit="s1", job="17", restart=0, rc=137) is None
    assert list(tmp_path.iterdir()) == []


def test_the_verdict_is_the_only_line_printed(log: Log, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    claim(log, mine(log))
    arguments = [str(tmp_path / "a-run"), "--submit", mine(log).submit, "--job", "17", "--restart", "0", "--rc", "77"]
    assert main(arguments) == 0
    assert capsys.readouterr().out == "requeue\n"


@pytest.mark.parametrize(("cause", "printed"), [("finished", "nothing finished"), ("cancelled", "nothing")])
def test_only_of_a_finished_run_the_script_learns_that_it_is(
    log: Log, tmp_path: Path, capsys: pytest.CaptureFixture[str], cause: str, printed: str
) -> None:
    protocol.end(log, claim(log, mine(log)), cause)
    arguments = [str(tmp_path / "a-run"), "--submit", mine(log).submit, "--job", "17", "--restart", "0", "--rc", "0"]
    assert main(arguments) == 0
    assert capsys.readouterr().out == f"{printed}\n"


@pytest.mark.parametrize(
    ("bad", "printed"),
    [("", "here 0 2 -"), ("n2", "here 0 1 n2 n2"), ("n9", "here 0 2 - n9"), ("n1,n2", "requeue n1,n2")],
)
def test_bad_nodes_are_left_out_where_the_job_has_them(
    log: Log, tmp_path: Path, capsys: pytest.CaptureFixture[str], bad: str, printed: str
) -> None:
    claim(log, mine(log))
    arguments = [str(tmp_path / "a-run"), "--submit", mine(log).submit, "--job", "17", "--restart", "0", "--rc", "137"]
    nodes = ["--scheduler-job", "JobState=RUNNING", "--nodes", "n1=ALLOCATED n2=ALLOCATED", "--least", "1"]
    assert main([*arguments, *nodes, "--bad", bad]) == 0
    assert capsys.readouterr().out == f"{printed}\n"


def test_a_node_that_was_to_blame_twice_is_left_out_and_named_to_slurm(
    log: Log, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for restart in range(2):
        protocol.end(log, claim(log, mine(log, restart=restart)), "hang", node="n2")
    arguments = [str(tmp_path / "a-run"), "--submit", mine(log).submit, "--job", "17", "--restart", "1", "--rc", "1"]
    nodes = ["--scheduler-job", "JobState=RUNNING", "--nodes", "n1=ALLOCATED n2=ALLOCATED", "--least"]
    assert main([*arguments, *nodes, "1"]) == 0
    assert main([*arguments, *nodes, "2"]) == 0
    assert capsys.readouterr().out == "here 10 1 n2 n2\nrequeue n2\n"


def test_an_unreachable_log_gives_no_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ftp://nowhere/a-run", "--submit", "s1", "--job", "17", "--restart", "0", "--rc", "77"]) != 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "the exit code decides" in printed.err


def test_a_start_without_a_claim_names_the_error_file_and_quotes_it(log: Log, tmp_path: Path) -> None:
    errors = tmp_path / "17_0_log.err"
    errors.write_text("srun: error: of an earlier start\nsrun: error: Unable to create step for job 17: Bad thing\n")
    arguments = [str(tmp_path / "a-run"), "--submit", mine(log).submit, "--job", "17", "--restart", "0", "--rc", "1"]
    assert main([*arguments, "--errors", str(errors), "--seen", "1"]) == 0
    printed = f"code 1 before its claim; {errors} ends with 'srun: error: Unable to create step for job 17: Bad thing'"
    assert printed in str(log.refresh().submit.failed)


def test_neither_pydantic_nor_torch_is_imported() -> None:
    asked = "import sys, gmml_cluster.launch.slurm.restart; print({'torch', 'pydantic', 'submitit'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_failed_start_that_the_ranks_logged_is_logged_once(log: Log) -> None:
    who = mine(log)
    protocol.start_failed(log, who.submit, job=who.job, restart=who.restart, message="the store refuses a right")
    slots = log.refresh().slots
    assert judge(log, who, 1).again
    assert log.refresh().slots == slots
    assert judge(log, mine(log, restart=1), 1).again
    assert log.refresh().slots == slots + 1


def test_a_claim_that_the_ranks_took_for_a_failed_start_gets_an_end_and_the_job_comes_back(log: Log) -> None:
    who = mine(log)
    claim(log, who)
    protocol.start_failed(log, who.submit, job=who.job, restart=who.restart, message="no answer")
    assert judge(log, who, 74).again
    assert last(log) == ("end", 1, "storage")


def failed(log: Log, restart: int, message: str, *, commit: int | None = None, **more: object) -> bool:
    """Whether the job starts again after an attempt that made steps, saved one of them if asked to, and failed."""
    attempt = claim(log, mine(log, restart=restart))
    protocol.begin(log, attempt, resumed=None, step=0, start_s=1.0, load_s=1.0, micro=8)
    if commit is not None:
        protocol.commit(log, attempt, step=commit, manifest="m", size=1, seconds=1.0)
    protocol.end(log, attempt, **{"cause": "error", "message": message, "step": 20, **more})
    return judge(log, mine(log, restart=restart), 1).again


def test_an_error_of_a_run_that_made_steps_is_tried_once_more(log: Log) -> None:
    assert [failed(log, 0, "ValueError: a"), failed(log, 1, "ValueError: b")] == [True, False]


def test_the_same_error_twice_ends_the_run_although_steps_were_saved_between(log: Log) -> None:
    assert [failed(log, 0, "step 5"), failed(log, 1, "step 5", commit=4)] == [True, False]


def test_another_error_after_another_checkpoint_is_tried_once_more(log: Log) -> None:
    assert failed(log, 0, "a", commit=4)
    assert not failed(log, 1, "b")
    submit(log)
    assert failed(log, 0, "c", commit=9)
    claim(log, mine(log, restart=1))
    assert judge(log, mine(log, restart=1), 137).again
    assert failed(log, 2, "d", commit=14)


def test_memory_that_is_lacking_is_tried_again_with_less_as_long_as_there_is_less(log: Log) -> None:
    for restart, micro in enumerate((32, 16, 8, 4)):
        assert failed(log, restart, "CUDA out of memory", cause="out_of_memory", micro=micro)
    assert not failed(log, 4, "CUDA out of memory", cause="out_of_memory")
