"""What an attempt takes over from the pin of the first, and what may differ by then."""

import os
from dataclasses import replace

import numpy as np
import pytest

from gmml_cluster.data.corpus.checksums import index_checked
from gmml_cluster.data.corpus.listing import list_shards
from gmml_cluster.errors import PreflightError
from gmml_cluster.plan.engine_choice import needed_bytes
from gmml_cluster.run import protocol
from gmml_cluster.run.root import create_run, run_root
from gmml_cluster.spec.loading.validate import to_yaml
from gmml_cluster.train.ranks import agreement
from gmml_cluster.train.ranks.agreement import StartInfo, agree, pinned_corpora
from gmml_cluster.train.ranks.rendezvous import RankInfo
from tests.unit.data.conftest import png, write_tar
from tests.unit.train.test_loop import job


class Run:
    """A run over one indexed shard of 48 images, whose attempts claim one after the other."""

    def __init__(self, folder):
        self.shard = folder / "corpus" / "s.tar"
        self.shard.parent.mkdir()
        write_tar(self.shard, [(f"{y:02d}.png", png(np.full((8, 8), y, np.uint8))) for y in range(48)])
        index_checked(list_shards(str(self.shard))[0], None)
        spec = job()
        corpora = (spec.data.corpora[0].model_copy(update={"url": str(self.shard)}),)
        schedule = spec.optim.schedule.model_copy(update={"samples": 1200})
        spec = spec.model_copy(
            update={
                "data": spec.data.model_copy(update={"corpora": corpora}),
                "optim": spec.optim.model_copy(update={"schedule": schedule}),
            }
        )
        self.root = create_run(str(folder / "runs"), "x", {"spec.yaml": to_yaml(spec).encode()}, {})

    def attempt(self, **changed):
        run = run_root(self.root.root, "x")
        token = protocol.submit(run.log, launcher="local", code="c", bounds={}, changed=changed)
        return self.start(token, "j", 0)

    def start(self, submit, job, restart):
        run = run_root(self.root.root, "x")
        start = StartInfo(run.root, "x", submit, job, restart)
        return agree(run, start, RankInfo(0, 1, 0, 1), None, lambda attempt: None, lambda zero: None)[0]

    def entries(self, kind):
        return [entry.fields for entry in self.root.log.read(0) if entry.kind == kind]


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path)


def test_the_first_pin_holds_and_lists_no_shard_in_the_log(run):
    first, second = run.attempt(), run.attempt()
    assert second == replace(first, attempt=2)
    assert len(run.entries("pin")) == 1
    assert "corpora" not in run.entries("pin")[0]["layout"]
    assert first.order(pinned_corpora(run.root, first.pinned)).corpora[0].samples == 48


def test_touched_corpus_is_pinned_again_by_an_entry_and_the_run_continues(run):
    first = run.attempt()
    os.utime(run.shard, ns=(1, 1))
    second, third = run.attempt(), run.attempt()
    assert second.pinned == third.pinned != first.pinned
    assert pinned_corpora(run.root, second.pinned).locate(0, 7).index == 7
    assert [entry.get("repinned") for entry in run.entries("pin")] == [None, 1]


@pytest.mark.parametrize(
    ("job", "restart", "word", "cause"),
    [
        ("7", 1, "JOB 7 ON n1 CANCELLED AT 2026-11-30T22:26:01 DUE TO PREEMPTION", "preempted"),
        ("7", 1, "JOB 7 ON n1 CANCELLED AT 2026-11-30T22:26:01 DUE TO JOB REQUEUE", "lost"),
        ("7", 1, "", "lost"),
        ("7", 2, "JOB 7 ON n1 CANCELLED AT 2026-11-30T22:26:01 DUE TO PREEMPTION", "lost"),
        ("8", 1, "JOB 8 ON n1 CANCELLED AT 2026-11-30T22:26:01 DUE TO PREEMPTION", "lost"),
    ],
)
def test_what_killed_the_start_before_with_its_script_is_its_cause(run, monkeypatch, job, restart, word, cause):
    token = protocol.submit(run.root.log, launcher="slurm", code="c", bounds={})
    run.start(token, "7", 0)
    monkeypatch.setenv("GMML_KILLED", word)
    if job != "7":
        token = protocol.submit(run.root.log, launcher="slurm", code="c", bounds={})
    run.start(token, job, restart)
    assert [end["cause"] for end in run.entries("end")] == [cause]


def test_a_notice_is_explained_by_the_next_start_where_the_script_was_killed_before_it_could(run, monkeypatch):
    token = protocol.submit(run.root.log, launcher="slurm", code="c", bounds={})
    for restart in range(3):
        number = run.start(token, "7", restart).attempt
        protocol.end(run.root.log, number, "notice")
        monkeypatch.setenv("GMML_KILLED", "JOB 7 ON n1 CANCELLED AT 2026-11-30T22:26:01 DUE TO PREEMPTION")
    history = run.root.log.refresh()
    assert [attempt.cause for attempt in history.attempts] == ["preempted", "preempted", "notice"]
    assert [entry["of"] for entry in run.entries("cause")] == [1, 2]


def test_a_run_whose_schedule_has_its_own_length_grows(run):
    assert run.attempt().steps == 100
    assert run.attempt(**{"run.steps": [100, 130]}).steps == 130


def test_another_decoder_is_reported_by_name(run, monkeypatch, caplog):
    run.attempt()
    monkeypatch.setattr(agreement, "decoder_name", lambda: "other-1.0")
    run.attempt()
    assert "images are decoded by other-1.0, the run began with simplejpeg-" in caplog.text


@pytest.mark.parametrize(("decoder", "version"), [("simplejpeg-1.9.0 Pillow-13.0.0", 1), ("x-1 views-99", 99)])
def test_a_run_that_began_with_another_version_of_cropping_is_refused_by_name(run, monkeypatch, decoder, version):
    monkeypatch.setattr(agreement, "decoder_name", lambda: decoder)
    run.attempt()
    with pytest.raises(PreflightError, match=f"^{run.root.name}: it began with version {version} of decoding and crop"):
        run.attempt()


def test_after_want_of_memory_less_is_held_until_a_person_submits_again(run):
    assert run.attempt().most_held is None
    token = run.root.log.refresh().submitted
    for number, micro in ((1, 16), (2, 8)):
        protocol.end(run.root.log, number, "out_of_memory", micro=micro)
        start = StartInfo(run.root.root, "x", token, "j", number)
        agreed, _ = agree(
            run_root(run.root.root, "x"), start, RankInfo(0, 1, 0, 1), None, lambda attempt: None, lambda zero: None
        )
        assert agreed.most_held == micro
    assert run.attempt().most_held is None


def test_once_there_is_a_checkpoint_ranks_are_told_to_draw_no_weights(run):
    first = run.attempt()
    assert not first.resumes
    protocol.commit(run.root.log, first.attempt, step=3, manifest="m", size=1, seconds=1.0)
    assert run.attempt().resumes


def test_what_the_engine_is_to_be_is_known_before_the_claim(run):
    token = protocol.submit(run.root.log, launcher="local", code="c", bounds={}, changed={"engine.zero": [1, "ddp"]})
    attempts = []

    def read(zero):
        assert zero == "ddp"
        attempts.append(len(run.root.log.refresh().attempts))

    start = StartInfo(run.root.root, "x", token, "j", 0)
    agree(run_root(run.root.root, "x"), start, RankInfo(0, 1, 0, 1), None, lambda attempt: None, read)
    assert attempts == [0]


@pytest.mark.parametrize("zero", ["ddp", 1, 2, 3])
def test_an_auto_engine_is_chosen_by_the_smallest_gpu_before_the_claim_and_recorded_in_it(run, zero):
    ranks, said = 8, []
    token = protocol.submit(run.root.log, launcher="local", code="c", bounds={}, changed={"engine.zero": [1, "auto"]})
    root = run_root(run.root.root, "x")
    needed = needed_bytes(root.job({"engine.zero": [1, "auto"]}), ranks)
    start = StartInfo(root.root, "x", token, "j", 0)
    agreed, _ = agree(root, start, RankInfo(0, ranks, 0, ranks), needed[zero], lambda attempt: None, said.append)
    (claim,) = run.entries("claim")
    assert said == [zero]
    assert (claim["topology"]["zero"], agreed.zero, agreed.job(root).engine.zero) == (zero, zero, zero)


def test_an_engine_that_the_job_names_is_not_chosen_anew(run):
    token = protocol.submit(run.root.log, launcher="local", code="c", bounds={}, changed={"engine.zero": [1, 3]})
    root, said = run_root(run.root.root, "x"), []
    start = StartInfo(root.root, "x", token, "j", 0)
    agreed, _ = agree(root, start, RankInfo(0, 8, 0, 8), 2**40, lambda attempt: None, said.append)
    assert (said, agreed.job(root).engine.zero) == ([3], 3)


def test_a_package_that_was_replaced_between_two_attempts_is_named(run, monkeypatch, caplog):
    run.attempt()
    run.attempt()
    assert "unlike in the attempt before" not in caplog.text
    real = agreement.machine_fields
    monkeypatch.setattr(agreement, "machine_fields", lambda ranks: {**real(ranks), "torch": "9.0"})
    run.attempt()
    before = real(RankInfo(0, 1, 0, 1))["torch"]
    assert f"unlike in the attempt before, torch is 9.0 and was {before}; sums may" in caplog.text
