"""Rows of drills as a table of Markdown: `python -m tests.drills.table notices.jsonl`."""

import json
import sys
from pathlib import Path

SHOWN = {
    "switch": "user signal",
    "partition": "partition",
    "requeue": "may requeue",
    "event": "notice",
    "moment": "while",
    "cause": "cause in the ledger",
    "by": "continued by",
    "steps_lost": "steps made again",
    "saved_s": "notice to commit, s",
    "resumed_s": "notice to the next start's begin, s",
}


def cell(value: object) -> str:
    """A value as people write it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else str(value)


def main() -> None:
    rows = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]
    print("| " + " | ".join(SHOWN.values()) + " |")
    print("|" + "---|" * len(SHOWN))
    for row in rows:
        print("| " + " | ".join(cell(row.get(name)) for name in SHOWN) + " |")


if __name__ == "__main__":
    main()
