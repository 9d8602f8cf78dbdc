"""Data sets in other forms: recognised by the files' names, so that a message can name the way to shards."""

import re
from collections import Counter
from collections.abc import Iterable

ARCHIVE_SUFFIXES = (".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")
PARQUET_SUFFIX = ".parquet"
_FILES = "write each image as a file, into a folder named by its class, and pack the folder"
_KINDS = (
    (r"(\.tar\.gz|\.tgz|\.tar\.xz|\.tar\.bz2)$", "compressed tars", "`gmml corpus pack` makes shards of them"),
    (r"(?i)\.(jpe?g|png|webp)$", "images", "`gmml corpus pack` makes shards of a folder of images"),
    (r"\.zip$", "zip archives", "unzip them and pack the folder"),
    (r"\.tar\.zst$", "tars compressed by zstd", "unpack them by `zstd -d`"),
    (
        r"(^|/)(data_batch(_\d+)?|test_batch|batches\.meta)$|\.(pkl|pickle)$",
        "Python pickles, as CIFAR is published, which are not read, as loading one can run any program",
        _FILES,
    ),
    (r"\.(npy|npz|h5|hdf5|mat|arrow)$|-ubyte(\.gz)?$", "arrays", _FILES),
    (r"\.(tfrecords?|rec|mdb|lmdb|beton|mds)$|\.tfrecord-\d+-of-\d+$", "records of another library", _FILES),
)


def explain(names: Iterable[str]) -> str:
    """What the most frequent known kind among files is and how it becomes a corpus; empty where none is known."""
    first: dict[int, str] = {}
    counts: Counter[int] = Counter()
    for name in names:
        kind = next((number for number, (pattern, _, _) in enumerate(_KINDS) if re.search(pattern, name)), None)
        if kind is not None:
            first.setdefault(kind, name)
            counts[kind] += 1
    if not counts:
        return ""
    kind, count = counts.most_common(1)[0]
    _, what, cure = _KINDS[kind]
    return f"{count} are {what}, the first {first[kind]!r}; {cure}"
