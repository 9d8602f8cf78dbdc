"""Which of the kept pictures of a run go into the page: as many as its share of the page allows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from gmml_cluster.report.gather import RunData
from gmml_cluster.run.results.pictures import UNTRAINED

BYTES = 600_000
"""Of all pictures of a page together."""
_COLUMNS, _ROWS = (8, 6, 4, 2), (8, 6, 4, 3, 2, 1)


@dataclass(frozen=True)
class PictureRow:
    """One row of images.

    Attributes:
        title: the state, or the step whose weights made it.
        images: `data:` URLs with what each shows, in words.
        file: of the run root.
    """

    title: str
    images: Sequence[tuple[str, str]]
    file: str


@dataclass(frozen=True)
class Pictures:
    """The pictures of one run: originals, what the encoder saw, then what it made of them step by step, and its maps.

    Attributes:
        kinds: how columns were corrupted, and how many stand side by side.
        left_out: checkpoints that were drawn and are not shown.
    """

    run: str
    corpus: str
    kinds: Sequence[tuple[str, int]]
    rows: Sequence[PictureRow]
    left_out: int


def pictures_of(run: RunData, most_bytes: int) -> Pictures | None:
    """The pictures of a run within its share; None where none are kept."""
    documents = run.pictures
    if not documents:
        return None
    sizes = [(columns, rows) for rows in _ROWS for columns in _COLUMNS[:2]] + [(each, 1) for each in _COLUMNS[2:]]
    for columns, rows in sizes:
        found = _pictures(run.name, documents, columns, rows)
        if sum(len(url) for row in found.rows for url, _ in row.images) <= most_bytes:
            break
    return found


def _pictures(name: str, documents: Sequence[Mapping[str, Any]], columns: int, rows: int) -> Pictures:
    chosen = spread(documents, rows)
    last = chosen[-1]
    picked = spread(range(len(last["images"])), columns)
    above = [_row(last, picked, state, state, state) for state in ("original", "corrupted")]
    # earlier documents do not say what was made
    made = [(each, str(each.get("what", "reconstructed")), _step(each["step"])) for each in chosen]
    below = [_row(each, picked, "reconstructed", step, f"{what}, {step}") for each, what, step in made]
    maps = [(each, f"map of attention, {step}") for each, _, step in made if "map" in each["images"][0]]
    below += [_row(each, picked, "map", title, title) for each, title in maps]
    named = [str(last["images"][index]["kind"]) for index in picked]
    kinds = [(kind, len(list(same))) for kind, same in groupby(named)]
    left_out = len(documents) - len(chosen)
    return Pictures(name, str(last["corpus"]["url"]), kinds, [*above, *below], left_out)


def _row(document: Mapping[str, Any], picked: Sequence[int], state: str, title: str, what: str) -> PictureRow:
    urls = [_safe(str(document["images"][index][state])) for index in picked]
    return PictureRow(title, [(url, f"image {index + 1}, {what}") for index, url in enumerate(urls)], document["file"])


def _safe(url: str) -> str:
    """The URL of an image that stands in it; anything else of a document that was tampered with is left out."""
    return url if url.startswith(("data:image/png;base64,", "data:image/jpeg;base64,")) else "data:,"


def _step(step: int) -> str:
    return "untrained" if step == UNTRAINED else f"step {step:,}"


def spread(items: Sequence[Any], most: int) -> list[Any]:
    """So many of the items, evenly spread, the last among them and the first where there are two."""
    count = min(most, len(items))
    if count <= 1:
        return list(items[-1:])
    return [items[round(index * (len(items) - 1) / (count - 1))] for index in range(count)]
