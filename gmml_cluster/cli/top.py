"""`gmml top`: a live view of all runs. Imports no pydantic, and asks each scheduler once a look."""

import sys
import time
from collections.abc import Sequence

import click

from gmml_cluster import api
from gmml_cluster.api import Run
from gmml_cluster.cli import options
from gmml_cluster.cli.documents import emit
from gmml_cluster.cli.top_view import at_work, view
from gmml_cluster.errors import StorageError
from gmml_cluster.outputs.base import error_document
from gmml_cluster.outputs.status import StatusOutput
from gmml_cluster.run.finding.discovery import is_run
from gmml_cluster.run.root import NAME, RunRoot
from gmml_cluster.store.open import open_store

IDLE_LOOKS = 10
"""A run that nothing works on is looked at once in so many looks: of 500 runs few are at work, and each is a read."""


@click.command("top")
@click.option("--once", is_flag=True, help="Print one look and end, for scripts.")
@click.option("--every", type=click.FloatRange(min=1.0), default=5.0, show_default=True, help="Seconds between looks.")
@options.root
@options.as_json
def command(once: bool, every: float, root: str | None, as_json: bool) -> None:
    """All runs under the known roots as they go on, those at work first; Ctrl-C ends it.

    DONE is the share of a run's steps, WAIT that of the time in which ranks waited for images, GOOD that of the ranks'
    time that trained.
    """
    from rich.console import Console
    from rich.live import Live

    looks = Looks(root)
    if as_json:
        emit([*looks.look(), *map(error_document, looks.faults)])
        for fault in looks.faults:
            print(fault, file=sys.stderr)
        return
    console = Console()
    if once or not console.is_terminal:
        console.print(view(looks.look(), [str(fault) for fault in looks.faults], rows=None))
        return
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(view(looks.look(), [str(fault) for fault in looks.faults], rows=console.height), refresh=True)
            time.sleep(every)


class Looks:
    """What `gmml status --json` says of all runs, look after look.

    Args:
        root: look under this folder or URL alone.

    Attributes:
        faults: of runs that could not be read in the last look.
    """

    def __init__(self, root: str | None) -> None:
        self._root, self._number = root, 0
        self._runs: dict[str, Run] = {}
        self._known: dict[str, StatusOutput] = {}
        self.faults: list[StorageError] = []

    def look(self) -> list[StatusOutput]:
        """One listing of each root, one call to each scheduler, one read of each run that is at work."""
        self._list()
        asked = [run for number, run in enumerate(self._runs.values()) if self._is_due(run.url, number)]
        found = api.status_of(asked)
        self._known |= {document["url"]: document for document in found.documents}
        self.faults = found.faults
        self._number += 1
        return in_order([self._known[url] for url in self._runs if url in self._known])

    def _list(self) -> None:
        """Find runs that are new, and forget those that were removed; the others keep what was read of their logs."""
        if not self._runs:
            self._runs = {run.url: run for run in api.runs(self._root)}
            return
        before, self._runs = self._runs, {}
        for root in dict.fromkeys(run.location.root for run in before.values()):
            for found in (RunRoot(root, name) for name in open_store(root).folders() if NAME.fullmatch(name)):
                if found.url in before or is_run(found):
                    self._runs[found.url] = before.get(found.url) or api.Run(found)

    def _is_due(self, url: str, number: int) -> bool:
        before = self._known.get(url)
        return before is None or at_work(before) or (self._number + number) % IDLE_LOOKS == 0


def in_order(documents: Sequence[StatusOutput]) -> list[StatusOutput]:
    """Those at work first, then those that need a person, by name."""
    ranks = {"running": 0, "stopping": 0, "starting": 1, "queued": 2, "submitted": 2, "failed": 3, "interrupted": 3}
    return sorted(documents, key=lambda each: (ranks.get(each["state"], 4), each["run"]))
