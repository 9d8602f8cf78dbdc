"""What the indexes of a job's corpora say before anything is submitted. Makes none."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

from gmml_cluster.errors import DataError, Fault, StorageError
from gmml_cluster.plan.lanes import CorpusShape
from gmml_cluster.spec.job import Corpus, JobSpec
from gmml_cluster.store.store import Store, open_store

_ASKED_AT_ONCE = 16


def shapes(job: JobSpec, root: str) -> tuple[CorpusShape, ...] | None:
    """The corpora's shards and their samples; None where a shard has no index yet, or a corpus cannot be read.

    What cannot be read is the preflight's to tell. Without the extra `data` no index can be read.
    """
    if find_spec("numpy") is None or find_spec("google_crc32c") is None:
        return None
    indexes = open_store(root).child(".corpora")
    try:
        found = [_shape(corpus, indexes) for corpus in job.data.corpora]
    except (DataError, StorageError):
        return None
    known = tuple(shape for shape in found if shape is not None)
    return known if len(known) == len(found) else None


def miscounted(job: JobSpec, found: Sequence[CorpusShape]) -> list[Fault]:
    """The `samples` of the spec that its corpora's indexes contradict."""
    return [
        Fault(
            f"data.corpora.{c}.samples",
            f"{corpus.samples} given, and the index counts {shape.samples}; it only helps to plan before there is an "
            f"index; write {shape.samples}, or leave it out",
        )
        for c, (corpus, shape) in enumerate(zip(job.data.corpora, found, strict=True))
        if corpus.samples not in (None, shape.samples)
    ]


def _shape(corpus: Corpus, indexes: Store) -> CorpusShape | None:
    from gmml_cluster.data.index import find_header
    from gmml_cluster.data.listing import list_shards

    with ThreadPoolExecutor(_ASKED_AT_ONCE) as pool:
        headers = list(pool.map(lambda file: find_header(file, indexes), list_shards(corpus.url)))
    samples = tuple(header.samples for header in headers if header is not None)
    return CorpusShape(corpus.weight, samples) if sum(samples) and len(samples) == len(headers) else None
