"""Columns that fit: how wide each is, which are left out, and text cut to a width in cells."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from bootserve.status.reading import Row

GAP = 1
"""Cells between two columns."""


@dataclass(frozen=True, slots=True)
class Glyphs:
    """What is drawn with."""

    done: str
    half: str
    rest: str
    cut: str
    dot: str


UNICODE = Glyphs("━", "╾", "─", "…", "·")
ASCII = Glyphs("#", "-", "-", "~", "-")


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table. ``draw`` gets a row and the cells it may take, and may take fewer."""

    key: str
    title: str
    least: int
    most: int
    draw: Callable[[Row, int], Text]
    is_right: bool = False


def choose(
    columns: Sequence[Column], importance: Sequence[str], stretch: Sequence[str], width: int
) -> list[tuple[Column, int]]:
    """Return the columns that fit, in their order, with their widths.

    Args:
        importance: the keys of all columns; one is taken if there is room beside those before it.
        stretch: the keys of those that share what is left, in this order.
    """
    by_key = {column.key: column for column in columns}
    widths: dict[str, int] = {}
    room = width + GAP
    for key in importance:
        least = by_key[key].least
        if not widths:
            least = min(least, width)
        if 0 < least <= room - GAP:
            widths[key] = least
            room -= least + GAP
    for key in stretch:
        if key in widths:
            more = min(room, by_key[key].most - widths[key])
            if more > 0:
                widths[key] += more
                room -= more
    return [(column, widths[column.key]) for column in columns if column.key in widths]


def heading(chosen: Iterable[tuple[Column, int]]) -> Text:
    """The titles above the columns."""
    return _join((Text(column.title, "dim"), width, column.is_right) for column, width in chosen)


def line(chosen: Iterable[tuple[Column, int]], row: Row) -> Text:
    """A row of a table."""
    return _join((column.draw(row, width), width, column.is_right) for column, width in chosen)


def natural(texts: Iterable[str], most: int) -> int:
    """The cells that the widest of these takes, up to ``most``."""
    return min(max((cell_len(text) for text in texts), default=0), most)


def cut(text: str, width: int, glyphs: Glyphs, *, keep_end: bool = False) -> str:
    """Shorten a text to so many cells, and mark where.

    Args:
        keep_end: it is a path, the end of which says most: cut its beginning off.
    """
    if cell_len(text) <= width:
        return text
    if width <= 1:
        return glyphs.cut[:width]
    if not keep_end:
        return set_cell_size(text, width - 1).rstrip() + glyphs.cut
    while text and cell_len(text) > width - 1:
        text = text[max(len(text) - width + 1, 1) :]
    # Rather a whole name than a longer end that begins within one.
    return glyphs.cut + (text[text.find("/") :] if "/" in text else text)


def _join(parts: Iterable[tuple[Text, int, bool]]) -> Text:
    joined = Text(no_wrap=True, overflow="crop", end="\n")
    for number, (text, width, is_right) in enumerate(parts):
        if number:
            joined.append(" " * GAP)
        if text.cell_len > width:
            text.truncate(width, overflow="crop")
        pad = " " * (width - text.cell_len)
        if is_right:
            joined.append(pad)
        joined.append_text(text)
        if not is_right:
            joined.append(pad)
    joined.rstrip()
    return joined
