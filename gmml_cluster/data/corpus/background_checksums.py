"""CRCs for corpora that have none: during training each rank reads whole shards, one after the other."""

import logging
import os
import threading
import time
from itertools import chain, islice

from gmml_cluster.data.corpus.pin import Pin
from gmml_cluster.errors import GmmlError

_PAUSE = 3.0
_LOWEST_PRIORITY = 19

_log = logging.getLogger(__name__)


def start(pin: Pin, ranks: int, rank: int) -> None:
    """Begin this rank's part in a thread of the lowest priority, which ends with the process."""

    def run() -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST_PRIORITY)
        make_checksums(pin, ranks, rank)

    threading.Thread(target=run, name="checksums", daemon=True).start()


def make_checksums(pin: Pin, ranks: int, rank: int, pause: float = _PAUSE) -> None:
    """Make indexes with CRCs of every R-th shard that has none; this rank's samples are checked from then on.

    Other ranks use them from their next attempt on. A shard that cannot be read is logged and passed over: it fails the
    run only when one of its samples is needed.

    Args:
        pin: the run's corpora.
        ranks: number of ranks.
        rank: this one, which takes shards `rank`, `rank + ranks`, ...
        pause: rest after a shard, as a multiple of the time that it took, so that storage stays free for training.
    """
    shards, made = chain.from_iterable(corpus.shards for corpus in pin.corpora), 0
    for shard in islice(shards, rank, None, ranks):
        began = time.monotonic()
        try:
            if not pin.make_checked(shard):
                continue
        except GmmlError as error:
            _log.warning("no checksums could be made: %s", error)
        else:
            made += 1
            time.sleep(pause * (time.monotonic() - began))
    if made:
        _log.info("checksums were made of %d shards that had none", made)
