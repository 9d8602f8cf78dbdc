"""Corpora in a real S3 store: packed into it, indexed there, and streamed as from a folder."""

import numpy as np
import pytest

from gmml_cluster.data.corpus.listing import store_of
from gmml_cluster.data.corpus.pin import Pin, pin
from gmml_cluster.data.packing import pack
from gmml_cluster.data.packing.sources import find_source
from gmml_cluster.data.reader import reads
from gmml_cluster.data.reader.order import Order
from gmml_cluster.data.reader.stream import Stream
from gmml_cluster.plan.sample_layout import make_layout
from gmml_cluster.spec.job import CorpusSpec, Data
from gmml_cluster.store import requests
from gmml_cluster.store.open import open_store
from gmml_cluster.store.retries import RetriesSince
from tests.fixtures.proxy import Proxy, Rule
from tests.unit.data.conftest import digit_shards, digits, png

__all__ = ["digit_shards", "digits"]


def streamed(pinned, steps):
    layout = make_layout(seed=7, batch=16, group=2, lanes=4, window=4, spans=2, corpora=pinned.shapes)
    data = Data.model_validate({"corpora": [{"url": "unused"}], "image_size": 8})
    stream = Stream(Order(layout), pinned, data, seed=7, views=2, ranks=1, rank=0, first_step=0)
    try:
        return np.stack([stream.next().images for _ in range(steps)])
    finally:
        stream.close()


def test_shards_in_a_store_are_indexed_once_and_give_the_images_of_the_folder(s3_url, digit_shards):
    store = open_store(s3_url)
    for path in digit_shards.iterdir():
        store.put_file(f"digits/{path.name}", path)
    found = pin([CorpusSpec(url=f"{s3_url}/digits/train-{{000..003}}.tar")], store.child(".corpora"))
    assert len(store.list_objects(".corpora/")) == 4
    again = Pin.from_bytes(found.to_bytes(), store.child(".corpora"))
    assert np.array_equal(streamed(again, 4), streamed(pin([CorpusSpec(url=str(digit_shards))]), 4))


@pytest.mark.parametrize(
    "kind", ["503", "500", "409", "reset", "drop_response", "stall", "truncated", "short", "flipped"]
)
def test_whatever_a_store_does_to_every_third_read_the_images_are_those_of_the_folder(
    kind, s3_server, s3_url, digit_shards, monkeypatch
):
    for path in digit_shards.iterdir():
        open_store(s3_url).put_file(f"digits/{path.name}", path)
    asked = [CorpusSpec(url=f"{s3_url}/digits/train-{{000..003}}.tar")]
    pinned = pin(asked, open_store(s3_url).child(".corpora"))
    expected = streamed(pin([CorpusSpec(url=str(digit_shards))]), 2)
    monkeypatch.setattr(requests, "REQUEST_S", 1.0)
    monkeypatch.setattr(reads, "BLOCK_BYTES", 2**12)  # many reads, whose every byte is needed
    with Proxy(s3_server.endpoint).running() as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        store_of.cache_clear()  # its clients know the server's own address
        # three at most: a sample whose bytes are wrong four times is given up
        proxy.rules += [Rule(kind, "GET", r"\.tar$", times=3, every=3), Rule(kind, "GET", r"\.index$")]
        since = RetriesSince()
        assert np.array_equal(streamed(pinned, 2), expected)
        # the client itself sends a request again, once, whose connection broke
        assert since.take() or kind in ("reset", "drop_response")
        met = [what for _, _, what in proxy.seen if what]
    store_of.cache_clear()
    assert met == [kind] * 4


def test_packing_into_a_store_leaves_shards_with_indexes_beside_them(s3_url, digit_shards):
    packed = pack.pack(find_source(str(digit_shards)), f"{s3_url}/packed", shard_samples=10)
    names = [found.name for found in open_store(s3_url).child("packed").list_objects()]
    assert names == ["packed.json", *(f"{shard}{suffix}" for shard in packed.shards for suffix in ("", ".index"))]
    pinned = pin([CorpusSpec(url=f"{s3_url}/packed")])
    assert tuple(pinned.shapes[0].shards) == (10, 10, 3)
    assert pinned.locate(0, 0).crc is not None


@pytest.mark.parametrize("name", ["snappy", "none"])
def test_parquet_files_in_a_store_give_the_images_of_a_folder(name, s3_url, digits, tmp_path):
    pytest.importorskip("pyarrow")
    from tests.unit.data.parquets import DATASETS_2, DATASETS_5, write_rows

    options = {"snappy": DATASETS_2, "none": DATASETS_5}[name]
    store = open_store(s3_url)
    for number, first in enumerate((0, 9, 16)):
        some = digits[first : first + 9 - 2 * number]
        path = tmp_path / f"train-{number:05d}-of-00003.parquet"
        write_rows(path, [png(image) for image, _ in some], [label for _, label in some], group=4, **options)
        store.put_file(f"rows/{path.name}", path)
    found = pin([CorpusSpec(url=f"{s3_url}/rows/train-*.parquet")], store.child(".corpora"))
    assert len(store.list_objects(".corpora/")) == 3
    again = Pin.from_bytes(found.to_bytes(), store.child(".corpora"))
    assert np.array_equal(streamed(again, 4), streamed(pin([CorpusSpec(url=str(tmp_path))]), 4))
