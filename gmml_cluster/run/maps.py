"""The entry that ends a pass over the corpora: from its step on all attempts read its maps (docs/reference/maps.md)."""

from gmml_cluster.run.history import Commit, History, Maps
from gmml_cluster.run.log import Draft, Log
from gmml_cluster.run.protocol import demand_latest


def record_maps(
    log: Log, attempt: int, *, step: int, of: Commit, manifest: str, size: int, blocks: int, seconds: float
) -> Maps:
    """Append `map`, unless there are maps for this step: those that were recorded first hold for all attempts.

    Args:
        log: of the run.
        attempt: this one.
        step: the first that reads them.
        of: the commit whose weights made them.
        manifest: SHA-256 of their manifest, which is written already.
        size: bytes of all their files.
        blocks: number of them.
        seconds: how long this attempt worked on them.

    Returns:
        The maps that hold from this step on.

    Raises:
        Fenced: a later attempt has claimed.
    """
    origin = {"step": of.step, "attempt": of.attempt}
    fields = {"step": step, "of": origin, "manifest": manifest, "bytes": size, "blocks": blocks, "seconds": seconds}

    def make(history: History) -> Draft | None:
        demand_latest(log, history, attempt)
        return None if _maps_from(history, step) else Draft("map", attempt, fields)

    log.append(make)
    recorded = _maps_from(log.refresh(), step)
    assert recorded is not None
    return recorded


def _maps_from(history: History, step: int) -> Maps | None:
    return next((maps for maps in history.maps if maps.step == step), None)
