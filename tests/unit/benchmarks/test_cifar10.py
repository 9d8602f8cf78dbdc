"""The report of the benchmark reads the log and the metric lines that a run writes today."""

from pathlib import Path

import pytest

from benchmarks.cifar10 import score_rows, training_rows
from gmml_cluster.run import protocol
from gmml_cluster.run.root import create_run

METRICS = [{"batch": 64, "loss": 2.0 - step / 10} for step in range(10)]


def entries(folder: Path, cause: str) -> list[dict[str, object]]:
    log = create_run(str(folder), "x", {}, {"spec": "0", "code": "0", "versions": {}}).log
    submit = protocol.submit(log, launcher="slurm", code="0", bounds={})
    topology = {"ranks": 2, "zero": 1}
    number = protocol.claim(log, submit=submit, job="1", restart=0, topology=topology, machine={}).attempt
    protocol.begin(log, number, resumed=None, step=0, micro=8, start_s=0.0, load_s=0.0)
    protocol.commit(log, number, step=9, manifest="m", size=1, seconds=0.0)
    protocol.end(log, number, cause, step=9, message="", rank=0, host="h", skipped=[], proof="")
    return [entry.document() for entry in log.read()]


def test_what_the_training_took_is_read_from_the_log(tmp_path: Path) -> None:
    found = dict(training_rows(METRICS, entries(tmp_path, "finished")))
    assert found["ranks, ZeRO stage"] == "2, 1"
    assert found["images seen"] == "640 in 10 steps"
    assert found["loss, first -> last eighth"] == "2.000 -> 1.100"
    assert found["checkpoints written"] == "1"


def test_a_run_that_did_not_finish_gives_no_figures(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="ended as error"):
        list(training_rows(METRICS, entries(tmp_path, "error")))


def test_scores_stand_beside_each_other_with_their_gain() -> None:
    before, after = ({("knn", "mean"): {"accuracy": value, "error": 1.0}} for value in (30.0, 42.5))
    assert list(score_rows(before, after)) == ["| kNN, k = 20 | mean | 30.0 ± 1.0 | 42.5 ± 1.0 | +12.5 |"]
