"""What the indexes of a job's corpora say before anything is submitted. Makes none that stays."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec

from gmml_cluster.errors import DataError, Fault, StorageError
from gmml_cluster.plan.lanes import CorpusShape
from gmml_cluster.spec.job import Corpus, JobSpec
from gmml_cluster.store.store import Store, open_store

_ASKED_AT_ONCE = 16


@dataclass(frozen=True)
class Indexed:
    """What indexes say.

    Attributes:
        shapes: the corpora's shards and their samples; None where one is not known.
        words: why a corpus is not known, where that is more than an index that is still to be made.
    """

    shapes: tuple[CorpusShape, ...] | None
    words: tuple[str, ...] = ()


def look_up(job: JobSpec, root: str) -> Indexed:
    """Read the indexes that there are. What cannot be read is the preflight's to refuse; here it is only told."""
    if not _can_read():
        return Indexed(None, ("no index can be read here; pip install 'gmml-cluster[data]' lets the plan know more",))
    indexes = open_store(root).child(".corpora")
    found: list[CorpusShape | None] = []
    words: list[str] = []
    for corpus in job.data.corpora:
        try:
            found.append(_shape(corpus, indexes))
        except (DataError, StorageError) as error:
            words.append(f"not known: {str(error).splitlines()[0]}")
    known = tuple(shape for shape in found if shape is not None)
    return Indexed(known if len(known) == len(job.data.corpora) else None, tuple(words))


def count(job: JobSpec) -> Indexed:
    """Count the samples of shards in folders by their headers; object stores would have to be read in full.

    Raises:
        SpecError: a corpus has another number of samples than its spec says, or none.
        DataError: a shard is damaged.
    """
    if not _can_read() or any(corpus.url.startswith("s3://") for corpus in job.data.corpora):
        return Indexed(None)
    from gmml_cluster.data.corpus import pin

    return Indexed(pin(job.data.corpora).shapes)


def miscounted(job: JobSpec, shapes: Sequence[CorpusShape]) -> list[Fault]:
    """The `samples` of the spec that its corpora's indexes contradict."""
    return [
        Fault(
            f"data.corpora.{c}.samples",
            f"{corpus.samples} given, and the index counts {shape.samples}; it only helps to plan before there is an "
            f"index; write {shape.samples}, or leave it out",
        )
        for c, (corpus, shape) in enumerate(zip(job.data.corpora, shapes, strict=True))
        if corpus.samples not in (None, shape.samples)
    ]


def _can_read() -> bool:
    return find_spec("numpy") is not None and find_spec("google_crc32c") is not None


def _shape(corpus: Corpus, indexes: Store) -> CorpusShape | None:
    from gmml_cluster.data.index import find_header
    from gmml_cluster.data.listing import list_shards

    with ThreadPoolExecutor(_ASKED_AT_ONCE) as pool:
        headers = list(pool.map(lambda file: find_header(file, indexes), list_shards(corpus.url)))
    samples = tuple(header.samples for header in headers if header is not None)
    return CorpusShape(corpus.weight, samples) if sum(samples) and len(samples) == len(headers) else None
