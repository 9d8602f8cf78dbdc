"""CRCs for corpora that have none: beside the training and behind it, one shard after the other is read whole."""

import logging
import os
import threading
import time

from gmml_cluster.data.corpus.pin import Pin
from gmml_cluster.errors import GmmlError

_REST = 3.0
_LOWEST_PRIORITY = 19

_log = logging.getLogger(__name__)


def start(pin: Pin, ranks: int, rank: int) -> None:
    """Begin this rank's part in a thread of the lowest priority, which ends with the process."""

    def run() -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST_PRIORITY)
        sweep(pin, ranks, rank)

    threading.Thread(target=run, name="sweep", daemon=True).start()


def sweep(pin: Pin, ranks: int, rank: int, rest: float = _REST) -> None:
    """Make indexes with CRCs of every R-th shard that has none; this rank's samples are checked from then on.

    Other ranks take them at their next attempt. A shard that cannot be read is named, and the next one taken: whether
    the run can do without is for those to say who need its samples.

    Args:
        rest: pause after a shard, as a multiple of the time that it took, so that storage stays free for training.
    """
    shards, made = [shard for corpus in pin.corpora for shard in corpus.shards], 0
    for shard in shards[rank::ranks]:
        began = time.monotonic()
        try:
            if not pin.make_checked(shard):
                continue
        except GmmlError as fault:
            _log.warning("no checksums could be made: %s", fault)
        else:
            made += 1
            time.sleep(rest * (time.monotonic() - began))
    if made:
        _log.info("checksums were made of %d shards that had none", made)
