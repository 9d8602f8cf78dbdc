"""All figures that fit this machine, in one table: `make bench`, or `python -m benchmarks.bench [--only PART ...]`.

Each part is a benchmark of its own, in a process of its own; a part that fails leaves the rows of the others, and the
command then exits with 1. Writes `benchmarks.md`, which the docs show, and `benchmarks.json`.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks.rows import Row, markdown, read_json

DOCS = Path(__file__).resolve().parents[1] / "docs"
_INTRODUCTION = """# Benchmarks

Figures over those of a peer or of a physical limit, measured in turn in one run by `make bench`; each part by the
command above its table. A ratio is the median of the rounds, with their range. What each part does: its module under
[benchmarks](../benchmarks/README.md).
"""


@dataclass(frozen=True)
class Part:
    """A benchmark that writes rows with `--json`."""

    title: str
    module: str


PARTS = (
    Part("Reading local shards", "reading"),
    Part("Reading from an object store", "streaming"),
    Part("A step beside its arithmetic", "step_overhead"),
    Part("Training from shards", "end_to_end"),
    Part("Training beside what a user would run instead", "trainers"),
    Part("Checkpoints", "checkpoint_cost"),
    Part("Commands", "command_line"),
    Part("Pinning many shards", "pin_cost"),
)


def main() -> None:
    """Run the parts in their order and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=[part.module for part in PARTS], help="parts; all if not given")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder to write to")
    given = parser.parse_args()
    parts = [part for part in PARTS if not given.only or part.module in given.only]
    found = {part: rows for part in parts if (rows := _run(part)) is not None}
    write(given.docs, found)
    if failed := [part.module for part in parts if part not in found]:
        sys.exit(f"failed: {', '.join(failed)}")


def _run(part: Part) -> list[Row] | None:
    """The rows of a part; None where it failed."""
    print(f"== {part.title}: {command(part)}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.json"
        command_of_part = [sys.executable, "-m", f"benchmarks.{part.module}", "--json", str(path)]
        ended = subprocess.run(command_of_part, check=False)
        return read_json(path) if ended.returncode == 0 else None


def command(part: Part) -> str:
    """What repeats a part."""
    return f"python -m benchmarks.{part.module}"


def write(folder: Path, found: dict[Part, list[Row]]) -> None:
    """Write the page and the JSON document."""
    parts = {part.module: [asdict(row) for row in rows] for part, rows in found.items()}
    document = {"machine": machine(), "parts": parts}
    (folder / "benchmarks.json").write_text(json.dumps(document, indent=1) + "\n")
    (folder / "benchmarks.md").write_text("\n".join(_page(found)) + "\n")


def _page(found: dict[Part, list[Row]]) -> Iterator[str]:
    yield _INTRODUCTION
    yield "Machine: " + ", ".join(f"{name} {value}" for name, value in machine().items()) + "."
    rows = [row for of_part in found.values() for row in of_part]
    yield f"\n{sum(row.reached for row in rows)} of {len(rows)} goals are reached."
    for part, of_part in found.items():
        yield f"\n## {part.title}\n\n`{command(part)}`\n\n{markdown(of_part)}"


def machine() -> dict[str, str]:
    """What the figures depend on."""
    return {
        "cores": str(len(os.sched_getaffinity(0))),
        "processor": _processor(),
        "Python": platform.python_version(),
        **{name: version(name) for name in ("torch", "deepspeed", "simplejpeg", "opencv-python-headless")},
        "date": datetime.now(UTC).date().isoformat(),
    }


def _processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    lines: Sequence[str] = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    main()
