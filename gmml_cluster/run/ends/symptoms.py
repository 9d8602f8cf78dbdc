"""What the words of an error, or of what a rank printed, prove of the cause: one table for ranks and launchers.

Imports neither torch nor pydantic.
"""

import re
from collections.abc import Iterable
from typing import Literal, NamedTuple

from gmml_cluster.run.ends.causes import Cause

Kind = Literal["own", "lost_peer", "timeout"]
"""Whether an error is the rank's own, or follows from a peer that is gone or that did not come."""

UNWRITTEN = "was not written within"
"""Part of the message of a rank that waited in vain for what another rank writes."""


class Symptom(NamedTuple):
    """Words and what they prove."""

    pattern: re.Pattern[str]
    kind: Kind
    cause: Cause


def _of(kind: Kind, cause: Cause, *patterns: str) -> tuple[Symptom, ...]:
    return tuple(Symptom(re.compile(pattern), kind, cause) for pattern in patterns)


# Numbers of the driver's faults that NVIDIA's catalogue ascribes to the program: an illegal access, a fault of its
# memory unit, a channel that was reset or cleaned up.
_DEVICE = r"[Uu]ncorrectable ECC|NVRM: Xid \([^)]*\): (?!(13|31|43|45)\b)|\bXid \([^)]*\): (?!(13|31|43|45)\b)"

_MESSAGES: tuple[Symptom, ...] = (
    # in the order in which they are tried: NCCL's and CUDA's messages quote each other, and the first that fits is the
    # closest to the origin
    *_of(
        "own",
        "out_of_memory",
        "out of memory",  # CUDA, and torch's OutOfMemoryError
        "[Cc]an(no|')t allocate memory",  # torch's allocator on CPU, and the kernel's ENOMEM
        "CUBLAS_STATUS_ALLOC_FAILED",
        "CUDNN_STATUS_ALLOC_FAILED",
    ),
    *_of(
        "own",
        "storage",  # in words, where a library has lost the error's number
        "No space left on device",
        "Disk quota exceeded",
        "Stale file handle",
        "Read-only file system",
        "Input/output error",
        "Transport endpoint is not connected",
        "Temporary failure in name resolution",
        "Name or service not known",
    ),
    *_of(
        "own",
        "hardware",
        _DEVICE,
        "ECC error",
        "unspecified launch failure",
        "CUDA-capable device\\(s\\) is/are busy or unavailable",
        "no CUDA-capable device is detected",
        "GPU is lost",
        "fallen off the bus",
        "hardware (error|stack error)",
        "NVLink",
    ),
    # faults of the program: a kernel that reads where it may not, on any device
    *_of("own", "error", "illegal memory access", "misaligned address", "device-side assert", "illegal instruction"),
    *_of("own", "hardware", "ncclUnhandledCudaError"),
    # a rank that waited for a lost peer raises these; another rank's own error outranks them
    *_of("timeout", "hardware", "NCCL watchdog", "Watchdog caught collective operation timeout"),
    *_of("lost_peer", "hardware", "ncclSystemError", "ncclInternalError"),
    *_of("lost_peer", "lost", "Connection closed by peer", "Connection reset by peer", "Broken pipe"),
    *_of("lost_peer", "lost", "Connection refused", "No route to host", "NCCL"),  # ncclRemoteError among them
    *_of("timeout", "lost", "Timed out waiting", UNWRITTEN),
)

# What others than the rank write into its output, or what it writes when it can say nothing else any more. Lines of a
# rank that works may quote the messages above.
_OUTPUT: tuple[Symptom, ...] = (
    *_of("own", "hang", r"^Timeout \(\d+:\d\d:\d\d(\.\d+)?\)!"),  # the timer of the watchdog, of Python's own
    *_of("own", "hardware", _DEVICE, "unspecified launch failure"),
    *_of(
        "own",
        "out_of_memory",
        r"slurmstepd: error: Detected \d+ oom[-_]kill event",
        r"slurmstepd: error: (Step|Job|StepId=)\S* .*exceeded memory limit",
        r"Out of memory: Killed process",
    ),
)

_KILLS: dict[str, Cause] = {"PREEMPTION": "preempted", "TIME LIMIT": "time_limit", "NODE FAILURE": "node_lost"}
# slurmstepd writes it for the job and again for each step; the step's line appears in files of ranks alone.
_DUE_TO = re.compile(r"JOB \S+ ON \S+ CANCELLED AT \S+ DUE TO ([A-Z ]*[A-Z])")


def of_kill(line: str) -> tuple[Cause | None, str] | None:
    """Why SLURM killed a job, and the line in its output that says so; None where the line says nothing of it."""
    found = _DUE_TO.search(line)
    return None if found is None else (_KILLS.get(found[1]), line.strip())


def of_message(message: str) -> tuple[Kind, Cause] | None:
    """Kind and cause that an error's message proves; None where it proves nothing."""
    found = (symptom for symptom in _MESSAGES if symptom.pattern.search(message))
    return next(((symptom.kind, symptom.cause) for symptom in found), None)


def names_device(line: str) -> bool:
    """Whether a line of a rank's output proves that its node's device is broken."""
    found = of_output([line])
    return found is not None and found[0] == "hardware"


def of_output(lines: Iterable[str]) -> tuple[Cause, str] | None:
    """The cause that a line of a rank's output proves, and the line; None where none does."""
    for line in lines:
        for symptom in _OUTPUT:
            if symptom.pattern.search(line):
                return symptom.cause, line.strip()
    return None
