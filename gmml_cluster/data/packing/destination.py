"""Where a corpus is packed: the plan that it is packed by, what of it stands, and when it is complete.

Below `.packing/` lie the plan, a record of each shard that stands, and what was unpacked. It goes when all is done, and
until then no job takes the shards for a corpus.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gmml_cluster.data.corpus import index, merged
from gmml_cluster.data.corpus.listing import INDEX_SUFFIX, PACKING_PLAN, SHARD_SUFFIX, ShardFile, store_of
from gmml_cluster.data.packing.report import NUMBER_DIGITS, Packed, ShardRecord
from gmml_cluster.data.packing.shard import HIDDEN
from gmml_cluster.errors import DataError, Fault, SpecError
from gmml_cluster.store.open import scheme_of
from gmml_cluster.store.protocol import Stat

CLASSES = "classes.txt"
REPORT = "packed.json"
"""What `--json` prints, and the plan; written last."""
_DONE = f"{HIDDEN}/done/"
_READ_AT_ONCE = 32
_NO_FOREIGN = "name another or remove it"


@dataclass(frozen=True)
class PackingPlan:
    """What decides the bytes of all shards."""

    settings: Mapping[str, Any]
    """By name: digest of the source, options, versions."""
    prefix: str

    @property
    def digest(self) -> str:
        """Of all settings."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:32]

    def shard(self, number: int) -> str:
        """Name of a shard."""
        return f"{self.prefix}-{number:0{NUMBER_DIGITS}d}{SHARD_SUFFIX}"

    def to_json(self) -> dict[str, Any]:
        """As it lies in its destination."""
        return {"digest": self.digest, **self.settings}


class Destination:
    """A folder or prefix that holds nothing, or this plan's shards.

    Args:
        url: a path or `s3://` URL.
        plan: what is to be packed there.

    Raises:
        SpecError: it holds something else, or shards of another plan, or could not be named as a corpus.
        DataError: a shard is gone that an earlier command had made.
        StorageError: the store does not answer.
    """

    def __init__(self, url: str, plan: PackingPlan) -> None:
        if expanding := sorted(set(url) & set("{}*")):
            what = f"has {expanding[0]!r}; a corpus lies in one folder, and a job would read that as a pattern"
            raise SpecError(Fault(url, what, "name a folder without it"))
        self.url = url.rstrip("/") if scheme_of(url) == "s3" else _real(url)
        self._plan = plan
        self._named = url
        self._store = store_of(self.url)
        self._found = {found.name: found for found in self._listed()}
        self.packed = self._finished()
        """What was packed, where an earlier command has done it all."""
        if self.packed is None:
            self._demand_plan()

    @property
    def scratch(self) -> str:
        """Folder or prefix for what is unpacked."""
        return f"{self.url}/{HIDDEN}/unpacked"

    def begin(self) -> None:
        """Write down the plan.

        Raises:
            StorageError: the destination cannot be written.
        """
        if PACKING_PLAN not in self._found:
            self._store.put(PACKING_PLAN, json.dumps(self._plan.to_json(), indent=2).encode())

    def standing(self, shards: int) -> Iterator[ShardRecord]:
        """Records of the shards that an earlier command made and that are as it left them.

        Raises:
            DataError: a shard has another size than it was made with, or is none of the plan's.
            StorageError: the store does not answer.
        """
        expected = {self._plan.shard(number) for number in range(shards)}
        for name in self._found:
            if name.endswith(SHARD_SUFFIX) and "/" not in name and name not in expected:
                raise self._foreign(name, f"is none of the {shards} shards that are packed here")
        names = [name for name in self._found if name.startswith(_DONE)]
        with ThreadPoolExecutor(_READ_AT_ONCE) as pool:
            for text in pool.map(self._store.get, names):
                record = ShardRecord.from_json(json.loads(text))
                if self._stands(record):
                    yield record

    def finish(self, packed: Packed) -> None:
        """Publish names of classes and the report, and remove what only packing needed."""
        self._merge_indexes()
        if packed.classes:
            self._store.put(CLASSES, "".join(f"{name}\n" for name in packed.classes).encode())
        document = {**packed.to_json(self._named), "plan": self._plan.to_json()}
        self._store.put(REPORT, json.dumps(document, indent=1).encode())
        self._clear()

    def _merge_indexes(self) -> None:
        listed = (found for found in self._store.list_objects() if found.name.endswith(SHARD_SUFFIX))
        shards = [ShardFile(f"{self.url}/{found.name}", found.size, found.version) for found in listed]
        headers = index.find_headers(shards, None) if len(shards) >= merged.LEAST else [None] * len(shards)
        merged.put(shards, headers, None)

    def give_up(self, *, everything: bool = False) -> None:
        """Remove the plan where nothing stands that the next command could use; or `everything`."""
        listed = [found.name for found in self._listed()]
        kept = [name for name in listed if name.startswith((_DONE, f"{HIDDEN}/unpacked/")) or not _hidden(name)]
        if kept and not everything:
            return
        self._store.delete(listed)
        self._clear()
        if scheme_of(self.url) == "file":
            with suppress(OSError):  # another's files, or a mount
                Path(self.url).rmdir()

    def _finished(self) -> Packed | None:
        if REPORT not in self._found:
            return None
        document = json.loads(self._store.get(REPORT))
        self._demand_same(document.get("plan", {}), "was packed")
        missing = [name for name in document["shards"] if name not in self._found]
        if missing:
            raise self._foreign(missing[0], "is gone from a corpus that was complete")
        if any(map(_hidden, self._found)):
            self._clear()
        return Packed.from_json(document)

    def _demand_plan(self) -> None:
        if PACKING_PLAN in self._found:
            self._demand_same(json.loads(self._store.get(PACKING_PLAN)), "is being packed")
        ours = re.compile(
            rf"{re.escape(self._plan.prefix)}-\d{{6,}}\.tar({re.escape(INDEX_SUFFIX)})?|{CLASSES}|{re.escape(merged.NAME)}"
        )
        foreign = [name for name in self._found if not _hidden(name) and not ours.fullmatch(name)]
        if foreign or (self._found and PACKING_PLAN not in self._found):
            what = "exists and is not empty; a corpus gets a folder of its own"
            raise SpecError(Fault(self._named, what, _NO_FOREIGN))

    def _demand_same(self, theirs: Mapping[str, Any], done: str) -> None:
        names = [name for name, value in self._plan.to_json().items() if theirs.get(name) != value and name != "digest"]
        if not names:
            return
        ours = self._plan.to_json()
        differing = "; ".join(
            "the source has other files" if name == "files" else f"{name} {theirs.get(name)}, now {ours[name]}"
            for name in names
        )
        cure = "repeat the command as it was, name another destination, or remove what is there"
        raise SpecError(Fault(self._named, f"{done} by another plan ({differing})", cure))

    def _stands(self, record: ShardRecord) -> bool:
        name = self._plan.shard(record.number)
        found = self._found.get(name)
        if found is None or f"{name}{INDEX_SUFFIX}" not in self._found:
            return False
        if found.size != record.size:
            raise self._foreign(name, f"has {found.size} bytes and was made with {record.size}")
        return found.version == record.version  # else it was copied or written twice, and equal bytes replace it

    def _foreign(self, name: str, what: str) -> DataError:
        return DataError(Fault(f"{self.url}/{name}", what, "remove it and repeat the command"))

    def _listed(self) -> list[Stat]:
        if scheme_of(self.url) == "file" and Path(self.url).exists() and not Path(self.url).is_dir():
            what = "exists and is no folder; a corpus gets a folder of its own"
            raise SpecError(Fault(self._named, what, _NO_FOREIGN))
        return self._store.list_objects()

    def _clear(self) -> None:
        hidden = self._store.list_objects(f"{HIDDEN}/")
        # the plan first: a worker that lives on unseen then writes nothing more
        self._store.delete(sorted((found.name for found in hidden), key=lambda name: name != PACKING_PLAN))
        self._store.discard(self._store.unfinished())
        if scheme_of(self.url) == "file":
            shutil.rmtree(Path(self.url, HIDDEN), ignore_errors=True)  # folders that workers left empty


def _hidden(name: str) -> bool:
    return name.startswith(f"{HIDDEN}/")


def _real(url: str) -> str:
    return os.path.realpath(os.path.expanduser(url.removeprefix("file://")))
