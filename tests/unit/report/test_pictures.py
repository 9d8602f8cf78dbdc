"""Pictures in the page: spread over the checkpoints, within their share, and nothing but images."""

from dataclasses import replace

import pytest

from gmml_cluster.report.page import page_of
from gmml_cluster.report.pictures import pictures_of, spread
from gmml_cluster.run.results import pictures
from gmml_cluster.run.root import RunRoot
from tests.fixtures.reports import gathered, preempted_run

PNG = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAA"
PNG += "AABJRU5ErkJggg=="


def keep(run: RunRoot, step: int, *, corpus="c", made=1.0, image=PNG, images=8):
    states = {"kind": "noise", "original": image, "corrupted": image, "reconstructed": image}
    document = {"step": step, "attempt": 1, "made": made, "corpus": {"url": "/held", "digest": corpus}}
    pictures.write(run.store, pictures.name_of(step, 1, corpus), {**document, "images": [states] * images})


@pytest.fixture
def run(tmp_path):
    made = preempted_run(tmp_path, "one")
    for step in (-1, 49, 99):
        keep(made, step)
    return made


def test_the_page_shows_the_images_at_each_step_in_words_too(run):
    html = page_of([gathered(run)], "gmml report one").html
    for title in ("original", "corrupted", "untrained", "step 49", "step 99"):
        assert f'<th scope="row">{title}</th>' in html
    assert html.count("<img ") == 8 * 5
    assert 'alt="image 1, reconstructed, step 49"' in html
    assert "pictures/00000099-0001-" in html
    assert "<code>gmml report one --images /held</code>" in html


def test_maps_and_what_was_made_have_rows_and_words_of_their_own(run):
    states = {"kind": "like", **dict.fromkeys(("original", "corrupted", "reconstructed", "map"), PNG)}
    document = {"step": 99, "attempt": 2, "made": 2.0, "corpus": {"url": "/held", "digest": "c"}, "what": "similarity"}
    pictures.write(run.store, pictures.name_of(99, 1, "c"), {**document, "images": [states] * 8})
    html = page_of([gathered(run)], "gmml report one").html
    assert '<th scope="row">map of attention, step 99</th>' in html
    assert "map of attention, step 49" not in html
    assert 'alt="image 1, similarity, step 99"' in html
    assert 'alt="image 1, reconstructed, step 49"' in html
    assert html.count("<img ") == 8 * 6


def test_pictures_of_the_corpus_that_was_drawn_last_are_shown(run):
    keep(run, 99, corpus="other", made=2.0)
    assert [each["step"] for each in pictures.kept(run)] == [99]


def test_fewer_are_shown_where_the_share_is_small(run):
    data = gathered(run)
    whole = pictures_of(data, 10**6)
    assert (whole.kinds, len(whole.rows), whole.left_out) == ([("noise", 8)], 5, 0)
    few = pictures_of(data, len(PNG) * 25)
    assert sum(len(row.images) for row in few.rows) <= 25
    assert few.rows[-1].title == "step 99"
    assert few.left_out > 0


def test_what_is_no_image_is_left_out(run):
    keep(run, 99, image='javascript:alert(1)"><script>')
    html = page_of([gathered(run)], "gmml report one").html
    assert "javascript:alert" not in html


def test_spread_keeps_both_ends():
    assert spread(range(10), 4) == [0, 3, 6, 9]
    assert spread(range(3), 8) == [0, 1, 2]
    assert spread(range(5), 1) == [4]


def test_a_run_without_pictures_says_how_to_draw_some(run):
    html = page_of([replace(gathered(run), pictures=[])], "gmml report one").html
    assert "gmml report RUN --images URL" in html
