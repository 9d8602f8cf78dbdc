"""The local scheduler with stand-in ranks: small scripts in place of the training worker."""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from gmml_cluster.errors import LaunchError, StorageError
from gmml_cluster.launch.local import ranks, supervisor
from gmml_cluster.launch.local.launcher import LocalJob
from gmml_cluster.launch.local.lock import Holder, held, holder, lock_path, run_digest, workers
from gmml_cluster.launch.local.ranks import Ranks, SupervisedJob
from gmml_cluster.launch.local.supervisor import EndedStart, supervise
from gmml_cluster.launch.protocol import JobReport
from gmml_cluster.run import protocol
from gmml_cluster.run.codes import RESTARTS
from gmml_cluster.run.root import create_run


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGUSR2))
    yield tmp_path
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGUSR2))


def job(tmp_path, ranks=2):
    return SupervisedJob(root=str(tmp_path / "runs"), run="a", submit="token", id="job", ranks=ranks, module="worker")


def python(code):
    return [sys.executable, "-S", "-c", textwrap.dedent(code)]


def wait_for(condition, deadline_s=240):
    until = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < until, "the awaited event did not come"
        time.sleep(0.01)


def run_once(job, command):
    with Ranks(job, 0, command) as started:
        noticed = started.wait()
    return started.code, noticed


def test_each_rank_is_given_its_number_and_one_thread(tmp_path):
    job_ = job(tmp_path, ranks=3)
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "OMP_NUM_THREADS")
    code, _ = run_once(job_, python(f"import os, json; print(json.dumps([os.environ[n] for n in {names}]))"))
    assert code == 0
    given = [json.loads(job_.output(0, rank).read_text()) for rank in range(3)]
    assert given == [[str(rank), "3", str(rank), "3", "1"] for rank in range(3)]


def test_a_lone_rank_keeps_all_threads(tmp_path):
    job_ = job(tmp_path, ranks=1)
    run_once(job_, python("import os; print('OMP_NUM_THREADS' in os.environ)"))
    assert job_.output(0, 0).read_text() == "False\n"


def test_the_highest_code_counts_and_a_signal_as_128_more(tmp_path):
    code, _ = run_once(job(tmp_path), python("import os; os._exit(77 if os.environ['RANK'] == '0' else 1)"))
    assert code == 77
    code, _ = run_once(job(tmp_path, 1), python("import os; os.kill(os.getpid(), 9)"))
    assert code == 128 + signal.SIGKILL


def test_ranks_that_cannot_all_be_started_are_stopped(tmp_path, monkeypatch):
    start, started = Ranks._start, []

    def one_alone(self, rank):
        if rank == 1:
            raise OSError("no more processes")
        started.append(start(self, rank))
        return started[-1]

    monkeypatch.setattr(Ranks, "_start", one_alone)
    with pytest.raises(OSError, match="no more processes"):
        run_once(job(tmp_path), python("import time; time.sleep(60)"))
    assert started[0].returncode == -signal.SIGKILL


def test_a_rank_that_stays_after_another_failed_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(ranks, "LEAVE_S", 0.5)
    code, _ = run_once(
        job(tmp_path), python("import os, time; time.sleep(600) if os.environ['RANK'] == '0' else os._exit(1)")
    )
    assert code == 128 + signal.SIGKILL


def test_signals_reach_a_rank_only_when_it_unblocks_them(tmp_path):
    job_ = job(tmp_path, ranks=1)
    unblock = """
        import os, signal
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        print(signal.SIGTERM in blocked and signal.SIGUSR2 in blocked)
        """
    run_once(job_, python(unblock))
    assert job_.output(0, 0).read_text() == "True\n"


def test_a_restart_is_counted_and_follows_the_verdict(tmp_path):
    job_, seen = job(tmp_path, ranks=1), []

    def judge(ended):
        seen.append((ended.restart, ended.code))
        return ended.restart < 2

    assert supervise(job_, judge, lambda restart: python(f"import os; os._exit({70 + restart})")) == 72
    assert seen == [(0, 70), (1, 71), (2, 72)]
    assert job_.output(2, 0).exists()


def test_notice_reaches_all_ranks_and_ends_the_job(tmp_path):
    job_ = job(tmp_path)
    script = """
        import os, signal
        print(os.getppid(), flush=True)
        signal.sigwait([signal.SIGTERM])
        print("saved", flush=True)
        os._exit(77)
        """
    pid = os.fork()
    if pid == 0:
        os._exit(supervise(job_, lambda *_: True, lambda _: python(script)))
    outputs = [job_.output(0, rank) for rank in range(2)]
    wait_for(lambda: all(output.exists() and output.read_text() for output in outputs))
    os.kill(pid, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 77
    assert all(output.read_text().endswith("saved\n") for output in outputs)
    assert not job_.output(1, 0).exists()


def test_the_pipe_of_a_rank_closes_when_the_supervisor_is_killed(tmp_path):
    job_ = job(tmp_path, ranks=2)
    script = """
        import os
        print(os.getpid(), flush=True)
        os.read(int(os.environ["GMML_PIPE"]), 1)
        print("alone", flush=True)
        """
    pid = os.fork()
    if pid == 0:
        os._exit(supervise(job_, lambda *_: False, lambda _: python(script)))
    outputs = [job_.output(0, rank) for rank in range(2)]
    wait_for(lambda: all(output.exists() and output.read_text() for output in outputs))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    wait_for(lambda: all(output.read_text().endswith("alone\n") for output in outputs))


def test_a_lock_names_its_holder_and_refuses_a_second(tmp_path):
    root = str(tmp_path / "runs")
    me = Holder(host=socket.gethostname(), pid=os.getpid(), submit="one")
    path = lock_path(run_digest(root, "a"))
    assert holder(path) is None
    with held(root, "a", me, wait_s=0):
        assert holder(path) == me
        assert holder(Path(root) / "a" / "supervisor.lock") == me
        with (
            pytest.raises(LaunchError, match=rf"process {os.getpid()} on .* holds this run"),
            held(root, "a", me, wait_s=0.2),
        ):
            pass
    assert holder(path) is None


def test_a_lock_ends_with_its_process(tmp_path):
    code = """
        import os, sys
        from gmml_cluster.launch.local.lock import Holder, held
        with held(sys.argv[1], "a", Holder("here", os.getpid(), "t"), wait_s=0):
            print("held", flush=True)
            sys.stdin.read()
        """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "runs")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    path = lock_path(run_digest(str(tmp_path / "runs"), "a"))
    assert holder(path) == Holder("here", process.pid, "t")
    process.kill()
    process.communicate()
    assert holder(path) is None


def test_ranks_that_outlive_their_supervisor_hold_the_lock_until_the_last_has_left(tmp_path):
    job_ = job(tmp_path, ranks=2)
    me = Holder(host=socket.gethostname(), pid=0, submit="token")
    script = """
        import os, sys
        print("works", flush=True)
        os.read(int(os.environ["GMML_PIPE"]), 1)
        while os.path.exists(sys.argv[1]): pass
        """
    saving = tmp_path / "saving"
    saving.touch()
    pid = os.fork()
    if pid == 0:
        with held(job_.root, job_.run, me, wait_s=0) as locks:
            os._exit(supervise(job_, lambda *_: False, lambda _: [*python(script), str(saving)], locks))
    outputs = [job_.output(0, rank) for rank in range(2)]
    wait_for(lambda: all(output.exists() and output.read_text() for output in outputs))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    path = lock_path(run_digest(job_.root, job_.run))
    assert holder(path) == me
    saving.unlink()
    wait_for(lambda: holder(path) is None)


def test_a_holder_that_is_gone_or_elsewhere_is_not_signalled(monkeypatch):
    signalled = []

    def kill(pid, number):
        signalled.append(pid)
        raise ProcessLookupError

    monkeypatch.setattr(os, "kill", kill)
    Holder(host=socket.gethostname(), pid=7, submit="t").terminate()
    Holder(host="elsewhere", pid=8, submit="t").terminate()
    assert signalled == [7]


def test_a_lock_that_was_let_go_names_nobody(tmp_path):
    root = str(tmp_path / "runs")
    with held(root, "a", Holder(host="h", pid=1, submit="one"), wait_s=0):
        pass
    assert lock_path(run_digest(root, "a")).read_bytes() == b""


def test_a_rank_that_outlives_its_supervisor_is_no_supervisor(tmp_path):
    digest = run_digest(str(tmp_path / "runs"), "a")
    me = Holder(host=socket.gethostname(), pid=0, submit="token")
    job_ = LocalJob(me.host, digest, me.submit)
    with held(str(tmp_path / "runs"), "a", me, wait_s=0) as locks:
        assert job_.report == JobReport("running")
        rank = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=locks)
        # the supervisor dies: its lock is free and its name stands in the run's lock, which the rank holds on to
        written = lock_path(digest).read_bytes()
    lock_path(digest).write_bytes(written)
    assert job_.report == JobReport("gone", lingering=True)
    assert workers(str(tmp_path / "runs"), "a") == me
    rank.communicate(b"\n")
    assert job_.report == JobReport("gone")
    assert workers(str(tmp_path / "runs"), "a") is None


@pytest.mark.parametrize("code", [0, 78])
def test_without_the_log_an_end_that_the_ranks_wrote_is_believed(tmp_path, monkeypatch, code):
    outages(monkeypatch, count=99)
    assert supervisor.judge_by_log(job(tmp_path))(EndedStart(0, code, False)) is False


def outages(monkeypatch, count):
    """Let the log be out of reach the next `count` times; the calls that were made."""
    calls = []

    def restart_delay_s(*_, **start):
        calls.append(start)
        if len(calls) <= count:
            raise StorageError("disk full")
        return 0.0

    monkeypatch.setattr(supervisor, "restart_delay_s", restart_delay_s)
    monkeypatch.setattr(supervisor, "_LONGEST_RETRY_S", 0.001)
    return calls


def test_no_attempt_starts_while_the_log_is_out_of_reach_and_the_exit_code_is_judged_after_it(tmp_path, monkeypatch):
    calls = outages(monkeypatch, count=3)
    assert supervisor.judge_by_log(job(tmp_path))(EndedStart(0, 74, False)) is True
    assert [(call["restart"], call["rc"]) for call in calls] == [(0, 74)] * 4


def test_an_outage_after_many_restarts_is_waited_for_as_long_as_the_first(tmp_path, monkeypatch):
    outages(monkeypatch, count=RESTARTS)
    assert supervisor.judge_by_log(job(tmp_path))(EndedStart(5 * RESTARTS, 74, False)) is True


def test_the_reason_of_an_outage_is_kept_here_until_the_log_answers(tmp_path, monkeypatch):
    job_ = job(tmp_path)
    here = LocalJob(socket.gethostname(), job_.digest, job_.submit)
    outages(monkeypatch, count=RESTARTS + 1)
    judge = supervisor.judge_by_log(job_)
    me = Holder(host=here.host, pid=0, submit=job_.submit)
    with held(job_.root, job_.run, me, wait_s=0):
        monkeypatch.setattr(signal, "sigtimedwait", lambda *_: reports.append(here.report))
        reports = []
        assert judge(EndedStart(0, 74, False)) is False
        assert {(report.state, report.reason) for report in reports} == {("queued", "disk full")}
        assert all(report.expected_start > time.time() - 60 for report in reports)
    assert (here.report.state, here.report.reason, here.report.expected_start) == ("gone", "disk full", None)
    assert judge(EndedStart(1, 74, False)) is True
    assert here.report == JobReport("gone")


def test_a_notice_is_not_kept_waiting_by_an_outage(tmp_path, monkeypatch):
    calls = outages(monkeypatch, count=99)
    assert supervisor.judge_by_log(job(tmp_path))(EndedStart(0, 77, True)) is False
    assert len(calls) == 1


def test_ranks_that_wait_for_one_that_failed_before_the_meeting_are_sent_away_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(ranks, "LEAVE_S", 600)
    script = """
        import os, signal
        if os.environ["RANK"] == "0":
            os._exit(79)
        signal.sigwait([signal.SIGTERM])
        os._exit(77)
        """
    assert run_once(job(tmp_path), python(script)) == (79, False)


def test_the_error_of_the_rank_that_failed_is_recorded_and_not_what_those_say_that_it_took_along(tmp_path):
    run = create_run(str(tmp_path / "runs"), "a", {}, {})
    token = protocol.submit(run.log, launcher="local", code="c", bounds={})
    job_ = SupervisedJob(root=run.root, run="a", submit=token, id="job", ranks=2, module="worker")
    script = """
        import os, signal, sys
        def leave(text, code):
            print(text, file=sys.stderr, flush=True)
            os._exit(code)
        if os.environ["RANK"] == "1":
            leave("ValueError: no bananas", 79)
        signal.sigwait([signal.SIGTERM])
        leave("a signal gives notice", 77)
        """
    command = python(script)
    supervise(job_, supervisor.judge_by_log(job_), lambda restart: command)
    assert "no bananas" in run.log.refresh().submit.failed
    assert "-rank0001.log ends with" in run.log.refresh().submit.failed


def test_the_same_root_written_with_a_slash_is_the_same_lock():
    assert run_digest("/a/b/", "c") == run_digest("/a/b", "c")
    assert run_digest("/a/b", "c") != run_digest("/a/b", "d")


def test_ranks_that_cannot_be_started_are_recorded_in_the_log(tmp_path, monkeypatch):
    run = create_run(str(tmp_path / "runs"), "a", {}, {})
    token = protocol.submit(run.log, launcher="local", code="c", bounds={})
    job_ = SupervisedJob(root=run.root, run="a", submit=token, id="job", ranks=1, module="worker")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    (tmp_path / "file").touch()
    with pytest.raises(LaunchError, match=r"file.*: Not a directory; ranks cannot be started"):
        supervisor._served(job_, [])
    assert "Not a directory" in run.log.refresh().submit.failed
