"""A replay reads the run, and starts ranks as the run's were."""

import hashlib

import pytest

from gmml_cluster.errors import CheckpointError, PreflightError
from gmml_cluster.launch.replay import ranks
from gmml_cluster.launch.replay.ranks import code_folder, environment_of, refuse_impossible, versions_differ
from gmml_cluster.launch.replay.scratch import make_scratch, replayed_changes
from gmml_cluster.launch.snapshot import Snapshot
from gmml_cluster.plan.machine import Machine
from gmml_cluster.run import protocol
from gmml_cluster.run.root import SPEC, code_name, corpora_name, create_run, run_root
from gmml_cluster.run.step_range import Conditions, Piece, StepRange
from gmml_cluster.store.posix import PosixStore

PIN = hashlib.sha256(b"pin").hexdigest()
TOPOLOGY = {"ranks": 2, "ranks_per_node": 2, "zero": 2, "micro": 8, "threads": 3}


def conditions(zero=2, **machine):
    return Conditions(TOPOLOGY, "c" * 64, {"engine.zero": [1, zero]}, machine, 1)


@pytest.fixture
def run(tmp_path):
    """A run of one attempt with checkpoints of steps 9 and 19."""
    run = create_run(str(tmp_path / "runs"), "a", {SPEC: b"name: a"}, {"code": "c"})
    token = protocol.submit(run.log, launcher="slurm", code="c" * 64, bounds={})
    number = protocol.claim(run.log, submit=token, job="1", restart=0, topology=TOPOLOGY, machine={}).attempt
    run.store.put(corpora_name(PIN), b"pin")
    protocol.pin(run.log, number, {"corpora": PIN, "layout": {}, "steps": 40, "decoder": "x"})
    protocol.begin(run.log, number, resumed=None, step=0, micro=8, start_s=0.0, load_s=0.0)
    for step in (9, 19):
        run.store.put(f"checkpoints/{step:08d}-0001/manifest.json", b"m" * 100)
        protocol.commit(run.log, number, step=step, manifest="m", size=100, seconds=0.0)
    return run


def scratch_of(run, start, folder, monkeypatch):
    monkeypatch.setattr("gmml_cluster.launch.replay.scratch._copy_indexes", lambda *arguments: None)
    steps = StepRange(start, 0 if start is None else start.step + 1, 19)
    return make_scratch(run, list(run.log.read()), steps, folder)


def test_ranks_of_the_scratch_run_begin_at_the_checkpoint_and_nothing_is_written_into_the_run(
    run, tmp_path, monkeypatch
):
    slots = run.log.refresh().slots
    scratch = scratch_of(run, run.log.refresh().commits[0], tmp_path / "scratch", monkeypatch)
    token = scratch.submit(Piece(10, 19, conditions(), None))
    claim = protocol.claim(scratch.run.log, submit=token, job="r", restart=0, topology={}, machine={})
    assert [commit.step for commit in claim.commits] == [9]
    assert claim.pin["steps"] == 40
    assert claim.changed["engine.zero"][1] == 2
    history = scratch.run.log.refresh()
    assert (history.run, history.attempts[0].code) == (run.log.refresh().run, "c" * 64)
    copied = scratch.run.store.get("checkpoints/00000009-0001/manifest.json")
    assert copied == run.store.get("checkpoints/00000009-0001/manifest.json")
    assert scratch.run.store.get(SPEC) == b"name: a"
    assert run_root(run.root, "a").log.refresh().slots == slots


def test_from_the_beginning_there_is_no_checkpoint_to_begin_at(run, tmp_path, monkeypatch):
    scratch = scratch_of(run, None, tmp_path / "scratch", monkeypatch)
    assert scratch.run.log.refresh().commits == ()


def test_a_checkpoint_that_a_run_at_work_has_dropped_is_named(run, tmp_path, monkeypatch):
    start = run.log.refresh().commits[0]
    PosixStore(run.url).delete(["checkpoints/00000009-0001/manifest.json"])
    with pytest.raises(CheckpointError, match="checkpoints/00000009-0001: is gone"):
        scratch_of(run, start, tmp_path / "scratch", monkeypatch)


@pytest.mark.parametrize("zero", [2, "auto"])
def test_engine_and_micro_batch_are_the_recorded_ones_and_nothing_is_saved_or_scored_on_the_way(zero):
    changes = {name: new for name, (_, new) in replayed_changes(conditions(zero)).items()}
    assert (changes["batch.micro"], changes["evaluate"], changes["engine.zero"]) == (8, None, 2)
    assert changes["checkpoint.every"].endswith(" steps")


def test_gpus_that_this_machine_lacks_are_refused_and_processors_never_are(monkeypatch):
    monkeypatch.setattr(ranks, "this_machine", lambda: Machine(cores=2, gpus=1))
    monkeypatch.setattr(ranks.imports, "missing", lambda modules: [])
    with pytest.raises(PreflightError, match="2 ranks on H200; this machine has 1 GPUs"):
        refuse_impossible("steps", conditions(cuda="13", device="H200"), deterministic=True)
    assert refuse_impossible("steps", conditions(device="some processor"), deterministic=False) == []
    monkeypatch.setattr(ranks, "this_machine", lambda: Machine(cores=2, gpus=2))
    (note,) = refuse_impossible("steps", conditions(cuda="13", device="H200"), deterministic=False)
    assert "engine.deterministic" in note


def test_ranks_get_the_recorded_threads_and_nccl_and_no_gpu_where_none_computed(tmp_path):
    on_cpu = environment_of(conditions(), tmp_path)
    assert (on_cpu["OMP_NUM_THREADS"], on_cpu["CUDA_VISIBLE_DEVICES"]) == ("3", "")
    assert on_cpu["PYTHONPATH"].startswith(str(tmp_path))
    on_gpu = environment_of(conditions(cuda="13", nccl_environment={"NCCL_ALGO": "Ring"}), tmp_path)
    assert on_gpu["NCCL_ALGO"] == "Ring"


def test_code_older_than_replays_is_refused_with_the_option_that_helps(run):
    snapshot = Snapshot.of({"gmml_cluster/__init__.py": b""})
    run.store.put(code_name(snapshot.digest), snapshot.data)
    with pytest.raises(PreflightError, match="gmml replay a --code"):
        code_folder(run, snapshot.digest, installed=False)


def test_versions_and_devices_that_differ_are_named_and_hosts_are_not():
    recorded = {"host": "n1", "nodes": 2, "device": "A", "torch": "2.13", "ranks_per_node": 4}
    here = {"host": "n2", "nodes": 1, "device": "B", "torch": "2.13", "ranks_per_node": 8}
    assert versions_differ(recorded, here) == [
        "device was 'A' and is 'B' here",
        "ranks_per_node was 4 and is 8 here",
    ]
