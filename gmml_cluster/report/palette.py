"""Colours of runs and of kinds of time: at least 3:1 against the light and the dark background of the page.

Colour never stands alone: runs have a dash pattern and a name beside it, kinds of time a table.
"""

RUNS = ("#2f7fc1", "#d9730d", "#2f9e58", "#d64545", "#9467d6", "#1798a6", "#d1549b", "#8f8a1e", "#a8714a", "#7d8590")
DASHES = ("solid", "dashed", "dotted", "dotdash")

KINDS = {
    "training": "#2f9e58",
    "unsaved": "#7fb069",
    "data_wait": "#b8860b",
    "checkpoint_stall": "#d9730d",
    "evaluation": "#2f7fc1",
    "maps": "#1798a6",
    "suspended": "#a8714a",
    "replayed": "#d64545",
    "lost": "#a02c5a",
    "queued": "#8b93a1",
    "starting": "#9467d6",
    "restoring": "#d1549b",
}
"""Kind of goodput -> colour, in the order of the legend."""


def colour(index: int) -> str:
    """Of the run at this place of the page."""
    return RUNS[index % len(RUNS)]


def dash(index: int) -> str:
    """Of the run at this place of the page; changes where the colours begin again."""
    return DASHES[index // len(RUNS) % len(DASHES)]
