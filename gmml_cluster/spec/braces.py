"""Braces in the URL of a corpus: `{000..131}` counts, `{a,b}` chooses."""

import itertools
import math
import re
from collections import Counter
from collections.abc import Sequence

from gmml_cluster.spec.base import Refused

MOST_SHARDS = 1_000_000
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def expand_braces(url: str) -> list[str]:
    """All URLs of the braces, in order; ranges keep their leading zeros.

    Raises:
        Refused: as `check_braces`.
    """
    check_braces(url)
    parts = _BRACES.split(url)
    choices = [_choices(part) if index % 2 else [part] for index, part in enumerate(parts)]
    return ["".join(chosen) for chosen in itertools.product(*choices)]


def check_braces(url: str) -> None:
    """Refuse what cannot be expanded.

    Raises:
        Refused: a brace that is neither a range nor a choice, one that names something twice, or more than a million
            shards.
    """
    stray = set("{}") & set(_BRACES.sub("", url))
    if stray:
        raise Refused(f"{min(stray)!r} without its other half; braces hold 000..131 or a,b", f"correct {url!r}")
    if math.prod(len(_choices(inside)) for inside in _BRACES.findall(url)) > MOST_SHARDS:
        problem = f"more than {MOST_SHARDS:,} shards; a corpus has fewer"
        raise Refused(problem, f"check the ranges of {url!r}")


def _choices(inside: str) -> Sequence[str]:
    found = _RANGE.fullmatch(inside)
    if found is None:
        if "," not in inside:
            raise Refused(f"{{{inside}}} is no range; braces hold 000..131 or a,b", "correct it")
        chosen = inside.split(",")
        twice, times = Counter(chosen).most_common(1)[0]
        if times > 1:
            raise Refused(f"{{{inside[:40]}}} names {twice!r} twice; each shard counts once", "leave one out")
        return chosen
    first, last = (int(digits) if len(digits) <= 18 else -1 for digits in found.groups())
    if min(first, last) < 0 or last < first or last - first >= MOST_SHARDS:
        problem = f"{{{inside[:40]}}} is no range; it counts upwards to a million at most"
        raise Refused(problem, "correct it")
    return [str(number).zfill(len(found[1])) for number in range(first, last + 1)]
