"""The health of a run's data: shares that were drawn, samples that could not be decoded and where they lie, digests."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gmml_cluster.plan.sample_layout import lane_counts
from gmml_cluster.run.entries import Entry
from gmml_cluster.store.protocol import NotFound, Store

_BAD = re.compile(r"^\S+ rank \d+ WARNING (?P<where>.+?): a bad sample: (?P<why>.*)$", re.MULTILINE)
"""What `data/reader/views.py` logs, in the form of `train/ranks/log_upload.py`."""
_RANK_LOG = re.compile(r"attempts/(\d+)/rank-\d+-\d+\.log")
_READ_BYTES = 32 * 2**20
"""Of rank logs that are searched for the places of bad samples; the newest parts first."""


@dataclass(frozen=True)
class CorpusHealth:
    """One corpus of a run.

    Attributes:
        asked, achieved: share of the samples drawn, from 0 to 1; achieved is exact in every row of the order.
        bad: distinct bad samples drawn so far; None where no checkpoint has counted them.
    """

    url: str
    asked: float
    achieved: float | None
    lanes: int | None
    bad: int | None


@dataclass(frozen=True)
class BadSample:
    """A sample that could not be decoded: shard and member, why, and the file of the run root that says so."""

    where: str
    why: str
    file: str


@dataclass(frozen=True)
class Health:
    """What is known of a run's data.

    Attributes:
        pin: fields of the first `pin`; None before it.
        corpora_digest: of the pin of the corpora that holds now.
        unchecked: samples up to the latest checkpoint that no checksum could vouch for.
        places: of bad samples, as far as they were found.
        searched: whether all rank logs were searched for them.
    """

    corpora: Sequence[CorpusHealth]
    pin: Mapping[str, Any] | None
    corpora_digest: str | None
    unchecked: int | None
    places: Sequence[BadSample]
    searched: bool


def health_of(entries: Sequence[Entry], corpora: Sequence[Mapping[str, Any]], store: Store) -> Health:
    """The data health of a run.

    Args:
        entries: of its log.
        corpora: `data.corpora` of its spec.
        store: the run root, for the logs of ranks where bad samples were met.

    Raises:
        StorageError: the store does not answer.
    """
    pins = [entry for entry in entries if entry.kind == "pin"]
    commits = [entry for entry in entries if entry.kind == "commit"]
    last = commits[-1] if commits else None
    bad = list(last.fields.get("bad", ())) if last else []
    places, searched = bad_places(store) if sum(bad) else ([], True)
    pin = pins[0].fields if pins else None
    return Health(
        corpora=_corpora(corpora, pin["layout"].get("lanes") if pin else None, bad),
        pin=pin,
        corpora_digest=pins[-1].fields["corpora"] if pins else None,
        unchecked=last.fields.get("unchecked") if last else None,
        places=places,
        searched=searched,
    )


def _corpora(corpora: Sequence[Mapping[str, Any]], lanes: int | None, bad: Sequence[int]) -> list[CorpusHealth]:
    weights = [float(corpus["weight"]) for corpus in corpora]
    counts = lane_counts(weights, lanes) if lanes and corpora else [None] * len(corpora)
    return [
        CorpusHealth(
            url=str(corpus["url"]),
            asked=weight / sum(weights),
            achieved=count / lanes if count is not None and lanes else None,
            lanes=count,
            bad=bad[index] if index < len(bad) else None,
        )
        for index, (corpus, weight, count) in enumerate(zip(corpora, weights, counts, strict=True))
    ]


def bad_places(store: Store, most_bytes: int = _READ_BYTES) -> tuple[list[BadSample], bool]:
    """The bad samples that the ranks named in their logs, each once; and whether all logs were read.

    Raises:
        StorageError: the store does not answer.
    """
    parts = sorted((each for each in store.list_objects("attempts/") if _RANK_LOG.fullmatch(each.name)), key=_newest)
    found: dict[str, BadSample] = {}
    for part in parts:
        most_bytes -= part.size
        if most_bytes < 0:
            return list(found.values()), False
        try:
            text = store.get(part.name).decode(errors="replace")
        except NotFound:  # deleted by a clean-up meanwhile
            continue
        for named in _BAD.finditer(text):
            found.setdefault(named["where"], BadSample(named["where"], named["why"], part.name))
    return list(found.values()), True


def _newest(part: Any) -> tuple[int, str]:
    named = _RANK_LOG.fullmatch(part.name)
    assert named is not None
    return -int(named[1]), part.name
