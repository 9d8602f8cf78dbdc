"""A rank's share of its node: cores for decoding, memory for reading ahead."""

import os
from typing import Literal

from gmml_cluster.plan import memory
from gmml_cluster.plan.machine import usable_memory_bytes

_MOST_DECODE_THREADS = 32


def decode_threads(local_ranks: int) -> int:
    """Threads that decode: one a core of the rank, less the core of the training loop where there are more than one.

    More than 32 would wait for each other: a sample holds the interpreter lock for some 30 us, and a small one is
    decoded in 100.
    """
    return max(1, min(_cores(local_ranks) - 1, _MOST_DECODE_THREADS))


def _cores(local_ranks: int) -> int:
    """What the launcher gave each rank, and no more than it may use; else the ranks share what this one may use."""
    usable = len(os.sched_getaffinity(0))
    given = os.environ.get("GMML_CPUS") or os.environ.get("SLURM_CPUS_PER_TASK")
    return max(1, min(int(given), usable) if given else usable // local_ranks)


def read_ahead_bytes(setting: int | Literal["auto"], local_ranks: int) -> int:
    """`data.read_ahead` in bytes, of the memory that this node or container has."""
    found = memory.read_ahead_bytes(setting, usable_memory_bytes(), local_ranks)
    assert found is not None  # it is only where the memory is unknown
    return found
