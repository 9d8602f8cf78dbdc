"""One picture of some sample numbers: a row each, from the stored image to what the encoder sees.

Lengths are in pixels.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from gmml_cluster.evaluate.see.look import SIDE, Look, Seen
from gmml_cluster.evaluate.see.panels import PALETTE

_STORED = "stored, with what is cut"
_SMALLEST = 128
"""Smaller views are enlarged, by a whole number, so that each of their pixels is seen as it is."""
_GAP, _MARGIN, _TEXT_WIDTH = 12, 16, 230
_INK, _PALE, _PAPER = (32, 32, 32), (110, 110, 110), (255, 255, 255)
_LINE = 17
_BAR = 3
"""Above a view, in the colour of its box."""


def sheet(look: Look, command: str) -> Image.Image:
    """The picture.

    Args:
        look: at least one sample.
        command: stands above, so that the picture says how it was made.
    """
    first = look.samples[0]
    cell, titles = _cell(len(first.views[0].pixels)), _titles(look.samples)
    width = 2 * _MARGIN + _TEXT_WIDTH + (1 + len(titles)) * (cell + _GAP)
    head = [_wrapped(title, cell) for title in (_STORED, *titles)]
    above = [line for text in (command, *look.notes) for line in _wrapped(text, width - 2 * _MARGIN)]
    rows = [_Row(seen, cell, titles) for seen in look.samples]
    top = _MARGIN + _LINE * (len(above) + 1)
    tops = np.cumsum([top + _LINE * max(map(len, head)) + _GAP, *(row.height + _GAP for row in rows)]).tolist()
    image = Image.new("RGB", (width, tops[-1] + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(image)
    _write(draw, _MARGIN, _MARGIN, above)
    for number, lines in enumerate(head):
        _write(draw, _left(number, cell), top, lines)
    if len(first.stored.boxes) > 1:
        for view in range(len(first.views)):
            left, end = _left(1 + view, cell), tops[0] - _GAP // 2
            draw.rectangle([left, end - _BAR, left + cell - 1, end], PALETTE[view % len(PALETTE)])
    for row, at in zip(rows, tops, strict=False):
        row.draw(image, draw, at)
    return image


def _titles(samples: Sequence[Seen]) -> list[str]:
    """The columns beside the stored image: of the sample that has most, then what it lacks and others have.

    Samples differ where a range goes beyond the step at which AMT begins.
    """
    by_count = sorted(samples, key=lambda seen: len(seen.panels), reverse=True)
    return list(dict.fromkeys(shown.title for seen in by_count for shown in [*seen.views, *seen.panels]))


def _left(column: int, cell: int) -> int:
    return _MARGIN + _TEXT_WIDTH + column * (cell + _GAP)


def _cell(size: int) -> int:
    """Side of a cell for views of this size."""
    return min(size * -(-_SMALLEST // size), SIDE)


class _Row:
    """A sample: words, its stored image, its views, and what the method makes of them."""

    def __init__(self, seen: Seen, cell: int, titles: Sequence[str]) -> None:
        self._seen, self._cell = seen, cell
        self._words = list(_words(seen))
        self._shown = [*seen.views, *seen.panels]
        self._columns = [1 + titles.index(each.title) for each in self._shown]
        self._facts = [_wrapped(each.fact, cell) for each in self._shown]
        self.height = max(cell + _LINE * max([0, *map(len, self._facts)]), _LINE * len(self._words))

    def draw(self, image: Image.Image, draw: ImageDraw.ImageDraw, top: int) -> None:
        """Draw the row from `top` on."""
        cell, stored = self._cell, self._seen.stored
        _write(draw, _MARGIN, top, self._words)
        scale = cell / max(stored.height, stored.width)
        colours = PALETTE if len(stored.boxes) > 1 else PALETTE[5:]
        _place(image, draw, stored.image, (_left(0, cell), top), scale * stored.boxes, cell, colours)
        for column, shown, facts in zip(self._columns, self._shown, self._facts, strict=True):
            left = _left(column, cell)
            boxes = shown.boxes * (cell / len(shown.pixels))
            _place(image, draw, shown.pixels, (left, top), boxes, cell, PALETTE)
            _write(draw, left, top + cell + 2, facts, _PALE)


def _words(seen: Seen) -> Iterator[str]:
    """What a sample is, line by line."""
    located, stored = seen.located, seen.stored
    yield f"n {seen.n}"
    yield f"step {seen.step}, epoch {seen.epoch}"
    yield from _wrapped(located.shard.rpartition("/")[2], _TEXT_WIDTH - _GAP)
    yield from _wrapped(located.member, _TEXT_WIDTH - _GAP)
    yield f"{stored.width} x {stored.height}" + ("" if stored.label < 0 else f", class {stored.label}")
    if seen.replaces is not None:
        yield from _wrapped(f"in place of {seen.replaces.member}, which is bad", _TEXT_WIDTH - _GAP)


def _place(
    image: Image.Image,
    draw: ImageDraw.ImageDraw,
    pixels: NDArray[np.uint8],
    corner: tuple[int, int],
    boxes: NDArray[np.floating[Any]],
    cell: int,
    colours: Sequence[tuple[int, int, int]],
) -> None:
    """A picture with its longer side as long as a cell, and boxes over it."""
    height, width = pixels.shape[:2]
    scale = cell / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    # below twice its size some pixels of an image would be doubled and others not
    how = Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.LANCZOS
    image.paste(Image.fromarray(pixels).resize(size, how), corner)
    for number, (top, left, high, wide) in enumerate(boxes.tolist()):
        if high > 0 and wide > 0:
            start = corner[0] + left, corner[1] + top
            end = start[0] + max(wide - 1, 1), start[1] + max(high - 1, 1)
            draw.rectangle([start, end], outline=colours[number % len(colours)], width=2)


def _write(
    draw: ImageDraw.ImageDraw, left: int, top: int, lines: Sequence[str], ink: tuple[int, int, int] = _INK
) -> None:
    for number, line in enumerate(lines):
        draw.text((left, top + number * _LINE), line, ink, _font())


@cache
def _font() -> "ImageFont.FreeTypeFont | ImageFont.ImageFont":
    return ImageFont.load_default(13)


def _wrapped(text: str, width: int) -> list[str]:
    """The text in lines of at most so many pixels, cut between words, or within one that is longer than a line."""
    lines, line = [], ""
    for word in text.split():
        while _font().getlength(word) > width:
            fits = next(end for end in range(len(word) - 1, 0, -1) if _font().getlength(word[:end]) <= width)
            lines += [line, word[:fits]] if line else [word[:fits]]
            line, word = "", word[fits:]
        joined = f"{line} {word}" if line else word
        if _font().getlength(joined) > width:
            lines, line = [*lines, line], word
        else:
            line = joined
    return [*lines, line] if line else lines
