"""The table and the JSON document of a check."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from benchmarks.gpu_check.result import BAD, Result
from benchmarks.gpu_check.rows import Row

_STYLES = {"ok": "green", "not run": "dim", "out of memory": "yellow"}


@dataclass(frozen=True)
class Finished:
    """A row with its result."""

    row: Row
    result: Result
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain mapping."""
        identity = {"part": self.row.part, "variant": self.row.variant, "seconds": round(self.seconds, 1)}
        return {**identity, **asdict(self.result)}


def document(rows: Sequence[Finished], *, command: str, began: str, device: str, quick: bool) -> dict[str, Any]:
    """What `gpu-check.json` holds; `versions` is null where the part `install` has no result."""
    versions = next((one.result.figures.get("versions") for one in rows if one.row.part == "install"), None)
    return {
        "command": command,
        "began": began,
        "device": device,
        "quick": quick,
        "versions": versions,
        "rows": [one.to_json() for one in rows],
    }


def write(path: Path, content: dict[str, Any]) -> None:
    """Write the document; renamed into place, as it is written again after each row."""
    aside = path.with_name(path.name + ".new")
    aside.write_text(json.dumps(content, indent=1) + "\n")
    aside.rename(path)


def table(rows: Sequence[Finished], device: str) -> Table:
    """Part, result, figures; a message is below the figures."""
    found = Table(title=f"gpu-check on {device}", show_lines=True)
    for name in ("part", "result", "figures"):
        found.add_column(name, overflow="fold")
    for one in rows:
        outcome = Text(one.result.outcome, style=_STYLES.get(one.result.outcome, "bold red"))
        lines = [line for line in (figures(one.result.figures), one.result.message) if line]
        found.add_row(one.row.name, outcome, Text("\n".join(lines)))
    return found


def figures(found: dict[str, Any]) -> str:
    """Figures in one line, with three digits where they are not whole."""
    return ", ".join(f"{name} {_text(value)}" for name, value in found.items())


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + figures(value) + ")"
    if isinstance(value, list):
        return "[" + ", ".join(map(_text, value)) + "]"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return "-" if value is None else str(value)


def bad(rows: Sequence[Finished]) -> list[Finished]:
    """Rows for which the command exits with 1."""
    return [one for one in rows if one.result.outcome in BAD]
