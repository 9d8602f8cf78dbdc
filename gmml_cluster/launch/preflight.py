"""Before anything is submitted: do what the run will do, once and small, and say what would stop it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from gmml_cluster.errors import Fault, SpecError, StorageError
from gmml_cluster.launch.launcher import Submission, launcher_of
from gmml_cluster.store.probe import probe
from gmml_cluster.store.store import open_store

_LOOK_LIMIT_S = 120


def preflight(submission: Submission) -> list[Fault]:
    """All that would stop this submission: store, corpora, memory, and what its launcher finds; empty if nothing.

    Leaves nothing behind, and raises for nothing that a user can mend.
    """
    found = [*_store_faults(submission.root), *_corpus_faults(submission.corpora), *_memory_faults(submission)]
    try:
        return found + launcher_of(submission.profile).preflight(submission)
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
    """Reads one sample of each corpus, in a process of its own: decoders are heavy."""
    if not corpora:
        return []
    command = [sys.executable, "-m", "gmml_cluster.data.look", *corpora]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_LOOK_LIMIT_S)
    except subprocess.TimeoutExpired:
        told = f"no sample could be read in {_LOOK_LIMIT_S} s; training would wait as long; check the store"
        return [Fault("data.corpora", told)]
    if done.returncode == 0:
        return []
    lines = [line for line in done.stdout.splitlines() if line] or done.stderr.splitlines()[-1:]
    return [Fault("data.corpora", line) for line in lines]


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
