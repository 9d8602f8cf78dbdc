"""A trained head is scored on images that it was not trained on, and no others."""

from dataclasses import replace

import pytest
import torch

from gmml_cluster.errors import DataError, SpecError
from gmml_cluster.evaluate import classify as module
from gmml_cluster.evaluate.classify import classify, hits
from gmml_cluster.evaluate.demo import digits as demo
from gmml_cluster.evaluate.features import normalised, read
from gmml_cluster.methods.build import build
from gmml_cluster.spec.loading.validate import dump, parse_job


@pytest.fixture
def corpora(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "load", lambda: demo.Digits(digits.images[:200], digits.labels[:200]))
    monkeypatch.setattr(demo, "HELD_OUT", 50)
    demo.pack_digits(tmp_path)
    return tmp_path


@pytest.fixture
def headed(trained):
    """A run of a method with a head, by name, with the weights of its seed."""

    def make(name, **options):
        run = trained("mae")
        method = {"name": name, "classes": 10, **options}
        job = parse_job(
            {
                **dump(run.job),
                "data": {**dump(run.job)["data"], "group": 8},
                "method": method,
                "init": {"run": "/runs/first", "step": 3},
            }
        )
        return replace(run, job=job, method=build(job), step=9)

    return make


@pytest.mark.parametrize(
    ("name", "options"),
    [("attentive", {"queries": 4}), ("linear", {"feature": "mean"}), ("finetune", {}), ("supervised", {})],
)
def test_hits_are_the_images_whose_class_has_the_greatest_logit(headed, corpora, name, options):
    run, corpus = headed(name, **options), read(str(corpora / "test"))
    images = normalised(corpus.images(corpus.indices.tolist()), 16, run.job.data.normalise, torch.device("cpu"))
    module = run.method.module.eval()
    with torch.no_grad():
        if name in ("attentive", "linear"):  # the corpus itself stands for the bank
            x = module.features(module.tokens(images))
            logits = module.classifier((x - x.mean(0)) / (x.var(0, correction=0) + 1e-6).sqrt())
        else:
            logits = module(images)
    assert hits(run, corpus, corpus) == [int((logits.argmax(1) == corpus.labels).sum())]


def test_an_average_is_scored_in_place_of_what_it_follows(headed, corpora):
    run, corpus = headed("finetune", ema=0.9), read(str(corpora / "test"))
    images = normalised(corpus.images(corpus.indices.tolist()), 16, run.job.data.normalise, torch.device("cpu"))
    average = run.method.module.eval().average
    with torch.no_grad():
        average.classifier.bias += torch.arange(10) * 1e-4
        expected = int((average(images).argmax(1) == corpus.labels).sum())
        assert expected != int((run.method.module(images).argmax(1) == corpus.labels).sum())
    assert hits(run, corpus, corpus) == [expected]


def test_a_report_is_of_the_run_whose_encoder_was_read(headed, corpora, monkeypatch):
    monkeypatch.setattr(module, "load_trained", lambda root, name: headed("finetune"))
    document = classify(str(corpora), "head", of="first", corpus=str(corpora / "test"), code="abc").to_json()
    assert (document["run"], document["step"], document["code"]) == ("first", 3, "abc")
    (score,) = document["scores"]
    assert (score["score"], score["samples"], score["main"]) == ("finetune", 50, True)
    assert "the run head" in document["protocol"]


def test_of_several_heads_the_one_that_held_out_images_choose_is_scored(headed, corpora, monkeypatch, tmp_path):
    """Head 1 knows the held-out classes; head 2 would be best on what is scored, which chooses nothing."""
    run = headed("linear", feature="mean", rates=[0.5, 1, 2])
    held_out = str(tmp_path / "held_out")
    asked = {"of": "first", "corpus": str(corpora / "test"), "choose_on": held_out}
    found = {held_out: [3, 40, 39], str(corpora / "test"): [1, 20, 48]}
    monkeypatch.setattr(module, "load_trained", lambda root, name: run)
    monkeypatch.setattr(module, "demand_apart", lambda *_: None)
    monkeypatch.setattr(module, "_demand_held_out", lambda *_: None)
    monkeypatch.setattr(module, "hits", lambda trained, corpus, bank: found[corpus.url])
    monkeypatch.setattr(module, "read", lambda url, *_: replace(read(str(corpora / "test")), url=url))
    document = classify(str(corpora), "head", **asked).to_json()
    (score,) = document["scores"]
    assert score["accuracy"] == 40
    assert score["lr"] == pytest.approx(run.job.optim.peak_lr(run.job.batch.size), abs=1e-6)
    assert f"the best of 3 learning rates on {held_out} (40 of 50 images)" in document["protocol"]


def test_several_heads_have_hits_each_and_need_images_to_choose_on(headed, corpora, monkeypatch):
    run, corpus = headed("linear", feature="mean", rates=[0.5, 1]), read(str(corpora / "test"))
    run.method.module.classifier[1].bias.data[3] = 1e4
    found = hits(run, corpus, corpus)
    assert len(found) == 2
    assert found[1] == int((corpus.labels == 3).sum())
    monkeypatch.setattr(module, "load_trained", lambda root, name: run)
    with pytest.raises(SpecError, match="--choose-on: absent, but the run has 2 heads; name labelled shards"):
        classify(str(corpora), "head", of="first", corpus=str(corpora / "test"))


@pytest.mark.parametrize(
    ("part", "message"), [("train", "1 shard of 1 with what the run is trained on"), ("test", "with --corpus")]
)
def test_images_that_choose_are_neither_trained_on_nor_scored(headed, corpora, monkeypatch, part, message):
    monkeypatch.setattr(module, "load_trained", lambda root, name: headed("linear", feature="mean", rates=[0.5, 1]))
    asked = {"of": "first", "corpus": str(corpora / "test"), "choose_on": str(corpora / part)}
    with pytest.raises(SpecError, match=rf"--choose-on: .* shares .*{message} .*; name shards that are in neither"):
        classify(str(corpora), "head", **asked)


def test_one_head_has_nothing_to_choose(headed, corpora, monkeypatch):
    monkeypatch.setattr(module, "load_trained", lambda root, name: headed("finetune"))
    monkeypatch.setattr(module, "_demand_held_out", lambda *_: None)
    test = str(corpora / "test")
    with pytest.raises(SpecError, match="--choose-on: given, but the run has 1 head; leave it out"):
        classify(str(corpora), "head", of="first", corpus=test, choose_on=test)


def test_a_bank_that_shares_shards_with_what_is_scored_is_refused(headed, corpora, monkeypatch):
    monkeypatch.setattr(module, "load_trained", lambda root, name: headed("finetune"))
    with pytest.raises(SpecError, match="shares 1 shard of 1 with the bank"):
        classify(str(corpora), "head", of="first", corpus=str(corpora / "train"))


def test_a_corpus_of_more_classes_and_a_run_without_a_head_are_refused(headed, trained, corpora):
    corpus = read(str(corpora / "test"))
    with pytest.raises(DataError, match="has the class 9, but the bank had 4"):
        hits(headed("finetune", classes=4), corpus, corpus)
    with pytest.raises(SpecError, match="mae has no head that classifies single images"):
        hits(trained("mae"), corpus, corpus)
