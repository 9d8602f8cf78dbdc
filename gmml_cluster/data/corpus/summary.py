"""What a corpus holds, as its indexes count it: for `gmml corpus index`, dry runs and submissions. Needs no numpy."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from gmml_cluster.data.corpus.account import PassedOver, merged
from gmml_cluster.wording import counted

NO_CLASS = "no sample has a class; if each tar is one, unpack each into a folder of its name and pack the folders"


class HeaderLike(Protocol):
    """What a summary needs of an index (`index.Header`)."""

    @property
    def samples(self) -> int: ...

    @property
    def labelled(self) -> int: ...

    @property
    def least_label(self) -> int: ...

    @property
    def greatest_label(self) -> int: ...

    @property
    def passed_over(self) -> tuple[PassedOver, ...]: ...

    @property
    def masks(self) -> int: ...


@dataclass(frozen=True)
class Summary:
    """The samples and classes of a corpus, and what of it makes no sample."""

    shards: int
    samples: int
    labelled: int
    """Samples that have a class."""
    least_label: int
    """Least class; -1 where there is none."""
    greatest_label: int
    """Greatest class; -1 where there is none."""
    passed_over: tuple[PassedOver, ...]
    masks: int = 0
    """Samples that have a mask."""

    def __str__(self) -> str:
        masks = f", {self.masks} with a mask" if self.masks else ""
        return f"{counted(self.samples, 'sample')} in {counted(self.shards, 'shard')}, {self.classes}{masks}"

    @property
    def classes(self) -> str:
        """What is known of classes, for people."""
        if not self.labelled:
            return "none with a class"
        least, greatest = self.least_label, self.greatest_label
        span = f"class {least}" if least == greatest else f"classes {least} to {greatest}"
        without = self.samples - self.labelled
        return f"{span}, {without} of the samples without one" if without else span

    @property
    def notes(self) -> Iterator[str]:
        """What was passed over, a line a kind."""
        return (str(passed) for passed in self.passed_over)

    def notes_of(self, url: str) -> Iterator[str]:
        """What the corpus at a URL holds, and what was passed over there, a line each."""
        yield f"{url}: {self}"
        yield from (f"{url}: {note}" for note in self.notes)


def summarise(headers: Iterable[HeaderLike]) -> Summary:
    """The summary of a corpus from the headers of its shards' indexes."""
    listed: Sequence[HeaderLike] = list(headers)
    with_classes = [header for header in listed if header.labelled]
    return Summary(
        shards=len(listed),
        samples=sum(header.samples for header in listed),
        labelled=sum(header.labelled for header in listed),
        least_label=min((header.least_label for header in with_classes), default=-1),
        greatest_label=max((header.greatest_label for header in with_classes), default=-1),
        passed_over=merged(header.passed_over for header in listed),
        masks=sum(header.masks for header in listed),
    )
