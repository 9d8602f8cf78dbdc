"""What the plan knows of corpora before they are pinned."""

from contextlib import nullcontext
from dataclasses import replace

import pytest

from gmml_cluster.data.corpus.checksums import index_all
from gmml_cluster.data.corpus.listing import indexes_below, list_shards
from gmml_cluster.errors import PreflightError
from gmml_cluster.launch.checks.indexed import Indexed, look_up, refuse_empty
from gmml_cluster.plan.sample_layout import CorpusShape
from tests.unit.data.conftest import write_tar
from tests.unit.plan.test_plan import job


@pytest.fixture
def shards(tmp_path):
    """A folder of shards of two samples and of one."""
    for number, count in enumerate((2, 1)):
        write_tar(tmp_path / f"{number}.tar", [(f"{y}.png", b"image") for y in range(count)])
    return str(tmp_path)


def test_a_corpus_without_index_is_noted_with_the_cure(shards):
    (word,) = look_up(job([{"url": shards}]), "/runs").notes
    assert word.startswith(f"{shards}: no index for 2 of 2 shards; ")
    assert f"`gmml corpus index '{shards}' --root /runs`" in word


def test_indexes_beside_the_shards_or_below_the_root_give_their_samples(shards, tmp_path):
    spec, root = job([{"url": shards}]), str(tmp_path / "runs")
    assert all(each.made for each in index_all(list_shards(shards), indexes_below(root)))
    known = Indexed((CorpusShape(1.0, (2, 1)),), (f"{shards}: 3 samples in 2 shards, none with a class",))
    assert replace(look_up(spec, root), held=()) == known
    assert look_up(spec, "/elsewhere").shapes is None
    assert all(each.made for each in index_all(list_shards(shards), None))
    assert replace(look_up(spec, "/elsewhere"), held=()) == known


def test_a_corpus_that_cannot_be_read_is_noted(tmp_path):
    found = look_up(job([{"url": str(tmp_path / "none.tar")}]), "/runs")
    assert found.shapes is None
    assert "none.tar does not exist" in found.notes[0]


@pytest.mark.parametrize("is_sorted", [True, False])
def test_a_corpus_whose_labels_are_sorted_is_noted_with_the_cure(tmp_path, is_sorted):
    for number in range(5):
        labels = sorted(range(40), key=lambda y: y if is_sorted else y * 17 % 41)
        members = [
            (f"{y:02d}.{end}", data) for y in range(40) for end, data in (("cls", b"%d" % labels[y]), ("png", b""))
        ]
        write_tar(tmp_path / f"{number}.tar", members)
    assert all(index_all(list_shards(str(tmp_path)), None))
    found = look_up(job([{"url": str(tmp_path)}]), "/elsewhere")
    assert [(shape.weight, [*shape.shards]) for shape in found.shapes] == [(1.0, [40] * 5)]
    note = f"{tmp_path}: the labels of 4 of 5 shards look sorted; "
    assert [
        word.startswith(note) and word.endswith("`gmml corpus pack` shuffles them") for word in found.notes[1:]
    ] == ([True] if is_sorted else [])


@pytest.mark.parametrize(
    ("name", "image", "refused"), [("a.txt", None, True), ("a.png", None, False), ("a.png", "left.jpg", True)]
)
def test_a_folder_of_a_few_shards_without_index_and_without_an_image_is_refused(tmp_path, name, image, refused):
    write_tar(tmp_path / "0.tar", [(name, b"x")])
    asked = job([{"url": str(tmp_path), "image": image}])
    held = look_up(asked, "/runs").held
    assert held == (None,)
    with pytest.raises(PreflightError, match=r"so it holds no sample") if refused else nullcontext():
        refuse_empty(asked, held)


def test_many_shards_without_index_are_not_read_for_it(tmp_path):
    for number in range(5):
        write_tar(tmp_path / f"{number}.tar", [("a.txt", b"x")])
    asked = job([{"url": str(tmp_path)}])
    refuse_empty(asked, look_up(asked, "/runs").held)
