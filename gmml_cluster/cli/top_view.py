"""How `gmml top` looks: a table in 80 columns."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gmml_cluster.cli.status import latest_event
from gmml_cluster.outputs.status import StatusOutput
from gmml_cluster.wording import counted

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, Group
    from rich.measure import Measurement
    from rich.text import Text

_AT_WORK = ("submitted", "queued", "starting", "running", "stopping")
_STYLES = {
    "running": "green",
    "starting": "cyan",
    "queued": "cyan",
    "stopping": "yellow",
    "failed": "bold red",
    "interrupted": "red",
    "finished": "dim",
    "stopped": "dim",
}
_LEAST_NAME = 12
"""Columns of a run's name at least."""
_FRAME = 4
"""Lines that are no run's: the summary, the heading, and what is left out below."""


@dataclass(frozen=True)
class _Name:
    """A run's name, cut in the middle where the column is narrow, as runs of a sweep differ at the end."""

    text: str

    def __rich_measure__(self, console: "Console", options: "ConsoleOptions") -> "Measurement":
        from rich.measure import Measurement

        return Measurement(min(_LEAST_NAME, len(self.text)), len(self.text))

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "Iterator[Text]":
        from rich.text import Text

        yield Text(cut(self.text, options.max_width))


def cut(name: str, width: int) -> str:
    """The name in so many columns: its two ends where all of it does not fit."""
    if len(name) <= width:
        return name
    head = (width - 1) // 2
    return f"{name[:head]}…{name[len(name) - (width - 1 - head) :]}"


def at_work(document: StatusOutput) -> bool:
    """Whether something works on the run, or is to."""
    return document["state"] in _AT_WORK


def view(documents: Sequence[StatusOutput], faults: Sequence[str], *, rows: int | None) -> "Group":
    """The runs, one a line; what does not fit is counted below.

    Args:
        documents: as `gmml status --json` has them, in their order.
        faults: of runs that could not be read.
        rows: lines of the screen; None for as many as it takes.
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    shown = documents if rows is None else documents[: max(1, rows - _FRAME - len(faults))]
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), expand=True)
    table.add_column("RUN", no_wrap=True, ratio=1, min_width=_LEAST_NAME)
    table.add_column("STATE", no_wrap=True)
    for name in ("STEP", "DONE", "IMG/S", "WAIT", "LEFT", "GOOD"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("LAST", no_wrap=True, overflow="ellipsis", max_width=13)
    for document in shown:
        name, *figures = cells(document)
        table.add_row(_Name(name), *figures, style=_STYLES.get(document["state"], ""))
    left = [f"and {counted(len(documents) - len(shown), 'run')} more"] if len(shown) < len(documents) else []
    return Group(Text(summary(documents)), table, *(Text(line, style="red") for line in faults), *map(Text, left))


def summary(documents: Sequence[StatusOutput]) -> str:
    """How many runs are in which state, and how many images a second all together make."""
    if not documents:
        return "no runs; gmml-submit JOB.yaml starts one"
    states = ", ".join(f"{count} {state}" for state, count in Counter(each["state"] for each in documents).items())
    rate = sum(each["progress"]["samples_per_s"] for each in documents if each["progress"])
    return f"{counted(len(documents), 'run')}: {states}" + (f"; {rate:,.0f} images/s" if rate else "")


def cells(document: StatusOutput) -> list[str]:
    """A run's line."""
    progress: Mapping[str, Any] = document["progress"] or {}
    step, steps = document["step"], document["steps"]
    return [
        document["run"],
        document["state"],
        "-" if step is None else f"{step}",
        "-" if step is None or not steps else f"{100 * (step + 1) / steps:.0f}%",
        _figure(progress.get("samples_per_s")),
        _percent(progress.get("data_wait_share")),
        short(progress.get("left_s")),
        _percent(document["goodput"]["training_share"]),
        latest_event(document),
    ]


def short(seconds: float | None) -> str:
    """A duration by its two greatest units: `3d 4h`, `5h 10m`, `12m 3s`."""
    if seconds is None:
        return "-"
    rest = round(seconds)
    units = [(rest // 86400, "d"), (rest // 3600 % 24, "h"), (rest // 60 % 60, "m"), (rest % 60, "s")]
    first = next((at for at, (count, _) in enumerate(units) if count), len(units) - 1)
    return " ".join(f"{count}{unit}" for count, unit in units[first : first + 2])


def _figure(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if value < 10_000 else f"{value / 1000:.0f}k"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f}%"
