"""Undecodable samples: how they are replaced and how many are tolerated (docs/reference/order-of-samples.md).

Epoch 0 of a corpus draws each of its samples exactly once, over all ranks. So the distinct bad samples of a run are
those that a number of epoch 0 drew itself, not those met while looking for a replacement; a sum over ranks and steps
counts them.
"""

from collections.abc import Sequence

from gmml_cluster.data.corpus.pin import Pin
from gmml_cluster.data.reader.fetch import Wanted
from gmml_cluster.errors import DataError, Fault

ALWAYS_TOLERATED = 8


class Limit:
    """How many bad samples of each corpus a run tolerates.

    Args:
        pin: the run's corpora.
        max_bad: share of a corpus that may be bad; 8 samples are always tolerated, but never all.
    """

    def __init__(self, pin: Pin, max_bad: float) -> None:
        self._pin = pin
        self._samples = [shape.samples for shape in pin.shapes]
        self._tolerated = [min(max(ALWAYS_TOLERATED, int(max_bad * samples)), samples - 1) for samples in self._samples]

    @property
    def corpora(self) -> int:
        """Number of corpora."""
        return len(self._samples)

    def counts(self, samples: Sequence[Wanted]) -> list[int]:
        """How many of them each corpus has."""
        return [sum(sample.corpus == corpus for sample in samples) for corpus in range(self.corpora)]

    def encode(self, samples: Sequence[Wanted]) -> int:
        """A number that names the first of these samples; 0 where there is none."""
        return 1 + sum(self._samples[: samples[0].corpus]) + samples[0].y if samples else 0

    def check(self, counts: Sequence[int], named: Sequence[int]) -> None:
        """Compare the bad samples of all ranks with the limit.

        Args:
            counts: bad samples of each corpus, so far.
            named: what `encode` gave for the samples met last, on each rank.

        Raises:
            DataError: a corpus has more than are tolerated; names one of those met last.
        """
        for corpus, (count, tolerated) in enumerate(zip(counts, self._tolerated, strict=True)):
            if count > tolerated:
                raise self._too_many(corpus, count, self._first(corpus, named))

    def next_after(self, sample: Wanted, met: Sequence[Wanted]) -> Wanted:
        """The sample to try in place of a bad one: the next y of its corpus, from the last to the first.

        Raises:
            DataError: more bad ones follow each other than the run tolerates.
        """
        found = set(met)
        if len(found) > self._tolerated[sample.corpus]:
            raise self._too_many(sample.corpus, len(found), met[0].y)
        return Wanted(sample.corpus, (sample.y + 1) % self._samples[sample.corpus])

    def _first(self, corpus: int, named: Sequence[int]) -> int | None:
        start = 1 + sum(self._samples[:corpus])
        return min((n - start for n in named if start <= n < start + self._samples[corpus]), default=None)

    def _too_many(self, corpus: int, count: int, y: int | None) -> DataError:
        where = self._pin.corpora[corpus].url if y is None else str(self._pin.locate(corpus, y))
        problem = f"a bad sample, one of {count} among the corpus' {self._samples[corpus]}; "
        problem += f"{self._tolerated[corpus]} are tolerated (data.max_bad)"
        hint = (
            "the ranks' logs name each; pack the corpus again without them, or start a run with a higher data.max_bad"
        )
        return DataError(Fault(where, problem, hint))
