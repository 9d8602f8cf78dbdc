"""`make simulate`: explores histories on all cores; one history is printed line by line."""

import argparse
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from os import cpu_count

from tests.simulation.history import Outcome, explore
from tests.simulation.product import installed

_CHUNK = 100


def chunk(first: int, count: int) -> tuple[list[Outcome], Counter[str]]:
    """The outcomes that broke something, and what happened in all."""
    counts: Counter[str] = Counter()
    broken = []
    with installed():
        for seed in range(first, first + count):
            outcome = explore(seed)
            counts.update(outcome.counts)
            if outcome.broken:
                broken.append(outcome)
    return broken, counts


def number(text: str) -> int:
    """A number, or a power such as 10^6."""
    base, _, exponent = text.partition("^")
    return int(base) ** int(exponent or 1)


def main() -> int:
    """Exit code 1 where a promise is broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--histories", type=number, default=1000, help="how many, such as 500 or 10^6")
    parser.add_argument("--seed", type=number, default=0, help="of the first history; the others follow")
    parser.add_argument("--processes", type=int, default=cpu_count() or 1)
    given = parser.parse_args()
    if given.histories == 1:
        return print_history(given.seed)
    began, counts, failed, done = time.monotonic(), Counter(), list[Outcome](), 0
    firsts = range(given.seed, given.seed + given.histories, _CHUNK)
    sizes = [min(_CHUNK, given.seed + given.histories - first) for first in firsts]
    with ProcessPoolExecutor(given.processes) as pool:
        for broken, found in pool.map(chunk, firsts, sizes):
            counts += found
            failed += broken
            done += sum(found[kind] for kind in ("folder", "bucket"))
            for outcome in broken:
                print(f"seed {outcome.seed}: {'; '.join(outcome.broken)[:400]}", flush=True)
    seconds = time.monotonic() - began
    print(f"{done} histories in {seconds:.0f} s ({done / seconds:.0f} a second): {len(failed)} broken")
    print(", ".join(f"{name} {count}" for name, count in sorted(counts.items())))
    return 1 if failed else 0


def print_history(seed: int) -> int:
    """One history, line by line."""
    with installed():
        outcome = explore(seed, listed=True)
    for moment, who, what, how in outcome.lines:
        print(f"{moment:10.3f} {who:32} {what}: {how}" if how else f"{moment:10.3f} {who:32} {what}")
    print("; ".join(outcome.broken) or "every promise holds")
    return 1 if outcome.broken else 0


if __name__ == "__main__":
    sys.exit(main())
