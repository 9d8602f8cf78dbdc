"""What the indexes of a job's corpora say before anything is submitted. Writes no index."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec

from gmml_cluster.data.corpus.listing import ShardFile, indexes_below, list_shards, split_url, store_of
from gmml_cluster.data.corpus.parquet import ImageTable, is_parquet
from gmml_cluster.data.corpus.summary import Summary, summarise
from gmml_cluster.errors import DataError, Fault, PreflightError, StorageError
from gmml_cluster.launch.checks.evaluation import look_at_evaluation
from gmml_cluster.plan.evaluation import LabelledCounts
from gmml_cluster.plan.sample_layout import CorpusShape
from gmml_cluster.spec.job import CorpusSpec, JobSpec
from gmml_cluster.store.open import scheme_of
from gmml_cluster.store.protocol import Store
from gmml_cluster.wording import counted

_SHARDS_LOOKED_AT = 4


@dataclass(frozen=True)
class Indexed:
    """What indexes say.

    Attributes:
        shapes: the corpora's shards and their samples; None where one is not known.
        notes: what each corpus holds, or why that is not known, and whether its shards are sorted, with the cure.
        held: what each corpus holds; None where that is not known.
        scored: images with a class in the corpora of `evaluate`.
    """

    shapes: tuple[CorpusShape, ...] | None
    notes: tuple[str, ...] = ()
    held: tuple[Summary | None, ...] = ()
    scored: LabelledCounts = field(default_factory=LabelledCounts)


def look_up(job: JobSpec, root: str, *, take_counts: bool = False) -> Indexed:
    """Read the indexes that there are. What cannot be read is refused by the preflight; here it only makes a note.

    Args:
        job: the job.
        root: where indexes may lie that are not beside their shards.
        take_counts: whether `samples` of the spec is taken as it is of a corpus in an object store, which is not asked.
    """
    looked = look_at_evaluation(job, root)
    found = _look_at_corpora(job, root, take_counts=take_counts)
    return replace(found, notes=(*found.notes, *map(str, looked.faults), *looked.notes), scored=looked.labelled)


def _look_at_corpora(job: JobSpec, root: str, *, take_counts: bool) -> Indexed:
    if not _can_read():
        return Indexed(None, ("no index can be read here; pip install 'gmml-cluster[data]' lets the plan know more",))
    found = [
        (None, [f"{corpus.url}: not listed, as `samples` is given; its submission reads the indexes"], None)
        if take_counts and corpus.samples is not None and scheme_of(corpus.url) == "s3"
        else _look_at(corpus, root)
        for corpus in job.data.corpora
    ]
    known = tuple(shape for shape, _, _ in found if shape is not None)
    notes = tuple(note for _, notes, _ in found for note in notes)
    return Indexed(known if len(known) == len(found) else None, notes, tuple(held for _, _, held in found))


def count(job: JobSpec) -> Indexed:
    """Count the samples of tars in folders by their headers; all else would have to be read in full.

    Raises:
        SpecError: a corpus has another number of samples than its spec says, or none.
        DataError: a shard is damaged.
    """
    if not _can_read() or any(map(_needs_every_byte, job.data.corpora)):
        return Indexed(None)
    from gmml_cluster.data.corpus.pin import pin

    found = pin(job.data.corpora)
    notes = [
        note for corpus, held in zip(found.corpora, found.summaries, strict=True) for note in held.notes_of(corpus.url)
    ]
    return Indexed(found.shapes, tuple(notes), found.summaries)


def _needs_every_byte(corpus: CorpusSpec) -> bool:
    return corpus.url.startswith("s3://") or is_parquet(list_shards(corpus.url, corpus.image)[0].url)


def refuse_empty(job: JobSpec, held: Sequence[Summary | None]) -> None:
    """Refuse a job with a corpus whose indexes count no sample, or the headers of a few shards in a folder without one.

    It cannot train.

    Raises:
        PreflightError: the corpora that are empty, and what was passed over in them.
    """
    faults = [
        Fault(
            f"data.corpora.{c}.url",
            "; ".join([f"{corpus.url} holds no sample", *summary.notes]),
            "images are members named .jpg, .jpeg, .png or .webp, or of the field that `image` names; pack them so",
        )
        for c, (corpus, summary) in enumerate(
            zip(job.data.corpora, held, strict=False)
        )  # none is known where none can be read
        if summary is not None and not summary.samples
    ]
    for c, corpus in enumerate(job.data.corpora):
        if (held[c] if c < len(held) else None) is None and _shows_no_sample(corpus):
            problem = f"none of the members of {corpus.url} is {_wanted(corpus.image)}, so it holds no sample"
            faults.append(Fault(f"data.corpora.{c}.url", problem, "`gmml corpus index` says what its shards hold"))
    if faults:
        raise PreflightError(faults)


def _wanted(image: str | None) -> str:
    return f"an image of the field {image}" if image else "named .jpg, .jpeg, .png or .webp"


def _shows_no_sample(corpus: CorpusSpec) -> bool:
    """Whether all shards of a corpus of few, in a folder, can be read and hold no sample; stops at the first one."""
    try:
        shards = [] if corpus.url.startswith("s3://") else list_shards(corpus.url, corpus.image)
        if not 0 < len(shards) <= _SHARDS_LOOKED_AT:
            return False
        return not any(True for shard in shards for _ in _samples_of(shard))
    except (DataError, StorageError):
        return False  # what cannot be read is refused by the preflight


def _samples_of(shard: ShardFile) -> Iterator[object]:
    from gmml_cluster.data.corpus.tar import HEADER_BLOCK_BYTES, read_samples

    folder, name = split_url(shard.url)
    read = partial(store_of(folder).get, name)
    if is_parquet(name):
        return (row for row in ImageTable(shard.url, read, shard.size, shard.image or None) if row.image)
    return read_samples(shard.url, read, shard.size, HEADER_BLOCK_BYTES, image=shard.image)


def miscounted(job: JobSpec, shapes: Sequence[CorpusShape]) -> list[Fault]:
    """The `samples` of the spec that its corpora's indexes contradict."""
    return [
        Fault(
            f"data.corpora.{c}.samples",
            f"{corpus.samples} given, and the index counts {shape.samples}; it only helps to plan without an index",
            f"write {shape.samples}, or leave it out",
        )
        for c, (corpus, shape) in enumerate(zip(job.data.corpora, shapes, strict=True))
        if corpus.samples not in (None, shape.samples)
    ]


def _can_read() -> bool:
    return find_spec("numpy") is not None and find_spec("google_crc32c") is not None


def _look_at(corpus: CorpusSpec, root: str) -> tuple[CorpusShape | None, list[str], Summary | None]:
    """The corpus' shape, None where it is not known or has no sample, notes of it, and what it holds if known."""
    from gmml_cluster.data.corpus.merged import find_headers

    try:
        files, indexes = list_shards(corpus.url, corpus.image), indexes_below(root)
        headers = find_headers(files, indexes)
        samples = tuple(header.samples for header in headers if header is not None)
        if len(samples) < len(files):
            missing = len(files) - len(samples)
            note = _not_indexed(corpus.url, root, missing, len(files), parquet=is_parquet(files[0].url))
            return None, [note], None
        filled = [file for file, held in zip(files, samples, strict=True) if held]
        held = summarise(header for header in headers if header is not None)
        notes = list(held.notes_of(corpus.url))
        if not filled:
            return None, notes, held
        return CorpusShape(corpus.weight, samples), [*notes, *_sorted(corpus.url, filled, indexes)], held
    except (DataError, StorageError) as error:
        return None, [f"not known: {str(error).splitlines()[0]}"], None


def _not_indexed(url: str, root: str, missing: int, shards: int, *, parquet: bool) -> str:
    what = f"{url}: no index for {missing} of {counted(shards, 'shard')}"
    cost = "every byte" if parquet or url.startswith("s3://") else "all headers"
    cure = f"`gmml corpus index '{url}' --root {root}` does it beforehand"
    return f"{what}; rank 0 of the first attempt reads {cost} of them while the others wait; {cure}"


def _sorted(url: str, files: Sequence[ShardFile], indexes: Store) -> Iterator[str]:
    """A note where the labels of a few shards, spread over the corpus, are sorted."""
    from gmml_cluster.data.corpus.index import find
    from gmml_cluster.data.corpus.labels import are_sorted

    looks = min(_SHARDS_LOOKED_AT, len(files))
    found = (find(files[len(files) * look // looks], indexes) for look in range(looks))
    if not are_sorted([index.records["label"] for index in found if index is not None]):
        return
    rule = "the images of a group and of a window lie near each other in a shard, so they would be of few classes"
    yield f"{url}: the labels of {looks} of {len(files)} shards look sorted; {rule}; `gmml corpus pack` shuffles them"
