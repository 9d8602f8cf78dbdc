"""The pool of faults, each with the cause that a run's log must name; docs/recovery.md has it as a table.

How a fault is injected:

- `ranks`: it happens to one of two real ranks (tests/fixtures/injected.py), which leave or are ended, and are judged.
- `code`: real code meets it, such as a reader whose shard is gone or a store whose server answers with 503.
- `words`: what the driver, NCCL or SLURM writes, as it was seen or as its documentation has it; no such hardware and no
  such site is here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tests.faults import acts, met
from tests.fixtures.injected import HANG_S, Injection

How = Literal["ranks", "code", "words"]


@dataclass(frozen=True)
class Slurm:
    """What is left of a start on SLURM of which no rank wrote an end.

    Attributes:
        rc: srun's exit code.
        stderr: of the batch script and rank 0.
        rank_1: stderr of rank 1.
        job: state of the job, by its controller; empty where that does not answer.
        nodes: state of its nodes.
        claimed: whether it had become an attempt.
    """

    rc: int
    stderr: str = ""
    rank_1: str = ""
    job: str = "RUNNING"
    nodes: str = ""
    claimed: bool = True


@dataclass(frozen=True)
class Fault:
    """A fault and what the ledger must name.

    Attributes:
        name: for people.
        by: an injection into ranks, code that raises, a message that a rank's library raises, or what SLURM leaves.
    """

    name: str
    cause: str
    by: Injection | Callable[[], None] | str | Slurm

    @property
    def how(self) -> How:
        """How it is injected."""
        return "ranks" if isinstance(self.by, Injection) else "code" if callable(self.by) else "words"


def _hang(act: Callable[[], None], on: int = 1) -> Injection:
    return Injection(act, on, HANG_S)


def _stands(act: Callable[[], None]) -> Injection:
    """Noticed by the watchdog of the ranks, whose timers must not be faster."""
    return Injection(act, 1, HANG_S, blocked_s=60.0)


_CANCELLED = "slurmstepd-n1: error: *** JOB 7 ON n1 CANCELLED AT 2026-11-29T11:28:26"
_TASK = "srun: error: n2: task 1: "
_EXITED = f"{_TASK}Exited with exit code 1\n"
_ABORTED = f"{_TASK}Aborted (core dumped)\n"

POOL: tuple[Fault, ...] = (
    # the process of a rank
    Fault("exception in the training code", "error", Injection(acts.error)),
    Fault("exception in the training code of rank 0", "error", Injection(acts.error, on=0)),
    Fault("failed assertion, with words of NCCL and CUDA in it", "error", Injection(acts.assertion)),
    Fault("endless recursion", "error", Injection(acts.recursion)),
    Fault("`sys.exit(3)` in the training code", "error", Injection(acts.leave)),
    Fault("exit code 3 without a word", "error", Injection(acts.leave_at_once)),
    Fault("exit code 3 of rank 0 without a word", "error", Injection(acts.leave_at_once, on=0)),
    Fault("SIGKILL, as by the kernel for lack of memory", "killed", Injection(acts.kill)),
    Fault("SIGKILL of rank 0", "killed", Injection(acts.kill, on=0)),
    Fault("SIGHUP, as of a closed terminal", "killed", Injection(acts.hang_up)),
    Fault("SIGXCPU, the limit of processor time", "killed", Injection(acts.cpu_limit)),
    Fault("segmentation fault", "error", Injection(acts.segfault)),
    Fault("segmentation fault of rank 0", "error", Injection(acts.segfault, on=0)),
    Fault("abort of a native library", "error", Injection(acts.abort)),
    Fault("bus error", "error", Injection(acts.bus_error)),
    Fault("illegal instruction", "error", Injection(acts.illegal_instruction)),
    Fault("floating-point exception", "error", Injection(acts.floating_point)),
    # no progress
    Fault("interpreter's lock held for ever by native code", "hang", _hang(acts.hold_gil)),
    Fault("interpreter's lock of rank 0 held for ever", "hang", _hang(acts.hold_gil, on=0)),
    Fault("SIGSTOP", "hang", _hang(acts.stop)),
    Fault("SIGSTOP of rank 0, which serves the others' keys", "hang", _hang(acts.stop, on=0)),
    Fault("endless loop in Python", "hang", _stands(acts.loop)),
    Fault("deadlock of two locks", "hang", _stands(acts.deadlock)),
    Fault("call into a library that never returns", "hang", _stands(acts.wait_in_c)),
    # memory, disk, network of a rank
    Fault("no host memory for an array", "out_of_memory", Injection(acts.host_memory)),
    Fault("no memory for a tensor on the processor", "out_of_memory", Injection(acts.tensor_memory)),
    Fault("disk full", "storage", Injection(acts.full_disk)),
    Fault("too many open files", "error", Injection(acts.open_files)),
    Fault("network between two ranks cut in both directions", "lost", Injection(acts.partition)),
    # stores, shards, checkpoints, numbers
    Fault("quota of the file system exceeded", "storage", met.quota),
    Fault("input/output error of the file system", "storage", met.input_output),
    Fault("stale handle of a network file system", "storage", met.stale_handle),
    Fault("network file system without its server", "storage", met.lost_mount),
    Fault("shared memory full, said in words alone", "storage", met.full_in_words),
    Fault("store answers 500", "storage", met.store_500),
    Fault("store answers 503", "storage", met.store_503),
    Fault("store resets every connection", "storage", met.store_resets),
    Fault("store refuses connections", "storage", met.store_refuses),
    Fault("store's name does not resolve", "storage", met.dns),
    Fault("credentials expired", "storage", met.credentials),
    Fault("clock of the node is wrong by more than the store accepts", "storage", met.clock),
    Fault("shard gone", "storage", met.missing_shard),
    Fault("shard cut off", "storage", met.cut_shard),
    Fault("byte of a shard flipped", "storage", met.flipped_byte),
    Fault("every checkpoint damaged", "error", met.damaged_checkpoints),
    Fault("three updates in a row not finite", "not_finite", met.not_finite),
    # GPUs and their network
    Fault("uncorrectable ECC error", "hardware", "CUDA error: uncorrectable ECC error encountered"),
    Fault("Xid 79, a GPU off the bus", "hardware", "NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus."),
    Fault("Xid 94, a contained ECC error", "hardware", "NVRM: Xid (PCI:0000:3b:00): 94, Contained ECC error"),
    Fault("Xid 31, a page fault of the program", "error", "NVRM: Xid (PCI:0000:3b:00): 31, pid=7, MMU Fault"),
    Fault("launch failure", "hardware", "CUDA error: unspecified launch failure"),
    Fault("GPU busy or unavailable", "hardware", "CUDA error: CUDA-capable device(s) is/are busy or unavailable"),
    Fault("no GPU any more", "hardware", "RuntimeError: No CUDA GPUs: no CUDA-capable device is detected"),
    Fault("NVLink error", "hardware", "CUDA error: uncorrectable NVLink error detected during the execution"),
    Fault("illegal memory access", "error", "CUDA error: an illegal memory access was encountered"),
    Fault("assertion in a kernel", "error", "CUDA error: device-side assert triggered"),
    Fault("CUDA out of memory", "out_of_memory", "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 79.15 GiB"),
    Fault("cuBLAS out of memory", "out_of_memory", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
    Fault("NCCL time-out", "hardware", "[Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7)"),
    Fault("NCCL: remote process gone", "lost", "NCCL error: ncclRemoteError: A call failed possibly due to a network"),
    Fault("NCCL: system call failed", "hardware", "NCCL error: unhandled system error, ncclSystemError: ibv_modify_qp"),
    Fault("NCCL: CUDA call failed", "hardware", "NCCL error: ncclUnhandledCudaError: Call to CUDA function failed"),
    Fault("gloo: no answer of a peer", "lost", "[gloo/unbound_buffer.cc:84] Timed out waiting 1800000ms for recv"),
    # SLURM
    Fault("SLURM: node failure", "node_lost", Slurm(1, "srun: error: Node failure on n2\n")),
    Fault("SLURM: node down without a word", "node_lost", Slurm(1, job="COMPLETING", nodes="n1=IDLE n2=DOWN*")),
    Fault("SLURM: preempted without grace", "preempted", Slurm(137, f"{_CANCELLED} DUE TO PREEMPTION ***\n")),
    Fault("SLURM: time limit", "time_limit", Slurm(143, f"{_CANCELLED} DUE TO TIME LIMIT ***\n")),
    Fault("SLURM: cancelled by hand", "cancelled", Slurm(143, job="COMPLETING", nodes="n1=IDLE n2=IDLE")),
    Fault("SLURM: cgroup out of memory", "out_of_memory",
          Slurm(137, f"slurmstepd: error: Detected 1 oom-kill event(s) in StepId=7.0.\n{_TASK}Out Of Memory\n")),
    Fault("SLURM: rank killed", "killed", Slurm(137, f"{_TASK}Killed\n{_EXITED}")),
    Fault("SLURM: segmentation fault", "error", Slurm(139, f"{_TASK}Segmentation fault (core dumped)\n")),
    Fault("SLURM: ECC error in a rank's output", "hardware",
          Slurm(1, _EXITED, "RuntimeError: CUDA error: uncorrectable ECC error encountered\n")),
    Fault("SLURM: aborted by NCCL's watchdog", "hardware",
          Slurm(134, _ABORTED, "[rank1]: ProcessGroupNCCL's watchdog got stuck for 480 seconds\n")),
    Fault("SLURM: ended by the watchdog's timer", "hang",
          Slurm(1, _EXITED, "Timeout (0:08:00)!\nThread 0x00007f (most recent call first):\n")),
    Fault("SLURM: controller down, ranks left after a notice", "notice", Slurm(77, job="")),
    Fault("SLURM: srun leaves 0 and no rank has ended", "lost", Slurm(0)),
    Fault("SLURM: library missing on a node", "start_failed",
          Slurm(79, f"{_TASK}Exited with exit code 79\n", "ImportError: libcudart.so.12\n", claimed=False)),
    Fault("SLURM: the profile's set-up fails", "start_failed",
          Slurm(1, "slurm.setup: module load cuda: exited with 1\n", claimed=False)),
    Fault("log out of reach when the attempt ended", "storage", Slurm(74)),
)  # fmt: skip


def table() -> str:
    """The pool in Markdown, as docs/recovery.md has it."""
    rows = [f"| {fault.name} | {fault.how} | `{fault.cause}` |" for fault in POOL]
    return "\n".join(["| fault | injected into | cause |", "|---|---|---|", *rows])


if __name__ == "__main__":
    print(table())
