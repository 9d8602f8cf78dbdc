"""Progress of long work on a terminal. A leaf: everything may import it."""

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

QUIET_S = 2.0
LINES = "gmml:progress "
"""Begins a line of progress, a JSON object, where GMML_PROGRESS is `lines`: for whoever reads this process' output."""


@contextmanager
def progress(description: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """A bar on stderr that appears once the work has lasted two seconds; nothing where stderr is no terminal.

    Args:
        description: what is done, such as `indexing`.
        total: items; None where their number is not known, which shows the time that has passed instead of a bar.

    Yields:
        A function that counts so many more items as done; any thread may call it.
    """
    if os.environ.get("GMML_PROGRESS") == "lines":
        yield _lines(description, total)
        return
    if not sys.stderr.isatty():
        yield lambda items: None
        return
    # rich takes 60 ms to import, which commands that end at once need not pay
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    counted = () if total is None else (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    columns = (SpinnerColumn(), TextColumn("{task.description}"), *counted, TimeElapsedColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task(description, total=total)
    appearance = threading.Timer(QUIET_S, bar.start)
    appearance.daemon = True
    appearance.start()
    try:
        yield lambda items: bar.advance(task, items)
    finally:
        appearance.cancel()
        appearance.join()
        bar.stop()


def _lines(description: str, total: int | None) -> Callable[[int], None]:
    """Prints a line at the beginning, and one every other second."""
    done, printed = 0, -QUIET_S
    lock = threading.Lock()

    def advance(items: int) -> None:
        nonlocal done, printed
        with lock:
            done += items
            if time.monotonic() - printed >= QUIET_S:
                printed = time.monotonic()
                print(LINES + json.dumps({"what": description, "done": done, "total": total}), flush=True)

    advance(0)
    return advance
