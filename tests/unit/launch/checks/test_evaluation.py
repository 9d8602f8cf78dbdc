"""What keeps evaluations from scoring is found before anything is submitted."""

from pathlib import Path
from typing import Any

import pytest

from gmml_cluster.data.corpus.index import build, put
from gmml_cluster.data.corpus.listing import list_shards
from gmml_cluster.errors import PreflightError
from gmml_cluster.launch.checks.evaluation import look_at_evaluation, refuse_evaluation
from gmml_cluster.launch.checks.indexed import look_up
from gmml_cluster.plan.evaluation import LabelledCounts
from gmml_cluster.spec.job import JobSpec
from gmml_cluster.spec.loading.validate import parse_job
from tests.unit.launch.checks.test_preflight import png, shard

MAE = {"name": "mae"}
SUPERVISED = {"name": "supervised", "classes": 4}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Three shards: `a` and `b` with four images of two classes each, `bare` with images alone."""
    for name, labels in (("a", "0101"), ("b", "1100"), ("bare", "")):
        classes = {f"{at}.cls": label.encode() for at, label in enumerate(labels)}
        images = {f"{at}.png": png() for at in range(4)}
        shard(tmp_path / f"{name}.tar", dict(sorted({**images, **classes}.items())))
    return tmp_path


def index(home: Path) -> None:
    for each in list_shards(str(home)):
        put(build(each, checked=True), each, None)


def job(home: Path, method: dict[str, Any] = MAE, **asked: str) -> JobSpec:
    spec = {
        "name": "x",
        "model": {"width": 64, "depth": 4, "heads": 2, "patch_size": 4},
        "method": method,
        "data": {"corpora": [{"url": f"{home}/a.tar"}], "image_size": 32},
        "batch": {"size": 64},
        "run": {"steps": 10},
    }
    named = {name: f"{home}/{file}" for name, file in asked.items()}
    return parse_job({**spec, "evaluate": {"every": "5 steps", **named}})


def found(made: JobSpec, home: Path) -> list[str]:
    return [str(fault).replace(str(home), "") for fault in look_at_evaluation(made, str(home)).faults]


def test_a_sound_request_has_no_fault_and_its_images_are_counted_by_the_indexes(home: Path) -> None:
    made = job(home, corpus="b.tar")
    assert look_at_evaluation(made, str(home)).labelled == LabelledCounts(None, None)
    index(home)
    looked = look_at_evaluation(made, str(home))
    assert (looked.labelled, looked.faults, looked.notes) == (LabelledCounts(4, 4), (), ())
    assert look_up(made, str(home)).scored == LabelledCounts(4, 4)
    refuse_evaluation(made, str(home))


def test_a_corpus_that_is_not_there_or_has_no_class_or_shares_the_bank_is_named_by_its_field(home: Path) -> None:
    index(home)
    (absent,) = found(job(home, bank="none.tar", corpus="b.tar"), home)
    assert absent.startswith("evaluate.bank: /none.tar: ")
    (bare,) = found(job(home, corpus="bare.tar"), home)
    assert bare.startswith("evaluate.corpus: no sample of /bare.tar has a class; scores need classes; name shards")
    (shared,) = found(job(home, bank="{a,b}.tar", corpus="b.tar"), home)
    assert shared.startswith("evaluate.corpus: shares 1 shard of 1 with the bank (/b.tar); every image there")


def test_all_of_them_refuse_a_submission_and_are_notes_of_a_dry_run(home: Path) -> None:
    made = job(home, bank="none.tar", corpus="absent.tar")
    with pytest.raises(PreflightError) as refused:
        refuse_evaluation(made, str(home))
    assert [fault.where for fault in refused.value.faults] == ["evaluate.bank", "evaluate.corpus"]
    assert sum(note.startswith("evaluate.") for note in look_up(made, str(home)).notes) == 2


def test_what_is_trained_on_is_scored_with_a_note_and_refused_where_its_classes_are_learnt(home: Path) -> None:
    looked = look_at_evaluation(job(home, bank="b.tar", corpus="a.tar"), str(home))
    assert looked.faults == ()
    assert looked.notes[0].startswith("evaluate.corpus: shares 1 shard of 1 with data.corpora (")
    (fault,) = found(job(home, SUPERVISED, bank="b.tar", corpus="a.tar"), home)
    assert fault.endswith(
        "with data.corpora (/a.tar); supervised trains on their classes; name a corpus that is held out"
    )


def test_a_job_without_the_section_is_asked_nothing() -> None:
    made = parse_job({**job(Path("/none")).model_dump(mode="json"), "evaluate": None})
    assert look_at_evaluation(made, "/none").faults == ()
