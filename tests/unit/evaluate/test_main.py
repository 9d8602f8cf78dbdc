from dataclasses import replace

import pytest
from click.testing import CliRunner

from gmml_cluster.data.packing.pack import pack
from gmml_cluster.data.packing.sources import find_source
from gmml_cluster.errors import CheckpointError, SpecError
from gmml_cluster.evaluate import __main__ as entry
from gmml_cluster.evaluate.demo import digits as demo
from gmml_cluster.evaluate.scoring import Request, evaluate, features_of
from tests.fixtures.outputs import checked


@pytest.fixture
def corpora(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "load", lambda: demo.Digits(digits.images[:200], digits.labels[:200]))
    monkeypatch.setattr(demo, "HELD_OUT", 50)
    monkeypatch.setattr("gmml_cluster.evaluate.linear.EPOCHS", 12)
    demo.pack_digits(tmp_path)
    return tmp_path


def test_each_feature_gets_each_score_and_the_bank_defaults_to_the_runs_corpus(trained, corpora):
    report = evaluate(trained("gmml"), Request("small", str(corpora / "test"), ("knn", "linear"), untrained=True))
    main = [(score.name, score.feature) for score in report.scores if score.main]
    assert main == [(name, feature) for feature in ("class", "mean", "taps") for name in ("knn", "linear")]
    assert (report.bank[1], report.corpus[1], report.step) == (150, 50, -1)
    assert report.bank[0] == str(corpora / "train" / "*.tar")


def test_without_a_corpus_a_tenth_of_each_class_of_the_bank_is_held_out(trained, corpora):
    report = evaluate(trained("mae"), Request("small", None, ("knn",)))
    assert report.corpus[0] == f"{report.bank[0].removesuffix(' (nine tenths)')} (a held-out tenth)"
    assert report.bank[1] + report.corpus[1] == 150
    assert 10 <= report.corpus[1] <= 15


def test_taps_are_left_out_where_they_are_the_mean(trained):
    assert features_of(trained("gmml")) == ["class", "mean", "taps"]
    assert features_of(trained("mae")) == ["class", "mean"]
    assert features_of(trained("ijepa")) == ["mean"]
    assert features_of(trained("capi")) == ["mean", "global"]


@pytest.mark.parametrize("method", ["conmim", "ijepa", "capi"])
def test_where_there_is_a_teacher_it_is_the_one_that_is_scored(trained, corpora, method):
    teacher = trained(method)
    asked = Request("small", str(corpora / "test"), ("knn",), features=("mean",))
    (score,) = [score for score in evaluate(teacher, asked).scores if score.main]
    assert score.feature == "mean"
    for name, parameter in teacher.method.module.named_parameters():
        if not name.startswith("teacher."):
            parameter.data.zero_()
    assert score in evaluate(teacher, asked).scores


@pytest.mark.parametrize("method", ["ijepa", "capi"])
def test_an_encoder_without_a_class_token_is_scored_by_its_patches(trained, corpora, method):
    teacher = trained(method)
    with pytest.raises(SpecError, match=f"--feature: class; the encoder of {method} has no class token; read mean"):
        evaluate(teacher, Request("small", str(corpora / "test"), ("knn",), features=("class",)))


@pytest.mark.parametrize("method", ["gmml", "ijepa", "capi"])
def test_another_image_size_is_read_and_said(trained, corpora, method):
    asked = Request("small", str(corpora / "test"), ("knn",))
    own, same = (evaluate(trained(method), replace(asked, image_size=size)) for size in (None, 16))
    assert own.scores == same.scores
    report = evaluate(trained(method), replace(asked, image_size=24))
    assert report.protocol == f"{own.protocol}; read at 24 pixels"
    assert {score.feature for score in report.scores} == {score.feature for score in same.scores}
    assert all(score.settings == {"k": score.settings["k"], "image_size": 24} for score in report.scores)


def test_a_feature_of_whole_images_is_capis_alone(trained, corpora):
    asked = Request("small", str(corpora / "test"), ("knn",), features=("global",))
    assert {score.feature for score in evaluate(trained("capi"), asked).scores} == {"global"}
    with pytest.raises(SpecError, match="--feature: global; mae has no feature of whole images of its own; read mean"):
        evaluate(trained("mae"), asked)


def test_scoring_twice_gives_the_same_numbers(trained, corpora):
    asked = Request("small", str(corpora / "test"), ("knn", "linear"))
    assert evaluate(trained("mae"), asked).to_json() == evaluate(trained("mae"), asked).to_json()


@pytest.mark.parametrize("given", ["train", "train/*.tar", "train/train-000000.tar"])
def test_a_corpus_that_shares_shards_with_the_bank_is_refused(trained, corpora, given):
    with pytest.raises(
        SpecError, match=r"shares \d+ shards? of \d+ with the bank .*own nearest neighbour; name another"
    ):
        evaluate(trained("mae"), Request("small", str(corpora / given), ("knn",)))


def test_a_corpus_of_the_banks_images_in_other_shards_is_refused(trained, corpora, tmp_path):
    copy = tmp_path / "copy"
    pack(find_source(str(corpora / "train")), str(copy), prefix="other", seed=7)
    with pytest.raises(SpecError, match=r"copy: shares \d+ images of \d+ with the bank, byte for byte; every image"):
        evaluate(trained("mae"), Request("small", str(copy), ("knn",)))


def invoke(monkeypatch, trained, *arguments):
    monkeypatch.setattr(entry, "load_trained", lambda root, name, *, step, untrained: trained)
    return CliRunner().invoke(entry.main, ["--root", "here", "--run", "small", *arguments])


def test_json_is_one_document(monkeypatch, trained, corpora):
    done = invoke(monkeypatch, trained("gmml"), "--corpus", str(corpora / "test"), "--feature", "taps", "--json")
    (document,) = checked("eval", done.stdout)
    assert (document["corpus"]["url"], document["corpus"]["samples"]) == (str(corpora / "test"), 50)
    assert all(len(document[name]["digest"]) == 64 for name in ("bank", "corpus"))
    assert [score["k"] for score in document["scores"]] == [10, 20, 100, 150]


def test_the_table_shows_the_sampling_error(monkeypatch, trained, corpora):
    done = invoke(monkeypatch, trained("gmml"), "--corpus", str(corpora / "test"), "--feature", "mean")
    assert done.exit_code == 0
    assert "±" in done.stdout
    assert "50 images of" in done.stdout


def test_a_fault_is_one_line_and_an_exit_code(monkeypatch):
    def fail(root, name, *, step, untrained):
        raise CheckpointError("here/small: a checkpoint is asked for, known are none; train first")

    monkeypatch.setattr(entry, "load_trained", fail)
    done = CliRunner().invoke(entry.main, ["--root", "here", "--run", "small", "--corpus", "there"])
    assert (done.exit_code, done.stdout) == (3, "")
    assert done.stderr == "here/small: a checkpoint is asked for, known are none; train first\n"


@pytest.mark.parametrize("given", ["knn,svm", ""])
def test_an_unknown_score_is_refused_by_name(monkeypatch, trained, given):
    done = invoke(monkeypatch, trained("gmml"), "--corpus", "x", "--with", given)
    assert done.exit_code == 2
    assert "is no score; known are knn, linear" in done.stderr
