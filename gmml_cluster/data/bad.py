"""Bad samples: which were met, what stands in for them, and how many a run bears (DESIGN section 4)."""

import threading
from collections.abc import Collection, Sequence

from gmml_cluster.data.corpus import Pin
from gmml_cluster.data.fetch import Wanted
from gmml_cluster.errors import DataError

ALWAYS_BORNE = 8


class BadSamples:
    """The bad samples that one stream met; thread-safe.

    Args:
        pin: the run's corpora.
        max_bad: share of a corpus that may be bad; 8 samples are borne always, but never all.
    """

    def __init__(self, pin: Pin, max_bad: float) -> None:
        self._pin = pin
        self._samples = [shape.samples for shape in pin.shapes]
        self._borne = [min(max(ALWAYS_BORNE, int(max_bad * samples)), samples - 1) for samples in self._samples]
        self._reasons: dict[Wanted, str] = {}
        self._counted: set[Wanted] = set()
        self._lock = threading.Lock()

    def note(self, sample: Wanted, reason: str) -> None:
        """Remember why a sample is bad."""
        with self._lock:
            self._reasons[sample] = reason

    def next_after(self, sample: Wanted, met: Sequence[Wanted]) -> Wanted:
        """The sample to try in place of a bad one: the next y of its corpus, from the last to the first.

        Raises:
            DataError: more were met on the way than the run bears.
        """
        found = {other for other in met if other.corpus == sample.corpus}
        if len(found) > self._borne[sample.corpus]:
            raise self._too_many(sample.corpus, found)
        return Wanted(sample.corpus, (sample.y + 1) % self._samples[sample.corpus])

    def count(self, met: Sequence[Wanted]) -> tuple[tuple[int, int], ...]:
        """Those of the bad samples met that were not counted before.

        Raises:
            DataError: a corpus has more than the run bears.
        """
        new = [sample for sample in dict.fromkeys(met) if sample not in self._counted]
        self._counted.update(new)
        for corpus, borne in enumerate(self._borne):
            found = [sample for sample in self._counted if sample.corpus == corpus]
            if len(found) > borne:
                raise self._too_many(corpus, found)
        return tuple((sample.corpus, sample.y) for sample in new)

    def _too_many(self, corpus: int, found: Collection[Wanted]) -> DataError:
        worst = min(found, key=lambda sample: sample.y)
        where = self._pin.locate(worst.corpus, worst.y)
        what = f"{len(found)} bad samples of {self._samples[corpus]}, the first: {self._reasons[worst]}"
        rule = f"{self._borne[corpus]} are borne (data.max_bad)"
        return DataError(f"{where}: {what}; {rule}; mend the corpus with `gmml corpus pack`, or raise data.max_bad")
