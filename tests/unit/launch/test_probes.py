"""The job that trains a probe is made of the run that it judges, and is the same for the same request."""

from types import SimpleNamespace

import numpy as np
import pytest

from gmml_cluster.data.corpus.checksums import index_all
from gmml_cluster.data.corpus.listing import list_shards
from gmml_cluster.errors import DataError, SpecError
from gmml_cluster.launch import probes
from gmml_cluster.launch.checks.existing import compare
from gmml_cluster.launch.checks.indexed import look_up
from gmml_cluster.launch.probes import probe_job, refuse_corpus
from gmml_cluster.run.root import SPEC, create_run
from gmml_cluster.spec.loading.validate import parse_job, to_yaml
from tests.unit.data.conftest import png, write_tar
from tests.unit.data.masks import masked_shards

JOB = {
    "name": "first",
    "seed": 9,
    "model": {"width": 32, "depth": 2, "heads": 2, "patch_size": 4},
    "method": {"name": "gmml"},
    "data": {"corpora": [{"url": "x"}], "image_size": 32, "augment": "gmml", "normalise": "half", "group": 8},
    "batch": {"size": 64},
    "run": {"steps": 10},
}


@pytest.fixture
def bank(tmp_path):
    """30 samples of classes 0 to 6."""
    members = [(f"{y:02d}.{end}", b"%d" % (y % 7)) for y in range(30) for end in ("png", "cls")]
    write_tar(tmp_path / "bank.tar", members)
    return str(tmp_path / "bank.tar")


@pytest.fixture
def make(tmp_path, bank, monkeypatch):
    monkeypatch.setattr(probes, "commit_of", lambda run, step: SimpleNamespace(step=7 if step is None else step))

    def source(**changes):
        data = {**JOB["data"], "corpora": [{"url": bank}]}
        job = parse_job({**JOB, "data": data, **changes})
        return create_run(str(tmp_path / "runs"), job.name, {SPEC: to_yaml(job).encode()}, {})

    return source


def asked(**changes):
    return {"step": None, "bank": None, "image": None, "epochs": None, **changes}


def test_a_probe_begins_from_the_runs_encoder_with_its_crops_and_flips_alone(make):
    source = make()
    job = probe_job(source, "attentive", **asked())
    assert (job.init.run, job.init.step, job.init.what) == (source.url, 7, "encoder")
    assert (job.method.name, job.method.classes, job.method.queries) == ("attentive", 7, 32)
    theirs = source.job({})
    assert (job.seed, job.data.normalise, job.data.image_size) == (9, theirs.data.normalise, 32)
    assert (job.data.augment.crop, job.data.augment.flip) == (theirs.data.augment.crop, True)
    assert (job.data.augment.jitter, job.data.augment.blur) == (None, None)
    assert (job.model.drop_path, job.run.epochs, job.batch.size) == (0, 30, 16)


def test_the_same_request_names_the_same_run_and_another_one_another(make):
    source = make()
    names = [
        probe_job(source, method, **asked(**changes)).name
        for method, changes in (("finetune", {}), ("finetune", {}), ("finetune", {"epochs": 3}), ("attentive", {}))
    ]
    assert names[0] == names[1]
    assert len(set(names)) == 3
    assert all(name.startswith("first-") for name in names)
    long = probe_job(make(name="a" * 63), "finetune", **asked()).name
    assert len(long) == 63


def test_an_encoder_without_class_token_is_taken_without(make):
    job = probe_job(make(method={"name": "ijepa"}, model={**JOB["model"], "drop_path": 0}), "attentive", **asked())
    assert job.method.encoder.class_token is False


def test_another_image_size_makes_another_run(make):
    source = make()
    own, same, other = (probe_job(source, "finetune", **asked(image_size=size)) for size in (None, 32, 64))
    assert (own.data.image_size, other.data.image_size) == (32, 64)
    assert own == same
    assert own.name != other.name


@pytest.mark.parametrize("method", ["attentive", "finetune"])
def test_capis_encoder_is_taken_with_its_registers(make, method):
    capi = {"name": "capi", "clusters": 8, "registers": 4, "rope": "halves"}
    job = probe_job(make(method=capi), method, **asked())
    assert job.method.encoder.rotary.model_dump() == {"registers": 4, "rope": "halves"}


def test_a_bank_without_classes_is_refused_with_the_cure(make, tmp_path):
    write_tar(tmp_path / "bare.tar", [(f"{y}.png", b"image") for y in range(3)])
    with pytest.raises(
        SpecError, match=r"^--bank: .*has no class for 3 of its 3 samples; finetune learns from classes; pack"
    ):
        probe_job(make(), "finetune", **asked(bank=str(tmp_path / "bare.tar")))


@pytest.mark.parametrize(("plain", "positions"), [(False, "relative"), (True, None)])
def test_an_encoder_with_relative_positions_is_taken_as_such(make, plain, positions):
    encoder = probe_job(make(method={"name": "simmim", "plain": plain}), "finetune", **asked()).method.encoder
    assert (None if encoder is None else encoder.positions) == positions


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"bank": "nowhere://x"}, r"^--bank: .*nowhere"),
        ({"bank": "{b..a"}, r"^--bank: "),
    ],
)
def test_a_bank_that_cannot_be_read_is_named_by_its_option(make, changes, match):
    with pytest.raises(SpecError, match=match):
        probe_job(make(), "finetune", **asked(**changes))


@pytest.mark.parametrize(
    ("method", "scored", "problem"),
    [
        ("attentive", "bank.tar", "shares 1 shard of 1 with the bank"),
        ("finetune", "bare.tar", "no sample of .* has a class"),
        ("attentive", "nine.tar", "has the class 9, but the bank has 7"),
        ("segmentation", "bare.tar", "no sample of .* has a mask"),
        ("finetune", "nothing.tar", "does not exist"),
    ],
)
def test_what_a_head_cannot_be_scored_on_is_refused_before_it_is_trained(make, tmp_path, method, scored, problem):
    write_tar(tmp_path / "bare.tar", [("a.png", b"x"), ("b.png", b"x")])
    write_tar(tmp_path / "nine.tar", [("a.png", b"x"), ("a.cls", b"9")])
    bank = tmp_path / "masks.tar"
    write_tar(bank, [("a.png", b"x"), ("a.mask.png", b"y")])
    masks = {"bank": str(bank), "masks": {"classes": 3}} if method == "segmentation" else {}
    source = make()
    job = probe_job(source, method, **asked(**masks))
    with pytest.raises((SpecError, DataError), match=problem):
        refuse_corpus(job, str(tmp_path / scored), source.root)


def test_a_corpus_of_its_own_is_scored(make, tmp_path):
    write_tar(tmp_path / "own.tar", [("a.png", b"x"), ("a.cls", b"6")])
    source = make()
    refuse_corpus(probe_job(source, "attentive", **asked()), str(tmp_path / "own.tar"), source.root)


@pytest.mark.parametrize(("learnt", "scored"), [(5, 2), (2, 5)])
def test_too_few_classes_for_the_values_of_masks_are_refused_before_a_head_is_trained(make, tmp_path, learnt, scored):
    for name, value in (("bank", learnt), ("corpus", scored)):
        mask = png(np.full((4, 4), value, np.uint8))
        write_tar(
            tmp_path / f"m{name}.tar", [pair for y in "ab" for pair in ((f"{y}.png", b"x"), (f"{y}.mask.png", mask))]
        )
    source, given = make(), {"bank": str(tmp_path / "mbank.tar"), "masks": {"classes": 5}}
    with pytest.raises((SpecError, DataError), match=r"^--classes: 5, but the mask of .* has the value 5"):
        refuse_corpus(probe_job(source, "segmentation", **asked(**given)), str(tmp_path / "mcorpus.tar"), source.root)
    given["masks"] = {"classes": 6}
    refuse_corpus(probe_job(source, "segmentation", **asked(**given)), str(tmp_path / "mcorpus.tar"), source.root)


def test_a_dry_run_refuses_too_few_classes_for_the_values_of_masks(tmp_path):
    folder = str(masked_shards(tmp_path / "c", 20))
    assert all(index_all(list_shards(folder), None))

    def compared(classes):
        method, init = {"name": "segmentation", "classes": classes}, {"run": "other"}
        job = parse_job({**JOB, "method": method, "init": init, "data": {"corpora": [{"url": folder}]}})
        compare(job, str(tmp_path), look_up(job, str(tmp_path)))

    with pytest.raises(SpecError, match=r"^method.classes: 3, but the mask of .* has the value 3"):
        compared(3)
    compared(4)
