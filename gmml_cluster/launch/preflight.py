"""Before anything is submitted: do what the run will do, once and small, and say what would stop it."""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

from gmml_cluster.errors import DataError, Fault, SpecError, StorageError
from gmml_cluster.launch.protocol import Submission
from gmml_cluster.launch.registry import launcher_named
from gmml_cluster.spec.job import Data
from gmml_cluster.store.open import open_store
from gmml_cluster.store.probe import probe

_LOOKS, _LOOK_BYTES = 8, 2**16
_IMAGE_MARKS = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF")

_log = logging.getLogger(__name__)


def preflight(submission: Submission, data: Data) -> list[Fault]:
    """All that would stop this submission: store, corpora, memory, and what its launcher finds; empty if nothing.

    Leaves nothing behind, and raises for nothing that a user can fix.
    """
    found = [*_store_faults(submission.root), *_corpus_faults(data), *_memory_faults(submission)]
    try:
        return found + launcher_named(submission.profile.launcher).preflight(submission)
    except SpecError as error:
        return found + error.faults


def _store_faults(root: str) -> list[Fault]:
    """A folder that does not exist yet is probed at the nearest one that does, so that none is left behind."""
    try:
        probe(open_store(root if "://" in root else _existing(Path(root))))
    except SpecError as error:
        return error.faults
    except StorageError as error:
        return [Fault(root, str(error).removeprefix(f"{root}: "))]
    return []


def _existing(folder: Path) -> Path:
    return next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())


def _corpus_faults(data: Data) -> list[Fault]:
    refusal = _judge(data.max_pixels)
    found = ((corpus.url, _unreadable(corpus.url, corpus.image or "", refusal)) for corpus in data.corpora)
    return [Fault(url, told) for url, told in found if told is not None]


def _unreadable(url: str, image: str, refusal: Callable[[bytes], str | None]) -> str | None:
    """Reads a corpus until one sample opens as an image; what is wrong where none of the first few does."""
    wanted = f"members whose field is {image} count" if image else "members named .jpg, .jpeg, .png or .webp count"
    told = f"no shard holds an image; {wanted}; `gmml corpus index` says what the shards hold"
    try:
        for where, data in islice(_samples(url, image), _LOOKS):
            reason = refusal(data)
            if reason is None:
                return None
            told = f"{where}: {reason}; {_LOOKS} samples were tried and none is an image; pack it anew"
    except (DataError, StorageError) as error:
        return str(error).removeprefix(f"{url}: ")
    return told


def _samples(url: str, image: str) -> Iterator[tuple[str, bytes]]:
    from gmml_cluster.data.corpus.listing import list_shards, split_url, store_of
    from gmml_cluster.data.corpus.tar import read_samples

    for shard in list_shards(url):
        folder, name = split_url(shard.url)
        read = partial(store_of(folder).get, name)
        for sample in read_samples(shard.url, read, shard.size, _LOOK_BYTES, image=image):
            yield f"{shard.url}: {sample.name}", read(sample.offset, sample.length)


def _judge(max_pixels: int | None) -> Callable[[bytes], str | None]:
    """Says why bytes are no image: by decoding where a decoder is installed, else by their first bytes."""
    try:
        from gmml_cluster.data.reader.decode import BadImage, decode
    except ImportError:
        _log.warning("no image decoder is installed here: of a sample of each corpus only the first bytes are checked")
        return lambda data: None if data.startswith(_IMAGE_MARKS) else f"begins with {data[:8].hex()}"

    def decoded(data: bytes) -> str | None:
        try:
            decode(data, max_pixels or sys.maxsize)
        except BadImage as error:
            return str(error)
        return None

    return decoded


def _memory_faults(submission: Submission) -> Iterator[Fault]:
    """CPU ranks share the node's memory; what a GPU holds is known on the node alone."""
    limit = memory_limit(submission)
    needed = submission.plan.memory.total_bytes * submission.plan.ranks_per_node
    if limit is not None and needed > limit:
        yield Fault(
            "memory",
            f"{submission.plan.ranks_per_node} ranks need about {needed / 2**30:.1f} GiB of a node; it has "
            f"{limit / 2**30:.1f} GiB for them; set batch.micro lower, engine.zero higher, or ask for more memory",
        )


def memory_limit(submission: Submission) -> int | None:
    """Bytes that the ranks of a node may hold; None where it is not known here."""
    profile = submission.profile
    if profile.launcher == "local":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None if profile.slurm.gpus_per_node else profile.slurm.memory_per_node
