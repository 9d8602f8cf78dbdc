"""What an installation costs a login node, beside other launchers: `python -m benchmarks.install_cost`.

Each is installed into an environment of its own, as pipx does it, one after the other and `--rounds` times in turn,
from the index that pip is set up with, without pip's cache; the median counts. The wheel of this tree is built before.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
PEERS = ("torchx", "skypilot")
COMMANDS = {"gmml-cluster": ["gmml", "--help"], "torchx": ["torchx", "--help"], "skypilot": ["sky", "--help"]}


def installed(name: str, requirement: str, folder: Path) -> dict[str, float]:
    """Seconds of pip, size and number of packages, and seconds of the command's help at its second call."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    before = megabytes(folder)
    began = time.monotonic()
    pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", "--no-cache-dir", requirement], check=True)
    seconds = time.monotonic() - began
    packages = json.loads(subprocess.run([*pip, "list", "--format=json"], check=True, capture_output=True).stdout)
    program, *arguments = COMMANDS[name]
    times = [elapsed([str(folder / "bin" / program), *arguments]) for _ in range(2)]
    return {
        "seconds": seconds,
        "megabytes": megabytes(folder) - before,
        "packages": len(packages) - 2,  # pip and setuptools are the environment's own
        "help_s": times[1],
    }


def elapsed(command: list[str]) -> float:
    """Seconds of a command that prints and ends."""
    began = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    return time.monotonic() - began


def megabytes(folder: Path) -> float:
    """Size of the files below a folder, in 10^6 bytes."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir()) / 1e6


def main() -> None:
    """Install in turn and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    folder = Path(tempfile.mkdtemp(prefix="install-cost-"))
    try:
        build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
        subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
        (wheel,) = folder.glob("*.whl")
        found: dict[str, list[dict[str, float]]] = {}
        for number in range(rounds):
            for name, requirement in {"gmml-cluster": str(wheel), **{peer: peer for peer in PEERS}}.items():
                found.setdefault(name, []).append(installed(name, requirement, folder / f"{name}-{number}"))
    finally:
        shutil.rmtree(folder)
    print("| `pip install` | s | MB | packages | `--help`, s |\n|---|---:|---:|---:|---:|")
    for name, rows in found.items():
        middle = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
        shown = (
            f"{middle['seconds']:.0f} | {middle['megabytes']:.0f} | {middle['packages']:.0f} | {middle['help_s']:.2f}"
        )
        print(f"| {name} | {shown} |")


if __name__ == "__main__":
    main()
