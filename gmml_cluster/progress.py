"""Progress of long work on a terminal. A leaf: everything may import it."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

QUIET_S = 2.0


class Advance(Protocol):
    """Report that so many more items are done."""

    def __call__(self, items: int = 1) -> None: ...


@contextmanager
def progress(description: str, total: int | None = None) -> Iterator[Advance]:
    """A progress bar on stderr that appears once the work has lasted two seconds; nothing where stderr is no terminal.

    Args:
        description: what is done, such as `indexing shards`.
        total: items; None where the number is not known.

    Yields:
        A function that advances the bar; it may be called from any thread.
    """
    if not sys.stderr.isatty():
        yield lambda items=1: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task(description, total=total)
    shown_at = time.monotonic() + QUIET_S

    def advance(items: int = 1) -> None:
        bar.advance(task, items)
        if not bar.live.is_started and time.monotonic() >= shown_at:
            bar.start()

    try:
        yield advance
    finally:
        bar.stop()
