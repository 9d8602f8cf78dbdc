"""The half hour for whoever has a GPU: `make gpu-check`, or `python -m benchmarks.gpu_check`.

Each row is made by a process of its own within a time limit. Progress goes to standard error, the table to standard
output, and everything to a JSON file that is written again after each row.
"""

import argparse
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from benchmarks.gpu_check import report
from benchmarks.gpu_check.processes import ROOT, make
from benchmarks.gpu_check.result import Setting
from benchmarks.gpu_check.rows import PARTS, ROWS

_PHOTOS = ROOT.parent / "shared" / "data" / "photos"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the rows, print the table, and return the exit code: 1 where a row failed."""
    given = _parser().parse_args(arguments)
    if given.device == "cuda" and (problem := no_gpu()):
        print(f"gpu-check: {problem}")
        return 1 if _driver_lists_gpus() else 0
    setting = Setting(given.device, given.quick, given.data.absolute())
    chosen = [row for row in ROWS if not given.only or row.part in given.only or row.name in given.only]
    command = shlex.join(["python", "-m", "benchmarks.gpu_check", *(sys.argv[1:] if arguments is None else arguments)])
    began = datetime.now(UTC).isoformat(timespec="seconds")
    finished: list[report.Finished] = []
    for number, row in enumerate(chosen, start=1):
        print(f"{number} of {len(chosen)}: {row.name}", end=" ", file=sys.stderr, flush=True)
        result, seconds = make(row, setting)
        print(f"{result.outcome} ({seconds:.0f} s)", file=sys.stderr, flush=True)
        finished.append(report.Finished(row, result, seconds))
        content = report.document(finished, command=command, began=began, device=given.device, quick=given.quick)
        report.write(given.json, content)
    Console().print(report.table(finished, given.device))
    print(f"written to {given.json}")
    return 1 if report.bad(finished) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check", description=__doc__)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny sizes; figures mean nothing")
    parser.add_argument("--only", nargs="+", choices=[*PARTS, *(row.name for row in ROWS)], metavar="PART[/VARIANT]")
    parser.add_argument("--data", type=Path, default=_PHOTOS, help="folder of packed photographs; else digits are read")
    parser.add_argument("--json", type=Path, default=Path("gpu-check.json"))
    return parser


def no_gpu() -> str:
    """Why torch sees no GPU, in one line; empty where it sees one."""
    import torch  # here, as `--help` needs none

    if torch.cuda.is_available():
        return ""
    build = f"torch {torch.__version__} is a build for CPUs" if torch.version.cuda is None else "torch sees none"
    if _driver_lists_gpus():
        return f"nvidia-smi lists GPUs, but {build}; install torch for CUDA, or unset CUDA_VISIBLE_DEVICES"
    return f"no GPU on this machine ({build}); nothing was checked"


def _driver_lists_gpus() -> bool:
    program = shutil.which("nvidia-smi")
    if program is None:
        return False
    listed = subprocess.run([program, "-L"], capture_output=True, text=True, check=False)
    return listed.returncode == 0 and "GPU" in listed.stdout


if __name__ == "__main__":
    sys.exit(main())
