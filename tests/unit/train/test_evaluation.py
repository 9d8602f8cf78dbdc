"""Scores between two steps change nothing of the training, and are kept once whatever happens in between."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from gmml_cluster.errors import Fenced, StorageError
from gmml_cluster.evaluate.in_training import InTraining, request_of
from gmml_cluster.evaluate.scoring import evaluate
from gmml_cluster.methods.build import build
from gmml_cluster.methods.protocol import Method
from gmml_cluster.run import protocol
from gmml_cluster.run.results import evaluations
from gmml_cluster.run.results.evaluation_progress import progress_of
from gmml_cluster.run.root import RunRoot, create_run
from gmml_cluster.spec.job import JobSpec
from gmml_cluster.train.checkpoints.load_trained import Trained
from gmml_cluster.train.engines.build import make_engine
from gmml_cluster.train.engines.engine import Engine
from gmml_cluster.train.evaluation import Scored
from gmml_cluster.train.ranks.rendezvous import RankInfo
from gmml_cluster.train.ranks.signals import StopRequest
from tests.fixtures.training import digits_job, train

pytest.importorskip("sklearn")
GMML = {"name": "gmml", "views": 1, "taps": [1, 2]}
OTHERS = {
    "mae": {"name": "mae", "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2},
    "simmim": {"name": "simmim"},
    "relvit": {"name": "relvit"},
    "conmim": {"name": "conmim", "projector": [32, 32, 16]},
    "ijepa": {"name": "ijepa", "predictor_width": 16, "predictor_depth": 1, "border": "full"},
    "supervised": {"name": "supervised", "classes": 10},
}
CAPI = {"name": "capi", "clusters": 4, "registers": 4, "predictor_depth": 1}


@pytest.fixture(scope="module", autouse=True)
def group() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def job_of(folder: str, method: dict[str, Any] = GMML, **asked: Any) -> JobSpec:
    given = {"every": "4 steps", "corpus": folder.replace("train", "test"), "bank_images": 300, "corpus_images": 200}
    return digits_job(folder, method, steps=8, evaluate={**given, **asked})


@pytest.fixture
def run(tmp_path: Path) -> RunRoot:
    """A run whose first attempt has claimed."""
    made = create_run(str(tmp_path), "digits", {"spec.yaml": b"{}"}, {})
    claim(made)
    return made


def claim(run: RunRoot) -> int:
    token = protocol.submit(run.log, launcher="local", code="c0de", bounds={})
    return protocol.claim(run.log, submit=token or "", job="1", restart=0, topology={}, machine={}).attempt


def scored(run: RunRoot, job: JobSpec, method: Method, engine: Engine, **changes: Any) -> InTraining:
    every = {"attempt": 1, "every_steps": 4, "steps": 8, "stop_request": StopRequest()}
    return InTraining(
        Scored(run=run, job=job, method=method, engine=engine, rank_info=RankInfo(0, 1, 0, 1), **{**every, **changes})
    )


def of_initial_weights(run: RunRoot, job: JobSpec, **changes: Any) -> InTraining:
    method = build(job)
    engine = make_engine(method.module, engine=job.engine, optim=job.optim, device=torch.device("cpu"))
    return scored(run, job, method, engine, **changes)


def entries(run: RunRoot) -> list[Any]:
    return [entry for entry in run.log.read() if entry.kind == "score"]


@pytest.mark.parametrize("method", [GMML, CAPI], ids=["gmml", "capi"])
def test_the_scores_are_those_of_gmml_eval(run, digits_corpus, method, monkeypatch):
    monkeypatch.setattr("gmml_cluster.evaluate.linear.EPOCHS", 12)
    job = job_of(digits_corpus, method, scores=["knn", "linear"])
    assert of_initial_weights(run, job).run(3) == ""
    (document,) = evaluations.kept(run)
    expected = evaluate(Trained(job, build(job), 3), replace(request_of(job), code="c0de")).to_json()
    assert {**document, "attempt": None, "seconds": None} == expected
    assert (document["bank"]["samples"], document["corpus"]["samples"], document["attempt"]) == (300, 200, 1)
    (entry,) = entries(run)
    assert (entry.attempt, entry.fields["step"], len(entry.fields["scores"])) == (1, 3, 2)
    (attempt,) = run.log.refresh().attempts
    assert attempt.evaluation_s == entry.fields["seconds"] == document["seconds"] > 0


@pytest.mark.parametrize("name", OTHERS)
def test_every_methods_encoder_is_scored_as_by_gmml_eval(run, digits_corpus, name):
    job = job_of(digits_corpus, OTHERS[name], bank_images=150, corpus_images=100)
    of_initial_weights(run, job).run(3)
    (document,) = evaluations.kept(run)
    assert document["scores"] == evaluate(Trained(job, build(job), 3), request_of(job)).to_json()["scores"]


def test_losses_and_weights_are_those_of_a_training_without_scores(run, digits_corpus):
    job = job_of(digits_corpus)

    def behind(step: int, method: Method, engine: Engine) -> None:
        evaluation = scored(run, job, method, engine)
        if evaluation.due(step):
            evaluation.run(step)

    plain = train(digits_job(digits_corpus, GMML, steps=8), range(8))
    watched = train(job, range(8), behind=behind)
    assert [line["loss"] for line in watched.lines] == [line["loss"] for line in plain.lines]
    assert all(torch.equal(value, watched.state[at]) for at, value in plain.state.items())
    assert [entry.fields["step"] for entry in entries(run)] == [3, 7]


def test_a_later_attempt_scores_no_weights_twice(run, digits_corpus):
    job = job_of(digits_corpus)
    of_initial_weights(run, job).run(3)
    of_initial_weights(run, job, attempt=claim(run)).run(3)
    assert len(entries(run)) == len(evaluations.kept(run)) == 1


def test_another_protocol_is_scored_beside(run, digits_corpus):
    of_initial_weights(run, job_of(digits_corpus)).run(3)
    of_initial_weights(run, job_of(digits_corpus, corpus_images=100)).run(3)
    of_initial_weights(run, job_of(digits_corpus, features=["taps"])).run(3)
    assert len(entries(run)) == len(evaluations.kept(run)) == 3


def test_a_kill_between_document_and_entry_is_made_good_with_one_of_each(run, digits_corpus, monkeypatch):
    job = job_of(digits_corpus)
    with monkeypatch.context() as patched:
        patched.setattr(protocol, "score", failing(StorageError("gone")))
        assert of_initial_weights(run, job).run(3) == ""
    assert entries(run) == []
    (document,) = evaluations.kept(run)
    of_initial_weights(run, job, attempt=claim(run)).run(3)
    (entry,) = entries(run)
    assert evaluations.kept(run) == [document]
    assert entry.fields["scores"][0]["accuracy"] == document["scores"][1]["accuracy"]


def failing(error: Exception) -> Any:
    def fail(*arguments: Any, **fields: Any) -> None:
        raise error

    return fail


def test_a_notice_ends_the_evaluation_but_for_the_one_of_the_last_step(run, digits_corpus):
    stop_request = StopRequest()
    stop_request.give("notice")
    evaluation = of_initial_weights(run, job_of(digits_corpus), stop_request=stop_request)
    assert evaluation.run(3) == "notice"
    stop_request.give("cancelled")
    assert evaluation.run(3) == "cancelled"
    assert entries(run) == []
    assert evaluation.run(7) == ""
    assert [entry.fields["step"] for entry in entries(run)] == [7]


def test_it_is_due_every_so_often_and_after_the_last_step(run, digits_corpus):
    evaluation = of_initial_weights(run, job_of(digits_corpus), every_steps=3)
    assert [step for step in range(8) if evaluation.due(step)] == [2, 5, 7]


def test_the_score_waits_for_the_commit_of_its_step(run, digits_corpus):
    seen: list[int] = []
    of_initial_weights(run, job_of(digits_corpus)).run(3, lambda: seen.append(len(entries(run))))
    assert (seen, len(entries(run))) == ([0], 1)
    with pytest.raises(StorageError):
        of_initial_weights(run, job_of(digits_corpus, corpus_images=50)).run(3, failing(StorageError("not saved")))
    assert len(entries(run)) == 1


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"bank": "/nowhere/*.tar"}, "/nowhere"),
        ({"corpus": None, "bank": None, "image": "left.jpg"}, "holds no sample"),
        ({"features": ["class"], "method": CAPI}, "has no class token"),
    ],
)
def test_what_goes_wrong_is_a_warning_and_training_goes_on(run, digits_corpus, caplog, asked, said):
    job = job_of(digits_corpus, asked.pop("method", GMML), **asked)
    assert of_initial_weights(run, job).run(3) == ""
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith("evaluation given up, training goes on: ")
    assert said in warning
    assert entries(run) == evaluations.kept(run) == []
    (given_up,) = progress_of(run, [1], None, [])["given_up"]
    assert (given_up["attempt"], given_up["step"]) == (1, 3)
    assert said in given_up["reason"]


def test_what_is_being_scored_is_known_until_it_is_kept(run, digits_corpus):
    seen: list[dict[str, Any]] = []
    job = job_of(digits_corpus)
    of_initial_weights(run, job).run(3, lambda: seen.append(progress_of(run, [1], 1, [])["running"]))
    (running,) = seen
    assert (running["attempt"], running["step"], running["images"]) == (1, 3, 500)
    assert progress_of(run, [1], 1, []) == {"running": None, "given_up": []}


def test_a_fenced_attempt_keeps_no_score(run, digits_corpus):
    claim(run)
    with pytest.raises(Fenced):
        of_initial_weights(run, job_of(digits_corpus)).run(3)
    assert entries(run) == []
