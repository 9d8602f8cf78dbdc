"""Makes a row in a process of its own, so that a crash or a hang costs no other row.

`python -m benchmarks.gpu_check.processes FUNCTION VARIANT SETTING RESULT` is the process of a row.
"""

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import asdict
from pathlib import Path

from benchmarks.gpu_check.result import CannotRun, Result, Setting
from benchmarks.gpu_check.rows import Row

ROOT = Path(__file__).parents[2]
_TAIL_LINES = 12
_CPU = {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}


def make(row: Row, setting: Setting) -> tuple[Result, float]:
    """The row's result and the seconds that it took.

    The process leads a group, and on a time-out the whole group is killed: rows start processes of their own.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        output, written = Path(folder) / "output", Path(folder) / "result"
        command = [sys.executable, "-m", __name__, row.function, row.variant, json.dumps(setting.to_json())]
        with output.open("wb") as out:
            process = subprocess.Popen(
                [*command, str(written)],
                cwd=ROOT,
                env=environment(setting),
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                code: int | None = process.wait(row.limit_s)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                _kill_group(process)
        return _read(written, output, code, row.limit_s), time.monotonic() - began


def environment(setting: Setting) -> dict[str, str]:
    """Of a row's process; on a CPU no GPU is visible to it."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path, **(_CPU if setting.device == "cpu" else {})}


def _kill_group(process: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(ProcessLookupError):  # all of it has left
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _read(written: Path, output: Path, code: int | None, limit_s: float) -> Result:
    if written.exists() and code == 0:
        return Result(**json.loads(written.read_text()))
    tail = "\n".join(output.read_text(errors="replace").splitlines()[-_TAIL_LINES:])
    if code is None:
        return Result("timed out", {}, f"no result within {limit_s:g} s\n{tail}")
    how = f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exit code {code}"
    return Result("crashed", {}, f"{how}\n{tail}")


def call(function: str, variant: str, setting: Setting) -> Result:
    """The result of `module:name`; its exception is one too."""
    module, name = function.split(":")
    try:
        result: Result = getattr(importlib.import_module(module), name)(variant, setting)
    except CannotRun as reason:
        return Result("not run", {}, str(reason))
    except Exception as error:
        frames = "".join(traceback.format_tb(error.__traceback__)[-3:])
        return Result("failed", {}, f"{type(error).__name__}: {error}\n{frames}")
    return result


def main(function: str, variant: str, setting: str, written: str) -> None:
    """The process of a row. The result is renamed into place, so that half of one is never read."""
    result = call(function, variant, Setting.from_json(json.loads(setting)))
    aside = Path(written + ".new")
    aside.write_text(json.dumps(asdict(result)))
    aside.rename(written)
    # DeepSpeed's and NCCL's threads may hang while the interpreter shuts down, which says nothing about the row
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
