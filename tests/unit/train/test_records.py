"""Skipped steps are named while they happen and at the end, with the samples that every rank found."""

import json
import logging
import socket

from gmml_cluster.train.ranks.log_upload import Parts
from gmml_cluster.train.ranks.rendezvous import RankInfo
from gmml_cluster.train.records import StepRecord, progress
from gmml_cluster.train.stepper import Report, Skip
from gmml_cluster.train.worker import LINE
from tests.unit.run.memory import MemoryStore


class Kv:
    """Keys shared by the ranks."""

    def __init__(self):
        self.keys = {}
        self.get, self.set = self.keys.get, self.keys.__setitem__


class Progress:
    last_step = None


def record(kv, rank):
    store = MemoryStore()
    return StepRecord(kv, RankInfo(rank, 2, rank, 2), Progress(), Parts(store, "m", "jsonl"), 100, store, 7)


def report(step, what="", own=(), slow=()):
    line = {
        "slow_ranks": list(slow),
        "step": step,
        "batch": 12,
        "samples_per_s": 1.0,
        "loss": 1.0,
        "lr": 0.1,
        "data_wait_s": 0.0,
        "step_s": 1.0,
    }
    skip = Skip(step, what, (12 * step, 12 * step + 11), list(own)) if what else None
    return Report(line, "", False, skip)


def test_a_skipped_step_is_a_warning_with_step_cause_and_samples(caplog):
    kv = Kv()
    with caplog.at_level(logging.WARNING):
        record(kv, 0).write(report(3, "the loss"))
        record(kv, 1).write(report(3, "the loss", [46, 47]))
    assert [entry.message for entry in caplog.records] == [
        "step 3: the loss is not finite (samples 36 to 47); its update was skipped",
        "step 3: the loss is not finite (samples 36 to 47), in the groups of samples 46, 47; its update was skipped",
    ]


def test_a_rank_without_a_loss_that_is_not_finite_leaves_the_warning_to_rank_0(caplog):
    record(Kv(), 1).write(report(3, "the gradient of w"))
    record(Kv(), 1).write(report(4))
    assert caplog.records == []


def test_a_slow_rank_is_named_once_with_its_host_by_itself_and_by_rank_0(caplog, monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "n7")
    kv = Kv()
    zero, one = record(kv, 0), record(kv, 1)
    with caplog.at_level(logging.WARNING):
        zero.write(report(3, slow=[1]))  # rank 0 may be first: the host is not known to it yet
        assert caplog.records == []
        one.write(report(3, slow=[1]))
        for step in (4, 5):
            zero.write(report(step, slow=[1]))
            one.write(report(step, slow=[1]))
    assert [entry.message.partition(";")[0] for entry in caplog.records] == [
        "this rank, 1 on n7, keeps the others waiting",
        "rank 1 on n7 keeps the others waiting",
    ]


def test_the_end_names_the_steps_that_caused_it_with_all_ranks_samples_and_the_cure():
    kv = Kv()
    zero, one = record(kv, 0), record(kv, 1)
    for made, own in ((zero, [26]), (one, [30, 31])):
        made.write(report(1, "the gradient of old"))
        made.write(report(2, "the loss", own))
        made.write(report(3, "the gradient of w"))
        made.write(report(4, "the gradient of w"))
    message = zero.not_finite()
    assert message.startswith(
        "training: 3 updates in a row were skipped: step 2: the loss is not finite (samples 24 to 35), "
        "in the groups of samples 26, 30, 31; step 3: the gradient of w is not finite (samples 36 to 47); step 4"
    )
    assert "optim.lr" in message
    assert "gmml order" in message


def test_the_last_step_is_known_to_whoever_ends_the_attempt():
    zero = record(Kv(), 0)
    zero.write(report(7))
    assert zero.shutdown.last_step == 7


def test_progress_counts_steps_as_status_and_checkpoints_do():
    line = {"step": 59, "batch": 64, "loss": 0.5, "lr": 1e-3, "samples_per_s": 128.0, "data_wait_s": 0.1, "step_s": 0.5}
    assert progress(line, 120) == "step 59 of 120 loss 0.5000 128 img/s wait 20% left 0:00:30"


def test_a_line_of_progress_fits_80_columns():
    line = {"step": 1298, "batch": 64, "loss": 0.3937, "samples_per_s": 1622.0, "data_wait_s": 0.05, "step_s": 0.5}
    record = logging.LogRecord("name", logging.INFO, "", 0, progress(line, 1300), None, None)
    assert len(logging.Formatter(LINE, "%m-%d %H:%M:%S").format(record)) <= 80


def test_the_bundle_has_the_skipped_steps_with_their_samples_and_the_lines_before_them():
    kv = Kv()
    zero, one = record(kv, 0), record(kv, 1)
    for made, own in ((zero, [26]), (one, [30, 31])):
        for step in range(60):
            made.write(report(step))
        for step in (60, 61, 62):
            made.write(report(step, "the loss", own))
    assert "`gmml replay RUN --from 60` computes these again" in zero.not_finite()
    bundle = json.loads(zero.store.get("attempts/0007/not_finite.json"))
    assert bundle["checkpoint"] == 62
    assert [(skip["step"], skip["groups_of"]) for skip in bundle["skipped"]] == [
        (s, [26, 30, 31]) for s in (60, 61, 62)
    ]
    assert [line["step"] for line in bundle["lines"]] == list(range(13, 63))
