"""`gmml eval --with attentive` on a real run: it trains a run, scores its head and keeps the score with the run."""

import json

from safetensors.torch import load_file

from tests.fixtures.outputs import checked


def test_a_probe_is_trained_as_a_run_and_its_score_is_kept_with_the_run_that_it_judges(workshop):
    cluster = workshop.profile(1)
    method = {"name": "mae", "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}
    model = {"width": 32, "depth": 2, "heads": 2, "patch_size": 4}
    job = workshop.job("judged", model=model, method=method, run={"steps": 20}, engine={"zero": "ddp"})
    workshop.call("gmml-submit", job, "--cluster", cluster, "--follow")
    corpus = workshop.corpus.replace("train", "test")
    asked = ["--with", "attentive", "--corpus", corpus, "--cluster", cluster, "--epochs", "3", "--json"]
    (first,) = checked("eval", workshop.call("gmml", "eval", "judged", "--root", workshop.root, *asked))
    assert (first["run"], first["step"]) == ("judged", 19)
    (score,) = first["scores"]
    assert (score["score"], score["samples"]) == ("attentive", 500)
    again = json.loads(workshop.call("gmml", "eval", "judged", "--root", workshop.root, *asked))
    assert again == first, "the run that was trained is found, and the head gives the same hits"
    entries = workshop.entries(f"{workshop.root}/judged")
    assert [entry["step"] for entry in entries if entry["kind"] == "score"] == [19]
    rows = json.loads(workshop.call("gmml", "compare", "judged", "--root", workshop.root, "--json"))["scores"]
    assert [(row["run"], row["score"], row["accuracy"]) for row in rows] == [("judged", "attentive", score["accuracy"])]


def test_capis_encoder_is_fine_tuned_at_another_image_size_and_exported(workshop, tmp_path):
    cluster = workshop.profile(1)
    method = {"name": "capi", "clusters": 8, "registers": 4, "predictor_depth": 1}
    model = {"width": 32, "depth": 2, "heads": 2, "patch_size": 4}
    job = workshop.job("clusters", model=model, method=method, run={"steps": 4}, engine={"zero": "ddp"})
    workshop.call("gmml-submit", job, "--cluster", cluster, "--follow")
    asked = ["--corpus", workshop.corpus.replace("train", "test"), "--cluster", cluster, "--epochs", "0.1", "--json"]
    size = ["--with", "finetune", "--image-size", "24"]
    found = json.loads(workshop.call("gmml", "eval", "clusters", "--root", workshop.root, *asked, *size))
    assert [score["score"] for score in found["scores"]] == ["finetune"]
    to = ["--to", "safetensors", "-o", str(tmp_path / "out"), "--image-size", "24"]
    workshop.call("gmml", "export", "clusters", "--root", workshop.root, *to)
    assert "reg_token" in load_file(tmp_path / "out" / "model.safetensors")
