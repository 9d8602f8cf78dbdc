"""Looking for more nodes of a Ray cluster while an attempt runs that has fewer than it may have."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gmml_cluster.run.growth import Growth

LOOK_S = 10.0

_log = logging.getLogger(__name__)


@contextmanager
def looked_for(growth: Growth, most: int, look: Callable[[], bool], end: Callable[[str], None]) -> Iterator[None]:
    """While the context lasts, `look` every ten seconds in a thread, and `end` it with the proof once growth is due.

    Args:
        growth: of the attempt.
        most: nodes that it may have; nothing is looked for where it has them.
        look: asks `growth.is_due`; what fails in it is logged, and tried again.
        end: ends the attempt.
    """
    over = threading.Event()

    def run() -> None:
        while not over.wait(LOOK_S):
            try:
                if look():
                    _log.info("%s: the attempt ends at its checkpoint, and the run goes on there", growth.proof)
                    end(growth.proof)
                    return
            except Exception as error:
                _log.warning("looking for more nodes: %s", error)

    if growth.nodes < most:
        threading.Thread(target=run, name="growth", daemon=True).start()
    try:
        yield
    finally:
        over.set()
