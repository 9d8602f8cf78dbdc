"""A process that measures when it is asked: it reads amounts from standard input and prints a rate for each."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path


class MeasuringProcess:
    """Such a process, as a context; at its end the process sees the end of its input and is waited for."""

    def __init__(self, command: Sequence[str | Path]) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> "MeasuringProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def of(self, amount: int) -> Callable[[], float]:
        """Asks for a rate over so much."""
        write, read = self._process.stdin, self._process.stdout
        assert write is not None
        assert read is not None

        def measure() -> float:
            write.write(f"{amount}\n")
            write.flush()
            return float(read.readline())

        return measure

    def peak_mib(self) -> float:
        """The most memory that the process has had resident, in MiB."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024


class Turns:
    """The other side, for a loop that cannot be left between two steps: it is held up until the next turn.

    Args:
        images: of a step.
    """

    def __init__(self, images: int) -> None:
        self._images, self._steps, self._left, self._began = images, 0, 0, 0.0

    def step_ended(self) -> None:
        """To be called before the first step and after each; ends the process at the end of the input."""
        if self._left > 1:
            self._left -= 1
            return
        if self._steps:
            print(self._steps * self._images / (time.perf_counter() - self._began), flush=True)
        line = sys.stdin.readline()
        if not line:
            os._exit(0)
        self._steps = self._left = int(line)
        self._began = time.perf_counter()
