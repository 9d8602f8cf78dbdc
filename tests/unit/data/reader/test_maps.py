"""A step's images come with their own maps: of the pass that holds then, cut, flipped, and of what was really shown."""

import numpy as np
import pytest

from gmml_cluster.data.random.philox import Purpose, bernoulli, words
from gmml_cluster.data.reader.crop import crop_boxes, draw_crops
from gmml_cluster.data.reader.locate import Wanted
from gmml_cluster.data.reader.map_blocks import BlockId, all_blocks, check_block, manifest_of, put_block
from gmml_cluster.data.reader.map_crop import crop_maps
from gmml_cluster.data.reader.map_table import MapRules, MapTable
from gmml_cluster.data.reader.order import Order
from gmml_cluster.data.reader.stream import Stream
from gmml_cluster.errors import StorageError
from gmml_cluster.plan.refreshes import Refreshes
from tests.unit.data.reader.test_stream import Run
from tests.unit.run.memory import MemoryStore

GRID = 4


def write(store, folder, samples, seed):
    """Random maps of all samples; returns them and the manifest's digest."""
    import hashlib

    maps = np.random.default_rng(seed).integers(1, 256, (samples, GRID**2)).astype(np.uint8)
    crcs = {b: put_block(store, folder, b, maps[b.samples([samples]).start :][:4096]) for b in all_blocks([samples])}
    manifest = manifest_of(crcs, [samples], GRID**2)
    store.put(f"{folder}/manifest.json", manifest)
    return maps, hashlib.sha256(manifest).hexdigest()


def table_of(run, store, refreshes):
    return MapTable(refreshes, store, MapRules(7, run.data.augment, "exact", GRID, 2))


def stream_of(run, table, first_step=0):
    return Stream(
        Order(run.layout), run.pin, run.data, seed=7, views=2, ranks=1, rank=0, first_step=first_step, maps=table
    )


def expected(run, numbers, maps, sides):
    where = run_order(run).locate(numbers)
    boxes = crop_boxes(draw_crops(7, numbers, 2, run.data.augment.crop), *sides.T)
    cut = crop_maps(maps[where.y].reshape(-1, GRID, GRID), boxes, sides, alignment="exact", patch_size=2)
    flips = np.stack([bernoulli(words(7, Purpose.FLIP, numbers, 1, stream=view)[:, 0], 0.5) for view in (0, 1)], 1)
    assert flips.any()
    assert not flips.all()
    return np.where(flips[..., None, None], cut[..., ::-1], cut).reshape(len(numbers), 2, -1)


def run_order(run):
    return Order(run.layout)


@pytest.fixture
def run(digit_shards):
    return Run(digit_shards)


def sides_of(run, numbers):
    return np.full((len(numbers), 2), 8)


def test_each_step_has_the_maps_that_hold_then_whatever_is_read_ahead(run):
    store, samples = MemoryStore(), run.pin.shapes[0].samples
    table = table_of(run, store, Refreshes(2, (1, 4)))
    first, digest = write(store, "maps/one", samples, 1)
    table.add(1, "maps/one", digest)
    opened = stream_of(run, table)
    try:
        batches = [opened.next() for _ in range(4)]
        assert [batch.maps is None for batch in batches] == [True, True, False, False]
        assert table.due(4)
        assert not table.due(1)
        assert opened._steps[0].images is None, "images of a step whose maps are not made are not decoded"
        second, digest = write(store, "maps/two", samples, 2)
        table.add(4, "maps/two", digest)
        opened.maps_made()
        batches += [opened.next() for _ in range(2)]
    finally:
        opened.close()
    for batch, maps in zip(batches[2:], [first, first, second, second], strict=True):
        assert np.array_equal(batch.maps, expected(run, batch.numbers, maps, sides_of(run, batch.numbers)))


def test_a_block_is_checked_when_it_stands_and_when_it_is_read(run):
    store, samples = MemoryStore(), run.pin.shapes[0].samples
    _, digest = write(store, "maps/one", samples, 1)
    block, size = BlockId(0, 0), samples * GRID**2
    assert BlockId.parse(block.name) == block
    assert check_block(store, "maps/one", block, size) is not None
    assert check_block(store, "maps/one", BlockId(0, 1), size) is None
    name = f"maps/one/{block.name}"
    store.objects[name] = b"\0" + store.objects[name][1:]
    assert check_block(store, "maps/one", block, size) is None
    table = table_of(run, store, Refreshes(0, (1,)))
    table.add(1, "maps/one", digest)
    views = table.of_step(1, np.arange(1), 1)
    with pytest.raises(StorageError, match="damaged"):
        views.fill([Wanted(0, 0)], np.array([[[0, 0, 8, 8]]]), np.array([[8, 8]]))


def test_blocks_cover_all_corpora():
    assert [(b.name, len(b.samples([5000, 0, 4096]))) for b in all_blocks([5000, 0, 4096])] == [
        ("00-000000.maps", 4096),
        ("00-000001.maps", 904),
        ("02-000000.maps", 4096),
    ]
