"""Before anything is submitted: do what the run will do, once and small, and say what would stop it."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from gmml_cluster.errors import DataError, Fault, SpecError, StorageError
from gmml_cluster.launch.launcher import Submission, launcher_named
from gmml_cluster.store.probe import probe
from gmml_cluster.store.store import open_store

_LOOK_BYTES = 2**16
_IMAGE_MARKS = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF")


def preflight(submission: Submission) -> list[Fault]:
    """All that would stop this submission: store, corpora, memory, and what its launcher finds; empty if nothing.

    Leaves nothing behind, and raises for nothing that a user can mend.
    """
    found = [*_store_faults(submission.root), *_corpus_faults(submission.corpora), *_memory_faults(submission)]
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
        return [Fault(root, str(error))]
    return []


def _existing(folder: Path) -> Path:
    return next(parent for parent in (folder, *folder.absolute().parents) if parent.is_dir())


def _corpus_faults(corpora: tuple[str, ...]) -> list[Fault]:
    return [Fault(url, told) for url in corpora if (told := _unreadable(url)) is not None]


def _unreadable(url: str) -> str | None:
    """Reads the first sample of a corpus, and says what is wrong with it."""
    from gmml_cluster.data.listing import list_shards, split_url, store_of
    from gmml_cluster.data.shards import read_samples

    try:
        for shard in list_shards(url):
            folder, name = split_url(shard.url)
            read = partial(store_of(folder).get, name)
            for sample in read_samples(shard.url, read, shard.size, _LOOK_BYTES):
                return _not_an_image(f"{shard.url}: {sample.name}", read(sample.offset, sample.length))
    except (DataError, StorageError) as error:
        return str(error)
    return "no shard holds an image; members named .jpg, .jpeg, .png or .webp count; pack it anew"


def _not_an_image(where: str, data: bytes) -> str | None:
    if data.startswith(_IMAGE_MARKS):
        return None
    return f"{where} begins with {data[:8].hex()}; neither JPEG, PNG nor WebP begins so; pack the corpus anew"


def _memory_faults(submission: Submission) -> Iterator[Fault]:
    """CPU ranks share the node's memory; what a GPU holds is known on the node alone."""
    limit = memory_limit(submission)
    needed = submission.bytes_per_rank * submission.ranks_per_node
    if limit is not None and needed > limit:
        yield Fault(
            "memory",
            f"{submission.ranks_per_node} ranks need about {needed / 2**30:.1f} GiB of a node; it has "
            f"{limit / 2**30:.1f} GiB for them; set batch.micro lower, engine.zero higher, or ask for more memory",
        )


def memory_limit(submission: Submission) -> int | None:
    """Bytes that the ranks of a node may hold; None where it is not known here."""
    profile = submission.profile
    if profile.launcher == "local":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None if profile.slurm.gpus_per_node else profile.slurm.memory_per_node
