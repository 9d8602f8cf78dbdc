"""A rank's share of its node: cores for decoding, memory for reading ahead."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Literal

_MOST_DECODE_THREADS = 32
_SHARE_OF_MEMORY = 1 / 16
_LEAST_AUTO_BYTES, _MOST_AUTO_BYTES = 2**26, 2**30
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def decode_threads(local_ranks: int) -> int:
    """Threads that decode: one a core of the rank, less the core of the training loop where there are more than one.

    More than 32 would wait for each other: a sample holds the interpreter lock for some 30 us, and a small one is
    decoded in 100.
    """
    return max(1, min(_cores(local_ranks) - 1, _MOST_DECODE_THREADS))


def _cores(local_ranks: int) -> int:
    """SLURM binds each task to its CPUs and says how many; elsewhere the ranks share what this process may use."""
    usable, given = len(os.sched_getaffinity(0)), os.environ.get("SLURM_CPUS_PER_TASK")
    return max(1, min(int(given), usable) if given else usable // local_ranks)


def read_ahead_bytes(setting: int | Literal["auto"], local_ranks: int) -> int:
    """`data.read_ahead` in bytes; `auto` is a sixteenth of the node's memory over its ranks, 64 MiB to 1 GiB."""
    if setting != "auto":
        return setting
    share = int(_memory_bytes() * _SHARE_OF_MEMORY) // local_ranks
    return min(max(share, _LEAST_AUTO_BYTES), _MOST_AUTO_BYTES)


def _memory_bytes() -> int:
    """The node's memory, or the container's limit where that is less."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in _CGROUP_LIMITS:
        with suppress(OSError, ValueError):  # no such file, or the word `max`
            found.append(int(Path(path).read_text()))
    return min(found)
