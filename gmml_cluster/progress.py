"""Progress of long work on a terminal. A leaf: everything may import it."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

QUIET_S = 2.0


@contextmanager
def progress(description: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """A bar on stderr that appears once the work has lasted two seconds; nothing where stderr is no terminal.

    Args:
        description: what is done, such as `indexing`.
        total: items; None where their number is not known, which shows the time that has passed instead of a bar.

    Yields:
        A function that counts so many more items as done; any thread may call it.
    """
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
