"""A whole order at seed 7: two corpora of uneven shards, many epochs of the small one. A change breaks every run."""

import zlib

import numpy as np

from gmml_cluster.data.reader.order import Order
from gmml_cluster.plan.sample_layout import CorpusShape, make_layout

FIRST_ROW = [23, 24, 26, 29, 132, 145, 135, 137, 49, 44, 50, 46, 19, 20, 11, 12, 79, 76, 80, 78, 7, 5, 4, 6]
TABLE_CRC = 418018878


def test_order_of_uneven_corpora_stays_what_it_was():
    corpora = (CorpusShape(5.0, (61, 0, 7, 90)), CorpusShape(1.0, (23,)))
    layout = make_layout(seed=7, batch=48, group=4, lanes=6, window=16, spans=3, corpora=corpora)
    locations = Order(layout).locate(np.arange(3000))
    assert locations.y[:24].tolist() == FIRST_ROW
    table = np.stack([locations.corpus, locations.epoch, locations.y]).astype("<i8")
    assert zlib.crc32(table.tobytes()) == TABLE_CRC
