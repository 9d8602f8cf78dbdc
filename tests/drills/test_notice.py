"""Notices of every kind of site, at every moment, on a real SLURM: what each costs, and that losses stay equal.

`DRILL_ROWS=notices.jsonl make drills` writes a row a notice; `python -m tests.drills.table notices.jsonl` shows them.
One run is given many notices, one a start: while its job is pending it is moved to the next partition.
"""

import pytest

from tests.fixtures.accounting import ACCOUNT, QOS, missing_accounting
from tests.fixtures.notices import LIMIT_S, Notice, SlurmSite, calm_figures, rows, tour
from tests.fixtures.slurm import missing, running_slurm, until

pytestmark = pytest.mark.timeout(3600)

JOB = {"run": {"steps": 200}, "checkpoint": {"every": "10 steps", "keep": 3}}
SWITCH = {False: "off", True: "on"}
PREEMPTIONS = [
    Notice(partition, requeues=requeues) for requeues in (True, False) for partition in ("low", "r5", "c0", "c5")
]
MOMENTS = [
    Notice("r40", moment="start-up"),
    Notice("r40", moment="claimed"),
    Notice("r40", moment="a step of training", ranks=(1,)),
    Notice("r40", moment="writing"),
    Notice("r40", "USR2"),
    Notice("r40", "TERM"),
    Notice("r40", moment="an evaluation"),
]
"""The evaluation last: the start after it makes those scores before it trains."""


@pytest.fixture(scope="module")
def calm(tmp_path_factory, digits):
    return calm_figures(tmp_path_factory.mktemp("calm"), digits, 2, **JOB)


@pytest.fixture(scope="module", params=[False, True], ids=["switch off", "switch on"])
def switched(request):
    """A cluster, and whether its preemptions send the signal that a job asks for."""
    if lacking := missing():
        pytest.skip(lacking)
    with running_slurm(user_signal=request.param, kill_wait=30) as cluster:
        yield cluster, request.param


@pytest.fixture
def site(tmp_path, digits, switched):
    return SlurmSite(tmp_path, digits, switched[0])


def settled(site, run, given, calm, **known):
    """Rows of a run that has finished: nothing is made again, nothing differs, nothing is left behind."""
    found = rows(site, run, given, **known)
    assert [row["steps_lost"] for row in found] == [0] * len(given), found
    assert site.figures(run) == calm
    site.assert_no_orphan(run)
    return found


def test_preemptions_of_every_kind_of_partition(site, calm, switched):
    site.pace(1.0)
    site.submit(site.job("tour", **JOB), PREEMPTIONS[0].partition)
    given = tour(site, "tour", PREEMPTIONS)
    found = settled(site, "tour", given, calm, switch=SWITCH[switched[1]])
    assert [row["cause"] for row in found] == ["preempted"] * len(PREEMPTIONS)
    by = ["the same job" if notice.requeues else "a successor" for notice in PREEMPTIONS]
    assert [row["by"] for row in found] == by


def test_preemptions_of_every_kind_of_qos(tmp_path, digits, calm):
    if lacking := missing() or missing_accounting():
        pytest.skip(lacking)
    notices = [Notice(qos=qos) for qos in QOS]
    with running_slurm(accounts=True, kill_wait=30) as cluster:
        site = SlurmSite(tmp_path, digits, cluster)
        site.pace(1.0)
        site.submit(site.job("qos", **JOB), "low", account=ACCOUNT, qos=notices[0].qos)
        found = settled(site, "qos", tour(site, "qos", notices), calm, switch="on")
    assert [(row["cause"], row["by"]) for row in found] == [("preempted", "the same job")] * len(notices)


def test_preemptions_of_a_run_in_a_bucket(tmp_path, digits, calm, switched, s3_url):
    notices = [Notice("low"), Notice("r5"), Notice("c5"), Notice("r40", moment="a step of training", ranks=(1,))]
    site = SlurmSite(tmp_path, digits, switched[0], f"{s3_url}/runs")
    site.pace(1.0)
    site.submit(site.job("bucket", **JOB), notices[0].partition)
    found = settled(site, "bucket", tour(site, "bucket", notices), calm, switch=SWITCH[switched[1]])
    assert [(row["cause"], row["by"]) for row in found] == [("preempted", "the same job")] * len(notices)


def test_notices_at_every_moment(site, calm, switched):
    site.pace(0.5)
    site.hold(MOMENTS[0].moment)
    test = {"every": "20 steps", "corpus": site.corpus.replace("train", "test"), "bank_images": 300}
    site.submit(site.job("moments", **JOB, evaluate=test), MOMENTS[0].partition)
    given = tour(site, "moments", MOMENTS)
    found = settled(site, "moments", given, calm, switch=SWITCH[switched[1]])
    assert [row["cause"] for row in found] == [None, *["preempted"] * 3, "notice", "notice", "preempted"]
    steps = JOB["run"]["steps"]
    scored = [entry.fields["step"] for entry in site.log("moments").read() if entry.kind == "score"]
    assert scored == list(range(19, steps, 20)), "each once"


def test_a_notice_during_the_first_compilation(tmp_path, digits, switched):
    cluster, switch = switched
    if not switch:
        pytest.skip("the other switch has a notice at every other moment")
    compiled = {**JOB, "engine": {"zero": 1, "compile": True}}
    (tmp_path / "calm").mkdir()
    calm = calm_figures(tmp_path / "calm", digits, 2, **compiled)
    site, notice = SlurmSite(tmp_path, digits, cluster), Notice("r40", moment="the first compilation")
    site.hold(notice.moment)
    site.submit(site.job("compiled", **compiled), notice.partition)
    (row,) = settled(site, "compiled", tour(site, "compiled", [notice]), calm, switch=SWITCH[switch])
    assert row["cause"] == "preempted"
    assert row["from_step"] in (1, 2), "the step that it was compiled for was kept"


@pytest.mark.parametrize("section", [{}, {"sbatch_args": {"no-requeue": True}}], ids=["requeue", "no requeue"])
def test_a_chain_over_time_limits(tmp_path, digits, calm, switched, section):
    """SLURM looks at limits every 30 s and may signal a minute early: here some 90 s after the start."""
    cluster, switch = switched
    if not switch:
        pytest.skip("the switch is of preemptions alone")
    site = SlurmSite(tmp_path, digits, cluster)
    site.pace(1.0)
    site.submit(site.job("chain", **JOB), "low", time="2 min", notice="20 s", **section)
    site.wait("chain", lambda history: sum(a.ended is not None for a in history.attempts) >= 3, "three limits", 3000)
    site.pace(0)
    history = site.wait("chain", lambda history: history.finished, "the run finishes")
    causes = [attempt.cause for attempt in history.attempts]
    assert causes == ["time_limit"] * (len(causes) - 1) + ["finished"]
    jobs = {attempt.job for attempt in history.attempts}
    assert len(jobs) == (len(causes) if section else 1)
    assert site.figures("chain") == calm
    site.assert_no_orphan("chain")


def test_a_save_longer_than_the_notice_of_a_time_limit_costs_the_steps_since_the_checkpoint(site, calm, switched):
    if not switched[1]:
        pytest.skip("the switch is of preemptions alone")
    site.pace(0.2)
    site.submit(site.job("late", **JOB), "low", time="2 min", notice="20 s")
    number = site.wait("late", lambda history: history.commits, "a checkpoint").commits[-1].attempt
    site.hold("writing")
    site.wait("late", lambda history: history.attempt(number).ended is not None, "the limit ends the attempt")
    site.release("writing")
    site.pace(0)
    history = site.wait("late", lambda history: history.finished, "the run finishes")
    assert history.attempt(number).cause == "time_limit"
    assert site.figures("late") == calm
    site.assert_no_orphan("late")


def test_a_save_longer_than_the_notice_of_a_preemption_costs_the_steps_since_the_checkpoint_and_is_warned_of(
    tmp_path, digits, calm
):
    """Here a preemption leaves 5 s, and the store takes longer for a file."""
    if lacking := missing():
        pytest.skip(lacking)
    with running_slurm(kill_wait=5) as cluster:
        site = SlurmSite(tmp_path, digits, cluster)
        site.pace(0.5)
        site.slow_store(12)
        site.submit(site.job("slow", **JOB), "low")
        site.wait("slow", lambda history: history.commits, "a checkpoint")
        warning = "and a preemption leaves 5 s for it"
        assert warning in site.call("gmml", "status", "slow")
        job, urgent = site.job_of("slow"), cluster.preempt()
        until(lambda: cluster.job(job)["JobState"] == "PENDING", LIMIT_S, "the ranks are killed and the job is queued")
        kept = site.history("slow").commits[-1]
        site.take_back(urgent)
        history = site.wait("slow", lambda history: len(history.begins) == 2, "the next attempt begins")
        assert (kept.attempt, history.begins[-1]) == (1, (2, kept.step + 1)), "from the checkpoint before"
        site.slow_store(0)
        site.call("gmml", "cancel", "slow")
        site.wait("slow", lambda history: history.attempts[-1].ended is not None, "the attempt ends")
        assert warning in site.call("gmml", "resume", "slow")
        site.pace(0)
        history = site.wait("slow", lambda history: history.finished, "the run finishes")
        assert [attempt.cause for attempt in history.attempts] == ["preempted", "cancelled", "finished"]
        assert site.figures("slow") == calm
        site.assert_no_orphan("slow")


def test_a_cancel_with_too_short_a_notice_comes_back_too(tmp_path, digits, calm):
    if lacking := missing():
        pytest.skip(lacking)
    with running_slurm(kill_wait=5) as cluster:
        site = SlurmSite(tmp_path, digits, cluster)
        site.pace(0.5)
        site.slow_store(12)
        site.submit(site.job("slow", **JOB), "c0")
        site.wait("slow", lambda history: history.commits, "a checkpoint")
        urgent = cluster.preempt()
        until(lambda: cluster.job(urgent)["JobState"] == "RUNNING", LIMIT_S, "the ranks are killed")
        kept = site.history("slow").commits[-1].step
        site.slow_store(0)
        site.pace(0)
        site.take_back(urgent)
        history = site.wait("slow", lambda history: history.finished, "the run finishes")
        assert history.begins[-1] == (2, kept + 1), "from the checkpoint before"
        assert [attempt.cause for attempt in history.attempts] == ["preempted", "finished"]
        assert len({attempt.job for attempt in history.attempts}) == 1, "under its number"
        assert site.figures("slow") == calm
        site.assert_no_orphan("slow")
