"""`gmml see` shows what the step computes with: the reader's pixels, the step's own draws, of the very numbers."""

import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from gmml_cluster.data.corpus.listing import indexes_below
from gmml_cluster.data.corpus.pin import pin
from gmml_cluster.data.reader.bad_samples import Limit
from gmml_cluster.data.reader.crop import crop_boxes, draw_crops
from gmml_cluster.data.reader.decode import VIEWS_VERSION, decoder_name
from gmml_cluster.data.reader.map_blocks import all_blocks, manifest_of, put_block
from gmml_cluster.data.reader.order import Order
from gmml_cluster.data.reader.stream import Stream
from gmml_cluster.errors import PreflightError, SpecError, StorageError
from gmml_cluster.evaluate.see.__main__ import document, main
from gmml_cluster.evaluate.see.look import MOST, look
from gmml_cluster.evaluate.see.sheet import sheet
from gmml_cluster.methods.build import blank
from gmml_cluster.methods.protocol import Losses, Setting
from gmml_cluster.ordered import Ordered, of_job, of_run
from gmml_cluster.plan.sample_layout import groups_of_rank, micro_batches
from gmml_cluster.plan.steps import layout_of
from gmml_cluster.run import protocol
from gmml_cluster.run.folders import maps_folder
from gmml_cluster.run.maps import record_maps
from gmml_cluster.run.root import SPEC, corpora_name, create_run
from gmml_cluster.spec.loading.validate import parse_job, to_yaml
from gmml_cluster.spec.methods.registry import mask_table_of, wants_labels
from gmml_cluster.train.engines.schedule import Schedule
from gmml_cluster.train.ranks.rendezvous import RankInfo
from gmml_cluster.train.ranks.signals import StopRequest
from gmml_cluster.train.stepper import Stepper
from tests.fixtures.plugins import install
from tests.fixtures.ranks import ROOT as REPOSITORY
from tests.unit.data.conftest import png, write_tar
from tests.unit.data.masks import masked_shards
from tests.unit.evaluate.conftest import METHODS
from tests.unit.train.test_loop import Engine

SAMPLES, GROUP, BATCH, STEPS = 40, 4, 16, 3
BAD = 7
AMT = {"start": "1 steps", "interval": "1 steps"}
CASES = {**METHODS, "supervised": {"name": "supervised", "classes": 3}, "gmml": {"name": "gmml", "views": 2}}


def picture(y):
    """Colours of a sample, no two of one size and content."""
    return np.random.default_rng(y).integers(0, 256, (20 + y % 5, 24 + y % 7, 3)).astype(np.uint8)


@pytest.fixture
def corpus(tmp_path):
    """Two shards of 20 labelled images; one of them is no image."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for shard in range(2):
        members = []
        for y in range(20 * shard, 20 * shard + 20):
            members += [(f"{y:03d}.png", b"no image" if y == BAD else png(picture(y)))]
            members += [(f"{y:03d}.cls", str(y % 3).encode())]
        write_tar(folder / f"{shard}.tar", members)
    return folder


def spec_of(corpus, method, init=None, **data):
    """Three steps of four groups."""
    augment = "conmim" if method["name"] == "conmim" else "relvit" if method["name"] == "relvit" else "gmml"
    corpora = [{"url": str(corpus)}]
    sizes = {"image_size": 16, "group": GROUP, "lanes": 2, "max_bad": 0.2}
    return {
        "name": "small",
        "seed": 11,
        "model": {"width": 16, "depth": 2, "heads": 2, "patch_size": 4},
        "method": method,
        "data": {"corpora": corpora, "augment": augment, **sizes, **data},
        "batch": {"size": BATCH},
        "run": {"steps": STEPS},
        **({} if init is None else {"init": init}),
    }


def job_of(corpus, method, init=None, **data):
    return parse_job(spec_of(corpus, method, init, **data))


def ordered(job, run=None):
    pinned = pin(job.data.corpora, checked=False) if run is None else None
    return Ordered(job, layout_of(job, pinned.shapes), pinned) if pinned else of_run(run)


def stepped(job, step, *, ranks=2, maps=None):
    """What the losses of a step are given on all ranks: (numbers, views, draws) of each micro-batch."""
    pinned = pin(job.data.corpora, checked=False)
    layout, met = layout_of(job, pinned.shapes), []
    for rank in range(ranks):
        method, numbers = blank(Setting.of(job)), []
        own_draw = method.draw

        def draw(sample_numbers, device, own_draw=own_draw, numbers=numbers, **options):
            numbers[:] = sample_numbers.tolist()
            return own_draw(sample_numbers, device, **options)

        def loss(forward, images, draws, numbers=numbers):
            met.append((list(numbers), images, draws))
            return Losses(torch.zeros(len(images) // GROUP), {}, {})

        method.draw, method.loss = draw, loss
        stream = Stream(
            Order(layout),
            pinned,
            job.data,
            seed=job.seed,
            views=method.views,
            ranks=ranks,
            rank=rank,
            first_step=step,
            labels=wants_labels(job.method),
            mask_table=mask_table_of(job.method),
            maps=maps,
        )
        stepper = Stepper(
            job=job,
            method=method,
            engine=Engine(),
            batches=stream,
            schedule=Schedule.of(job.optim, batch=BATCH, run_steps=STEPS, epoch_steps=1),
            micro=micro_batches(layout, ranks, GROUP),
            groups=groups_of_rank(layout, ranks, rank),
            group=GROUP,
            rank_info=RankInfo(rank, ranks, rank, ranks),
            device=torch.device("cpu"),
            stop_request=StopRequest(),
            limit=Limit(pinned, job.data.max_bad),
            attempt=1,
        )
        try:
            stepper.enqueue(step)
        finally:
            stream.close()
    return met


def colours(images, job):
    """Normalised images (n, 3, S, S) as bytes, by the definition and in their own precision."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (job.data.normalise.mean, job.data.normalise.std))
    return ((images * std + mean).clamp(0, 1) * 255).round().to(torch.uint8).movedim(1, 3).numpy()


def demand_of_step(seen, job, met):
    """The pictures of samples are made of the very tensors that the losses of their step are given."""
    method, by_number = blank(Setting.of(job)), {each.n: each for each in seen}
    grey = (0.5 - torch.tensor(job.data.normalise.mean)) / torch.tensor(job.data.normalise.std)
    compared = 0
    for numbers, images, draws in met:
        panels = method.show_input(images, draws, torch.tensor(numbers), grey=grey)
        for at, n in enumerate(numbers):
            if n not in by_number:
                continue
            compared += 1
            for view, shown in enumerate(by_number[n].views):
                assert np.array_equal(shown.pixels, colours(images[:, view], job)[at])
            own = by_number[n].panels[len(by_number[n].panels) - len(panels) :]
            for panel, shown in zip(panels, own, strict=True):
                assert shown.title == panel.title
                assert shown.fact == (panel.facts[at] if panel.facts else "")
                assert np.array_equal(shown.pixels, colours(panel.images, job)[at])
    assert compared == len(by_number)


@pytest.mark.parametrize("case", CASES)
def test_views_masks_and_corruption_are_those_of_the_step(corpus, case):
    job = job_of(corpus, CASES[case])
    found = look(ordered(job), range(21, 31))
    assert [seen.n for seen in found.samples] == list(range(21, 31))
    assert {seen.step for seen in found.samples} == {1}
    demand_of_step(found.samples, job, stepped(job, 1))


def test_a_range_may_cross_steps_and_begin_within_a_group(corpus):
    job = job_of(corpus, CASES["gmml"])
    seen = look(ordered(job), range(14, 19)).samples
    assert [(each.n, each.step) for each in seen] == [(14, 0), (15, 0), (16, 1), (17, 1), (18, 1)]
    demand_of_step(seen, job, [*stepped(job, 0), *stepped(job, 1)])


def test_source_label_and_boxes_are_what_the_order_and_the_draws_say(corpus):
    job = job_of(corpus, CASES["gmml"])
    found = ordered(job)
    where = Order(found.layout).locate(np.arange(48))
    replaced = 0
    for seen in look(found, range(48)).samples:
        drawn = int(where.y[seen.n])
        y = drawn if drawn != BAD else BAD + 1
        assert (seen.located.shard.rpartition("/")[2], seen.located.member) == (f"{y // 20}.tar", f"{y:03d}.png")
        assert (seen.epoch, seen.stored.label) == (int(where.epoch[seen.n]), y % 3)
        assert np.array_equal(seen.stored.image, picture(y))
        sides = [np.array([side]) for side in picture(y).shape[:2]]
        assert (seen.stored.height, seen.stored.width) == picture(y).shape[:2]
        boxes = crop_boxes(draw_crops(11, np.array([seen.n]), 2, job.data.augment.crop), *sides)
        assert np.array_equal(seen.stored.boxes, boxes[0])
        if drawn == BAD:
            replaced += 1
            assert seen.replaces is not None
            assert seen.replaces.member == f"{BAD:03d}.png"
        else:
            assert seen.replaces is None
    assert replaced > 0


def test_segmentation_shows_the_classes_of_the_pixels(tmp_path):
    folder = masked_shards(tmp_path / "masked", 32)
    job = job_of(folder, {"name": "segmentation", "classes": 4}, augment="none", init={"run": "trained"})
    met = stepped(job, 0)
    (found,) = [look(ordered(job), range(BATCH))]
    assert found.notes == ["segmentation hides and mixes nothing: the encoder sees the views"]
    classes = {n: draws["mask"][at] for numbers, _, draws in met for at, n in enumerate(numbers)}
    for seen in found.samples:
        (panel,) = seen.panels
        assert panel.fact == f"classes {', '.join(map(str, sorted(set(classes[seen.n].flatten().tolist()))))}"
        first, other = (panel.pixels[(classes[seen.n] == value).numpy()] for value in (0, int(classes[seen.n].max())))
        assert not np.array_equal(first[0], other[0])


def test_before_there_are_maps_masks_that_follow_them_are_not_drawn_and_that_is_said(corpus):
    job = job_of(corpus, {**METHODS["mae"], "amt": AMT})
    found = look(ordered(job), range(12, 20))
    assert [len(seen.panels) for seen in found.samples] == [1] * 4 + [0] * 4
    (note,) = found.notes
    assert note.startswith("step 1: masks follow maps of attention, which a run makes before step 1; name the run")
    demand_of_step(found.samples[:4], job, stepped(job, 0))


def pinned_run(corpus, root, decoder):
    """A run of MAE with AMT whose first attempt has pinned its corpora."""
    job = job_of(corpus, {**METHODS["mae"], "amt": AMT})
    made = create_run(str(root), "small", {SPEC: to_yaml(job).encode()}, {"spec": "0", "code": "0", "versions": {}})
    pinned = pin(job.data.corpora, indexes_below(str(root)))
    made.store.put(corpora_name(pinned.digest), pinned.to_bytes())
    token = protocol.submit(made.log, launcher="local", code="0", bounds={})
    protocol.claim(made.log, submit=token, job="j", restart=0, topology={}, machine={})
    layout = layout_of(job, pinned.shapes).to_json()
    protocol.pin(made.log, 1, {"corpora": pinned.digest, "layout": layout, "steps": STEPS, "decoder": decoder})
    return made


@pytest.fixture
def run(corpus, tmp_path):
    return pinned_run(corpus, tmp_path / "runs", decoder_name())


def record(run):
    """Maps before step 1, as a pass over the corpus would write them."""
    maps = np.random.default_rng(0).integers(1, 256, (SAMPLES, 16)).astype(np.uint8)
    protocol.commit(run.log, 1, step=0, manifest="m", size=1, seconds=0.0)
    commit = run.log.refresh().commits[-1]
    folder = maps_folder(commit.step, commit.attempt)
    crcs = {block: put_block(run.store, folder, block, maps) for block in all_blocks([SAMPLES])}
    manifest = manifest_of(crcs, [SAMPLES], 16)
    run.store.put(f"{folder}/manifest.json", manifest)
    digest = hashlib.sha256(manifest).hexdigest()
    record_maps(run.log, 1, step=1, of=commit, manifest=digest, size=1, blocks=1, seconds=0.0)
    return folder


def test_maps_of_a_run_are_read_and_mask_as_in_its_step(run):
    from gmml_cluster.train.maps import map_table

    found = of_run(run)
    (note,) = look(found, range(16, 20)).notes
    assert "look again when it has" in note
    record(run)
    seen = look(of_run(run), range(16, 24)).samples
    table = map_table(found.job, found.layout, STEPS, run.store, run.log.refresh().maps)
    met = stepped(found.job, 1, maps=table)
    demand_of_step(seen, found.job, met)
    roles = {n: draws["role"][at] for numbers, _, draws in met for at, n in enumerate(numbers)}
    weights = {n: draws["map"][at] for numbers, _, draws in met for at, n in enumerate(numbers)}
    for each in seen:
        titles = [panel.title for panel in each.panels]
        assert titles == ["map of attention", "patches by their map", "what the encoder sees"]
        brightness = each.panels[0].pixels[::4, ::4, 0].flatten().astype(int)
        assert np.abs(brightness - weights[each.n].numpy()).max() <= 1
        counts = [int((roles[each.n] == role).sum()) for role in (1, 2, 0)]
        assert each.panels[1].fact == "{} masked, {} thrown, {} visible".format(*counts)


def test_a_run_that_was_decoded_otherwise_is_refused_or_that_is_said(corpus, tmp_path):
    other = pinned_run(corpus, tmp_path / "other", f"another-1.0 views-{VIEWS_VERSION}")
    assert look(of_run(other), range(4)).notes[0].startswith(f"images are decoded by {decoder_name()}, the run's")
    older = pinned_run(corpus, tmp_path / "older", "another-1.0 views-1")
    with pytest.raises(PreflightError, match="it began with version 1 of decoding and cropping"):
        look(of_run(older), range(4))


def test_columns_hold_one_thing_each_where_a_range_passes_the_step_at_which_amt_begins(run):
    record(run)
    found = look(of_run(run), range(14, 18))
    assert [len(seen.panels) for seen in found.samples] == [1, 1, 3, 3]
    image = np.asarray(sheet(found, "gmml see small"))
    places = {seen.n: place_of(image, seen.panels[-1].pixels) for seen in found.samples}
    assert len({x for _, x in places.values()}) == 1
    assert [y for y, _ in places.values()] == sorted(y for y, _ in places.values())


def place_of(image, pixels):
    """Row and column where a view of 16 pixels lies in a sheet, enlarged to 128."""
    enlarged = pixels.repeat(8, 0).repeat(8, 1)
    starts = np.lib.stride_tricks.sliding_window_view(image[:, :, 0], (1, 128))[:, :, 0]
    rows, columns = (starts == enlarged[0, :, 0]).all(2).nonzero()
    (place,) = [
        (int(y), int(x))
        for y, x in zip(rows, columns, strict=True)
        if np.array_equal(image[y : y + 128, x : x + 128], enlarged)
    ]
    return place


def test_maps_that_are_gone_are_named(run):
    folder = record(run)
    for found in list(run.store.list_objects(f"{folder}/")):
        run.store.delete([found.name])
    with pytest.raises(StorageError, match=r"manifest\.json"):
        look(of_run(run), range(16, 20))


SHOWS = """
    def show_input(self, images, draws, numbers, *, grey):
        return [Panel("noisy", images[:, 0] + draws["noise"], [f"number {n}" for n in numbers.tolist()])]
"""


@pytest.mark.parametrize("shows", [False, True])
def test_a_method_of_another_package_shows_what_it_says_and_without_that_is_named(corpus, tmp_path, shows):
    package = install(tmp_path) / "theirs" / "method.py"
    if shows:
        text = package.read_text().replace("import EmaUpdate,", "import Panel, EmaUpdate,")
        package.write_text(text + SHOWS)
    (tmp_path / "x.yaml").write_text(json.dumps(spec_of(corpus, {"name": "theirs"})))
    command = [sys.executable, "-m", "gmml_cluster.evaluate.see", "--job", "x.yaml", "--root", "runs", "--json"]
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}:{tmp_path}"}
    done = subprocess.run(
        [*command, "--first", "1", "--last", "2"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    said = "theirs does not show what it makes of views; a method does by `show_input` (docs/methods.md)"
    assert found["notes"] == ([] if shows else [said])
    facts = [[{"title": "noisy", "fact": f"number {n}"}] if shows else [] for n in (1, 2)]
    assert [each["shown"] for each in found["samples"]] == facts


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        (
            range(40, 49),
            "--samples 40..48: the run has 3 steps of 16 images, so the numbers 0 to 47; name smaller ones",
        ),
        (range(47, 48), ""),
    ],
)
def test_numbers_beyond_the_run_are_refused(corpus, numbers, said):
    found = ordered(job_of(corpus, METHODS["mae"]))
    if not said:
        assert look(found, numbers).samples[0].n == 47
        return
    with pytest.raises(SpecError) as refused:
        look(found, numbers)
    assert str(refused.value) == said


def test_too_many_samples_are_refused(corpus):
    job = job_of(corpus, METHODS["mae"]).model_copy(update={"run": parse_run(100)})
    with pytest.raises(SpecError, match=f"are {MOST + 1} samples; at most {MOST} are shown at once; name fewer"):
        look(ordered(job), range(MOST + 1))


def parse_run(steps):
    from gmml_cluster.spec.job import RunSpec

    return RunSpec.model_validate({"steps": steps})


def test_a_shard_that_is_gone_is_named(corpus):
    found = ordered(job_of(corpus, METHODS["mae"]))
    (corpus / "1.tar").unlink()
    with pytest.raises(StorageError, match=r"1\.tar"):
        look(found, range(48))


def test_the_sheet_has_each_view_pixel_by_pixel(corpus):
    job = job_of(corpus, METHODS["mae"])
    found = look(ordered(job), range(3))
    image = np.asarray(sheet(found, "gmml see small"))
    places = [place_of(image, seen.views[0].pixels) for seen in found.samples]
    assert len({x for _, x in places}) == 1
    assert places == sorted(places)


def test_the_command_writes_a_picture_and_a_table_and_leaves_nothing_else(corpus, tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(to_yaml(job_of(corpus, CASES["gmml"])))
    before = set(tmp_path.rglob("*"))
    out = tmp_path / "out.png"
    shared = [
        "--job",
        str(path),
        "--override",
        "seed=5",
        "--root",
        str(tmp_path / "runs"),
        "--first",
        "3",
        "--last",
        "5",
    ]
    done = CliRunner().invoke(main, [*shared, "--output", str(out), "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    expected = document(look(of_job(str(path), ["seed=5"], str(tmp_path / "runs")), range(3, 6)), out)
    assert found == expected
    assert [each["n"] for each in found["samples"]] == [3, 4, 5]
    assert Image.open(out).format == "PNG"
    assert set(tmp_path.rglob("*")) == before | {out}
    plain = CliRunner().invoke(main, shared, catch_exceptions=False)
    assert plain.stdout.splitlines()[0] == "n  step  class  size  member  shard"
    assert len(plain.stdout.splitlines()) == 4


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("out.gif", "out.gif: is no PNG; end the name in .png"),
        ("nowhere/out.png", "nowhere/out.png: cannot be written (No such file or directory); name another file"),
    ],
)
def test_a_picture_that_cannot_be_written_is_refused(corpus, tmp_path, monkeypatch, output, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_text(to_yaml(job_of(corpus, METHODS["mae"])))
    arguments = ["--job", "x.yaml", "--root", "runs", "--first", "0", "--last", "0", "--output", output]
    done = CliRunner().invoke(main, arguments)
    assert (done.exit_code, done.stderr.strip()) == (2, said)
