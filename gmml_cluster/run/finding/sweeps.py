"""Which runs a sweep has: a file of its own under the root, beside the runs, of which each keeps its own log.

`.sweeps/NAME/DIGEST.json` is named by its content, so that the same sweep submitted again, or by two at once, writes
the same file. A sweep that grew has several, and all their runs.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from gmml_cluster.errors import Fault, SpecError, StorageError
from gmml_cluster.run.root import NAME
from gmml_cluster.store.open import open_store
from gmml_cluster.store.protocol import Store

VERSION = 1
_FOLDER = ".sweeps"


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep.

    Attributes:
        run: its name, under the same root.
        overrides: what makes it, `FIELD=VALUE` each.
        spec: SHA-256 of what decides what it computes (`spec.identity`).
    """

    run: str
    overrides: tuple[str, ...]
    spec: str


def record(root: str, name: str, entries: Sequence[SweepRun]) -> None:
    """Keep which runs a sweep has; those that were recorded under its name before stay."""
    document = {"version": VERSION, "sweep": name, "runs": [asdict(entry) for entry in entries]}
    data = json.dumps(document, indent=1).encode()
    open_store(root).put(f"{_FOLDER}/{name}/{hashlib.sha256(data).hexdigest()[:16]}.json", data)


def entries_of(root: str, name: str) -> list[SweepRun]:
    """The runs of a sweep, whether or not they still exist; empty where the root has no sweep of this name.

    Raises:
        SpecError: another version wrote it.
        StorageError: it cannot be read.
    """
    if not NAME.fullmatch(name):
        return []
    store = open_store(root)
    found = [entry for each in store.list_objects(f"{_FOLDER}/{name}/") for entry in _read(store, each.name, root)]
    return list({entry.run: entry for entry in found}.values())


def _read(store: Store, name: str, root: str) -> list[SweepRun]:
    try:
        document = json.loads(store.get(name))
        version, runs = document["version"], document["runs"]
        entries = [SweepRun(each["run"], tuple(each["overrides"]), each["spec"]) for each in runs]
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(Fault(f"{root}/{name}", "is no record of a sweep", "submit the sweep again")) from error
    if version != VERSION:
        raise SpecError(Fault(f"{root}/{name}", f"version {version}; {VERSION} is known here", "update gmml-cluster"))
    return entries
