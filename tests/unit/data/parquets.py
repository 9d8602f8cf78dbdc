"""Parquet files as several writers leave them."""

import json

import numpy as np
import pyarrow as arrow
from pyarrow import parquet

DATASETS_2 = {"compression": "snappy", "use_dictionary": True}
"""What `datasets` up to 4.5 passes on: pyarrow's defaults, in row groups of 100."""
DATASETS_5 = {"compression": {"image": "none"}, "use_dictionary": ["label"], "write_page_index": True}
"""What it passes on from 4.6 on, with content-defined chunks; pyarrow before 21 knows none."""
CHUNKS = {"min_chunk_size": 2**18, "max_chunk_size": 2**20, "norm_level": 0}
if int(arrow.__version__.partition(".")[0]) >= 21:
    DATASETS_5["use_content_defined_chunking"] = CHUNKS

CLASSES = [f"digit {number}" for number in range(10)]


def write_rows(path, images, labels=None, *, group=100, classes=None, struct=True, **options):
    """A file with a column of images, of structs {bytes, path} or of bytes, and one of labels."""
    if struct:
        rows = [None if data is None else {"bytes": data, "path": f"{y}.png"} for y, data in enumerate(images)]
        kind = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
        columns = {"image": arrow.array(rows, kind)}
    else:
        columns = {"image": arrow.array(images, arrow.binary())}
    if labels is not None:
        columns["label"] = arrow.array(labels, arrow.string() if isinstance(labels[0], str) else arrow.int64())
    table = arrow.table(columns)
    if classes:
        info = {"info": {"features": {"label": {"names": classes, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    with parquet.ParquetWriter(path, table.schema, **options) as writer:
        for first in range(0, len(images), group):
            writer.write_table(table.slice(first, group))
    return path


def noise(seed, size):
    """Bytes that do not compress, as those of a photograph."""
    return np.random.default_rng(seed).bytes(size)
