"""Sixteen at once: processes on a folder, threads on a real S3 store. Exactly one wins each slot."""

import multiprocessing
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest

from gmml_cluster.run import protocol
from gmml_cluster.run.log import Log, check
from gmml_cluster.run.root import create_run
from gmml_cluster.store.open import open_store
from gmml_cluster.store.protocol import AlreadyExists

CLAIMERS = 16


@pytest.fixture
def claimed(tmp_path):
    """A run whose submit allows claims: its root, and the submit's token."""

    def made(root):
        run = create_run(root, "a", {}, {"spec": "s", "code": "c"})
        return run, protocol.submit(run.log, launcher="local", code="c", bounds={})

    return made


def claim(url, submit, job):
    log = Log(open_store(url))
    return protocol.claim(log, submit=submit, job=job, restart=0, topology={}, machine={}).attempt


def claim_or_fenced(url, submit, job):
    try:
        return claim(url, submit, job)
    except protocol.Fenced:
        return None


def test_of_sixteen_processes_on_a_folder_each_wins_one_slot_of_its_own(claimed, tmp_path):
    run, submit = claimed(str(tmp_path))
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(CLAIMERS, mp_context=context) as pool:
        jobs = [pool.submit(claim_or_fenced, run.url, submit, str(job)) for job in range(CLAIMERS)]
        won = [job.result() for job in jobs]
    claims = [entry for entry in run.log.read() if entry.kind == "claim"]
    assert [entry.attempt for entry in claims] == list(range(1, CLAIMERS + 1))
    assert len({entry.fields["job"] for entry in claims}) == CLAIMERS
    assert sorted(attempt for attempt in won if attempt)[-1] == CLAIMERS
    assert check(run.log) == []


def test_of_sixteen_creators_on_s3_exactly_one_wins_the_slot(s3_url):
    gate = threading.Barrier(CLAIMERS)

    def create(number):
        store = open_store(s3_url)
        store.list_objects()
        gate.wait()
        try:
            store.create("log/00000000.json", f"claimer {number}".encode())
        except AlreadyExists:
            return None
        return number

    with ThreadPoolExecutor(CLAIMERS) as pool:
        winners = [number for number in pool.map(create, range(CLAIMERS)) if number is not None]
    assert len(winners) == 1
    assert open_store(s3_url).get("log/00000000.json") == f"claimer {winners[0]}".encode()


def test_claims_on_s3_get_slots_of_their_own(claimed, s3_url):
    run, submit = claimed(s3_url)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda job: claim_or_fenced(run.url, submit, str(job)), range(4)))
    claims = [entry.attempt for entry in run.log.read() if entry.kind == "claim"]
    assert claims == [1, 2, 3, 4]
    assert check(run.log) == []
