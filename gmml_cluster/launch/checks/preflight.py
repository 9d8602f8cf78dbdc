"""Before anything is submitted: do what the run will do, once and small, and report what would stop it."""

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
from gmml_cluster.plan.notes import memory_hint
from gmml_cluster.run.saving.space import room_lacking, room_refused
from gmml_cluster.spec.job import Data
from gmml_cluster.spec.notify import Notify
from gmml_cluster.store.open import open_store
from gmml_cluster.store.probe import probe

_LOOKS, _LOOK_BYTES = 8, 2**16
_IMAGE_MARKS = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF")

_log = logging.getLogger(__name__)


def preflight(submission: Submission, data: Data, notify: Notify | None = None) -> list[Fault]:
    """All that would stop this submission: store, corpora, memory, and what its launcher finds; empty if nothing.

    A webhook whose address will not be known where the ranks run is refused too.

    Leaves nothing behind, and raises for nothing that a user can fix.
    """
    found = [*store_faults(submission.root), *_space_faults(submission), *_corpus_faults(data)]
    found += [*_memory_faults(submission), *_webhook_faults(submission, notify)]
    try:
        return found + launcher_named(submission.profile.launcher).preflight(submission)
    except SpecError as error:
        return found + error.faults


def store_faults(root: str) -> list[Fault]:
    """A folder that does not exist yet is probed at the nearest one that does, so that none is left behind."""
    folder = None if "://" in root else _existing(Path(root))
    if folder is not None and not folder.is_dir():
        return [Fault(root, f"{folder} is a file; runs lie in a folder", "name a folder as `root` of the profile")]
    try:
        probe(open_store(root if folder is None else folder))
    except SpecError as error:
        return error.faults
    except StorageError as error:
        return error.faults or [Fault(root, str(error))]
    return []


def _existing(folder: Path) -> Path:
    return next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())


def _space_faults(submission: Submission) -> list[Fault]:
    """A disk that has no room for a single checkpoint; where only fewer fit than are kept is a note of the plan."""
    asked = submission.root, submission.plan.checkpoint_bytes
    lacking = room_lacking(*asked) or room_refused(*asked)
    return [] if lacking is None else [lacking]


def _corpus_faults(data: Data) -> list[Fault]:
    refusal = _judge(data.max_pixels)
    return [fault for corpus in data.corpora for fault in _unreadable(corpus.url, corpus.image or "", refusal)]


def _unreadable(url: str, image: str, refusal: Callable[[bytes], str | None]) -> list[Fault]:
    """Reads a corpus until one sample opens as an image; what is wrong where none of the first few does."""
    wanted = f"members whose field is {image} count" if image else "members named .jpg, .jpeg, .png or .webp count"
    problem = f"no shard holds an image; {wanted}; `gmml corpus index` says what the shards hold"
    try:
        for where, data in islice(_samples(url, image), _LOOKS):
            reason = refusal(data)
            if reason is None:
                return []
            problem = f"{where}: {reason}; {_LOOKS} samples were tried and none is an image; pack it again"
    except (DataError, StorageError) as error:
        return error.faults or [Fault(url, str(error))]
    return [Fault(url, problem)]


def _samples(url: str, image: str) -> Iterator[tuple[str, bytes]]:
    from gmml_cluster.data.corpus.listing import list_shards, split_url, store_of
    from gmml_cluster.data.corpus.parquet import ImageTable, is_parquet
    from gmml_cluster.data.corpus.tar import read_samples

    for shard in list_shards(url):
        folder, name = split_url(shard.url)
        read = partial(store_of(folder).get, name)
        if is_parquet(name):
            rows = ImageTable(shard.url, read, shard.size, image or None)
            yield from ((f"{shard.url}: row {row.number}", row.image) for row in rows if row.image)
            continue
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
    """A rank that needs more than its GPU has, or on CPUs than its share of the node; nothing where that is not known.

    The estimate is taken without its margin: what only may not fit is a note of the plan.
    """
    plan = submission.plan
    memory, room = plan.memory, plan.room
    if room is not None and memory.total_bytes > room.total_bytes:
        need, have = (f"{count / 2**30:.1f} GiB" for count in (memory.total_bytes, room.total_bytes))
        hint = memory_hint(memory, plan.zero[0], plan.ranks[0])
        yield Fault("memory", f"a rank needs about {need} and has {have}, {room.source}", hint)


def _webhook_faults(submission: Submission, notify: Notify | None) -> Iterator[Fault]:
    """The variable of its address must reach what restarts the ranks."""
    name, profile = notify.variable if notify else None, submission.profile
    if name is None or name in profile.environment:
        return
    if profile.launcher != "local" and name not in profile.secrets:
        yield Fault("notify.webhook", f"{name} is not passed on to the job", f"write secrets: [{name}] in the profile")
    elif profile.launcher != "ray" and name not in os.environ:  # a node of Ray has its own, which its preflight asks
        yield Fault("notify.webhook", f"{name} is not set in this shell", "export it and submit again")
