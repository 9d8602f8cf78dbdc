"""A scratch run that continues from a run's checkpoint: the same spec, corpora and log tokens, in a folder of its own.

The run itself is only read. Ranks that are started on the scratch run take the ways of every other attempt: they claim,
load, train, save.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gmml_cluster.errors import CheckpointError, Fault, SpecError
from gmml_cluster.run import protocol
from gmml_cluster.run.entries import Entry
from gmml_cluster.run.history import History, Maps
from gmml_cluster.run.log import Draft
from gmml_cluster.run.root import RUN, SPEC, RunRoot, corpora_name, json_corpora_name, run_root
from gmml_cluster.run.step_range import Conditions, Piece, StepRange
from gmml_cluster.store.protocol import NotFound, Stat, Store

_COPY_BYTES = 64 * 2**20
_NEVER = f"{10**9} steps"


@dataclass(frozen=True)
class Scratch:
    """The scratch run.

    Attributes:
        source: the run that is computed again.
        run: the scratch run, of the same name.
    """

    source: RunRoot
    run: RunRoot

    def submit(self, piece: Piece) -> str:
        """Let ranks claim, to compute one piece as it was computed; the submit's token."""
        changed = replayed_changes(piece.conditions)
        code = piece.conditions.code
        return protocol.submit(self.run.log, launcher="local", code=code, bounds={}, changed=changed) or ""


def replayed_changes(conditions: Conditions) -> dict[str, Any]:
    """Changes of the spec under which a piece is computed again.

    Nothing is scored, and nothing saved but at the end: neither enters what is computed. Engine and micro-batch are
    those that were recorded, as what `auto` comes to depends on the memory of the device.
    """
    own = {
        "evaluate": None,
        "checkpoint.every": _NEVER,
        "checkpoint.keep": 1,
        "checkpoint.keep_every": None,
        "batch.micro": conditions.topology["micro"],
        "engine.zero": conditions.topology["zero"],
    }
    return {**conditions.changed, **{field: [None, value] for field, value in own.items()}}


def make_scratch(source: RunRoot, entries: Sequence[Entry], steps: StepRange, folder: Path) -> Scratch:
    """Copy what the steps need of a run into a folder, and write the log that the run had at its beginning.

    Raises:
        SpecError: the run has trained nothing.
        StorageError: the run cannot be read, or the folder not be written.
    """
    history = source.log.refresh()
    if history.pin is None:
        raise SpecError(Fault(source.url, "its corpora are not pinned yet", "replay it when it has trained"))
    run = run_root(str(folder), source.name)
    for name in (RUN, SPEC):
        run.store.put(name, source.store.get(name))
    _copy_pin(source, run, history.pin["corpora"])
    if steps.start is not None:
        _copy_folder(source.store, steps.start.folder, Path(run.url))
    for maps in _maps_before(history, steps.first):
        _copy_folder(source.store, maps.folder, Path(run.url))
    _write_log(run, entries, history, steps)
    return Scratch(source, run)


def _maps_before(history: History, first: int) -> list[Maps]:
    """Maps that the first step may read; later ones are made again."""
    return [maps for maps in history.maps if maps.step <= first]


def _copy_folder(source: Store, folder: str, below: Path) -> None:
    """Copy a folder file by file, each in ranges: a rank's file is as large as its share of the weights.

    Raises:
        CheckpointError: it is not there, or not any more: a run at work drops old ones.
    """
    try:
        found = source.list_objects(f"{folder}/")
        for each in found:
            _copy(source, each, below / each.name)
    except NotFound:
        found = []
    if not found:
        fault = Fault(f"{source.url}/{folder}", "is gone; the run at work may have dropped it", "name later steps")
        raise CheckpointError(fault)


def _copy(source: Store, found: Stat, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for start in range(0, found.size, _COPY_BYTES):
            file.write(source.get(found.name, start, min(_COPY_BYTES, found.size - start)))


def _copy_pin(source: RunRoot, run: RunRoot, pinned: str) -> None:
    """Copy the pin under the name that it has, then the indexes of its shards."""
    data = source.corpora(pinned)
    run.store.put(json_corpora_name(pinned) if data.startswith(b"{") else corpora_name(pinned), data)
    _copy_indexes(source, run, data)


def _copy_indexes(source: RunRoot, run: RunRoot, pinned: bytes) -> None:
    """Copy the indexes of the pinned shards that do not lie beside them; without them every shard would be read."""
    from gmml_cluster.data.corpus.index import stored_name
    from gmml_cluster.data.corpus.listing import indexes_below
    from gmml_cluster.data.corpus.pin import Pin

    theirs, ours = indexes_below(source.root), indexes_below(run.root)
    for file in Pin.from_bytes(pinned).files:
        try:
            ours.put(stored_name(file), theirs.get(stored_name(file)))
        except NotFound:
            continue


def _write_log(run: RunRoot, entries: Sequence[Entry], history: History, steps: StepRange) -> None:
    """`open`, `pin`, the maps and the checkpoint that the steps begin with, and no attempt."""
    opening = {**history.opened, "root": run.root}
    run.log.append(lambda _: Draft("open", None, opening, run=history.run))
    assert history.pin is not None
    pin = dict(history.pin)
    run.log.append(lambda _: Draft("pin", 0, pin))
    maps = {each.slot for each in _maps_before(history, steps.first)}
    start = set() if steps.start is None else {steps.start.slot}
    for entry in entries:
        if entry.slot in maps | start:
            _append(run, entry)


def _append(run: RunRoot, entry: Entry) -> None:
    fields = {name: value for name, value in entry.fields.items() if name != "sum"}
    run.log.append(lambda _: Draft(entry.kind, entry.attempt, fields))
