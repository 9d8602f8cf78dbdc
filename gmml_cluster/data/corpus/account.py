"""What of a shard or folder makes no sample, and why: each member is a sample's or is counted here. Needs no numpy."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from gmml_cluster.wording import counted

MOST_KINDS = 16
"""Entries that an account keeps apart; they are stored in the header of each index."""
_LONGEST_NAME = 80


class Reason(StrEnum):
    """Why a member makes no sample."""

    OTHER = "other"
    """Neither an image nor a class, such as `.json` or `.txt`."""
    DOTTED = "dotted"
    """Its name ends like an image, but the field behind the first dot has more dots."""
    SECOND = "second"
    """Its sample has an image already."""
    NO_KEY = "no key"
    """Its name has no dot, or begins with one."""
    NO_FILE = "no file"
    """A link, a device or a sparse file."""
    LONE_CLASS = "lone class"
    """A class without an image beside it."""
    UNREAD_CLASS = "unread class"
    """A class that is no number; its image is a sample without a class."""
    EMPTY_ROW = "empty row"
    """A row of a parquet file without the bytes of an image."""


_RULES = {
    Reason.OTHER: "neither an image (.jpg, .jpeg, .png, .webp) nor a class (.cls)",
    Reason.DOTTED: (
        "a key ends at the first dot of a name, and the field behind it is no image; name the field (`image: left.jpg` "
        "in the corpus, --image left.jpg here); where names merely have dots, unpack the shards and pack the folder"
    ),
    Reason.SECOND: "the first image of a key is its sample; name another by the corpus' `image`, or rename it",
    Reason.NO_KEY: "a sample's name has a key, a dot and a field",
    Reason.NO_FILE: "links, devices and sparse files have no bytes of their own; pack what they lead to",
    Reason.LONE_CLASS: (
        "a class belongs to the image beside it in the tar; these stand alone, so their images have no class; sort the "
        "members by name (tar --sort=name) and index again"
    ),
    Reason.UNREAD_CLASS: "a class is a whole number, or -1 for none; these images have no class; write numbers",
    Reason.EMPTY_ROW: "they have no bytes of an image, at most its path; write the bytes, or leave the rows out",
}


@dataclass(frozen=True)
class PassedOver:
    """Members of one kind that make no sample."""

    reason: Reason
    extension: str
    """Last part of their names, in small letters; empty where there is none."""
    count: int
    first: str
    """Name of the first, perhaps shortened."""

    def __str__(self) -> str:
        kind = f"{self.count} .{self.extension}" if self.extension else f"{self.count} without an extension"
        kind = counted(self.count, "row") if self.reason is Reason.EMPTY_ROW else kind
        what = f"{kind}, the first {self.first!r}; {_rule(self)}"
        return what if self.reason is Reason.UNREAD_CLASS else f"passed over {what}"


class Account:
    """Counts what makes no sample, by reason and extension."""

    def __init__(self) -> None:
        self._found: dict[tuple[Reason, str], tuple[int, str]] = {}

    def add(self, reason: Reason, name: str, count: int = 1) -> None:
        """Count members of which `name` is the first."""
        self._put(PassedOver(reason, extension(name), count, name))

    def merge(self, others: Iterable[PassedOver]) -> None:
        """Count what another account has."""
        for other in others:
            self._put(other)

    @property
    def passed_over(self) -> tuple[PassedOver, ...]:
        """All kinds, the most frequent first; beyond `MOST_KINDS` the rarest of a reason are one kind."""
        entries = sorted(
            (PassedOver(reason, kind, count, first) for (reason, kind), (count, first) in self._found.items()),
            key=lambda entry: (-entry.count, entry.reason, entry.extension),
        )
        kept, rest = entries[: MOST_KINDS - len(Reason)], entries[MOST_KINDS - len(Reason) :]
        if len(entries) <= MOST_KINDS:
            return tuple(entries)
        return (*kept, *_lumped(rest))

    def _put(self, other: PassedOver) -> None:
        count, first = self._found.get((other.reason, other.extension), (0, other.first))
        self._found[other.reason, other.extension] = (count + other.count, first[:_LONGEST_NAME])


def extension(name: str) -> str:
    """What follows the last dot of a file's name, in small letters, shortened; empty where nothing precedes the dot."""
    stem, dot, last = name.rpartition("/")[2].rpartition(".")
    return last.lower()[:16] if dot and stem else ""


def merged(accounts: Iterable[Sequence[PassedOver]]) -> tuple[PassedOver, ...]:
    """The sum of several accounts."""
    total = Account()
    for account in accounts:
        total.merge(account)
    return total.passed_over


def _lumped(entries: Sequence[PassedOver]) -> Iterator[PassedOver]:
    for reason in dict.fromkeys(entry.reason for entry in entries):
        those = [entry for entry in entries if entry.reason == reason]
        yield PassedOver(reason, "*", sum(entry.count for entry in those), those[0].first)


def _rule(passed: PassedOver) -> str:
    if passed.reason is Reason.OTHER and passed.extension in ("tar", "gz", "tgz"):
        return "tars inside a tar are not read; unpack the outer one, then each inner one into a folder of its name"
    return _RULES[passed.reason]
