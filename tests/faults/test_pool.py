"""Every fault of the pool is attributed: the run's log names the cause that its table says."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gmml_cluster.launch.after.exits import evidence_of
from gmml_cluster.launch.restart import JobStart, judge
from gmml_cluster.launch.slurm.evidence import examine
from gmml_cluster.run import protocol
from gmml_cluster.run.history import Attempt
from gmml_cluster.run.log import Draft, Log
from gmml_cluster.store.open import open_store
from gmml_cluster.train.ranks.causes import describe, log_fields, root_cause
from gmml_cluster.train.ranks.rendezvous import RankInfo
from tests.faults.met import NotFinite
from tests.faults.pool import POOL, Fault, Slurm
from tests.fixtures.injected import Injection, inject

AT_ONCE = 6
IN_RANKS = [fault for fault in POOL if fault.how == "ranks"]
STANDS_STILL = ("endless loop in Python", "deadlock of two locks", "call into a library that never returns")
OTHERS = [fault for fault in POOL if fault.how != "ranks"]


@pytest.fixture(scope="module")
def injected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Attempt]:
    """The attempts of real ranks, some of them at once: most of their time is waiting."""
    folder = tmp_path_factory.mktemp("pool")

    def attempt(number: int) -> Attempt:
        injection = IN_RANKS[number].by
        assert isinstance(injection, Injection)
        return inject(folder, f"fault-{number}", injection)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = pool.map(attempt, range(len(IN_RANKS)))
        return {fault.name: each for fault, each in zip(IN_RANKS, found, strict=True)}


@pytest.mark.parametrize("fault", IN_RANKS, ids=lambda fault: fault.name)
def test_what_happens_to_real_ranks_is_named(injected: dict[str, Attempt], fault: Fault) -> None:
    attempt = injected[fault.name]
    assert attempt.cause == fault.cause, attempt
    if fault.name in STANDS_STILL:
        assert attempt.details["rank"] == fault.by.on, "the one that does not come, whichever noticed it"


@pytest.mark.parametrize("fault", OTHERS, ids=lambda fault: fault.name)
def test_what_code_meets_and_what_others_write_is_named(tmp_path: Path, fault: Fault) -> None:
    log, start = submitted(tmp_path)
    if not isinstance(fault.by, Slurm) or fault.by.claimed:
        claim(log, start)
    if isinstance(fault.by, Slurm):
        left_on_slurm(tmp_path, log, start, fault.by)
    else:
        ended_by_rank(log, start, raised(fault))
    found = log.refresh().attempts
    cause = found[-1].cause if found else list(log.read())[-1].fields["cause"]
    assert cause == fault.cause, found


def test_the_pool_is_as_large_as_promised_and_names_are_unique() -> None:
    assert len({fault.name for fault in POOL}) == len(POOL) >= 40
    assert len(IN_RANKS) >= 25


def submitted(folder: Path) -> tuple[Log, JobStart]:
    log = Log(open_store(folder / "run"))
    log.append(lambda history: Draft("open", None, {}, run="r"))
    submit = protocol.submit(log, launcher="slurm", code="c", bounds={})
    assert submit is not None
    return log, JobStart(submit, "7", 0)


def claim(log: Log, start: JobStart) -> None:
    """The start becomes an attempt that makes steps."""
    number = protocol.claim(log, submit=start.submit, job=start.job, restart=0, topology={}, machine={}).attempt
    protocol.begin(log, number, resumed=None, step=0, micro=8, start_s=0.0, load_s=0.0)


def raised(fault: Fault) -> BaseException:
    if isinstance(fault.by, str):
        return RuntimeError(fault.by)
    assert callable(fault.by)
    try:
        fault.by()
    except Exception as error:
        return error
    raise AssertionError(f"{fault.name}: nothing was raised")


def ended_by_rank(log: Log, start: JobStart, error: BaseException) -> None:
    """The end that rank 0 writes of an error of rank 1, while its own is that it lost a peer."""
    if isinstance(error, NotFinite):
        protocol.end(log, 1, "not_finite", step=4)
    else:
        own = describe(error, RankInfo(1, 2, 1, 2))
        root = root_cause([describe(RuntimeError("Timed out waiting for a peer"), RankInfo(0, 2, 0, 2)), own])
        protocol.end(log, 1, root["cause"], step=4, **log_fields(root))
    judge(log, start, 1, evidence_of([]))


def left_on_slurm(folder: Path, log: Log, start: JobStart, left: Slurm) -> None:
    """What the batch script's question appends where no rank has written an end."""
    errors = folder / "7_0_log.err"
    errors.write_text(left.stderr)
    errors.with_name("7_1_log.err").write_text(left.rank_1)
    record = f"JobId=7 JobState={left.job} RunTime=00:01:00 TimeLimit=01:00:00" if left.job else ""
    judge(log, start, left.rc, examine(record, left.nodes, errors, seen=0, notice_s=120))
