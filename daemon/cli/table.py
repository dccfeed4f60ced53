"""Tables of text; pure. rich has better ones, but importing them takes as long as ``hostctl status``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from daemon.cli.words import cut, printable, width_of

GAP = "  "
LEAST = 16  # columns of the terminal; a text that is longer is not cut below it
_UNDER = "  └ "
_PAINT = re.compile("\x1b\\[[0-9]+m")
COLOURS = {"red": 31, "green": 32, "yellow": 33, "cyan": 36, "dim": 2, "bold": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A text and its colour, a key of :data:`COLOURS`; empty for none."""

    text: str
    colour: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A heading.

    Attributes:
        right: numbers stand at the right.
        optional: the column is left out where every cell of it is ``-`` or empty.
        elastic: its cells may be cut where the terminal is too narrow; so may those of the last column.
        spare: the column with the highest is the first to be left out where that is not enough, and of equal
            ones the rightmost; the first column stays.
    """

    heading: str
    right: bool = False
    optional: bool = False
    elastic: bool = False
    spare: int = 0


def painted(text: str, colour: str, colours: bool) -> str:
    """The text in a colour, or as it is."""
    return f"\x1b[{COLOURS[colour]}m{text}\x1b[0m" if colours and colour else text


def render(
    columns: Sequence[Column], rows: Sequence[Sequence[Cell | str]], *, width: int | None = None,
    colours: bool = False,
) -> str:
    """A table. On a terminal no line is wider than it is: see :class:`Column` for what gives way.

    Args:
        columns: as many as each row has cells.
        rows: cells; what is in them is made harmless here.
        width: of the terminal; None: nothing is cut, for files and pipes.
        colours: whether cells are painted.

    Returns:
        Lines, each with its line end.
    """
    cells = [[_harmless(cell) for cell in row] for row in rows]
    kept = [
        i for i, column in enumerate(columns)
        if not column.optional or any(row[i].text not in ("", "-") for row in cells)
    ]
    widths = {
        i: max([width_of(columns[i].heading), *(width_of(row[i].text) for row in cells)]) for i in kept
    }
    if width is not None and kept:
        _fit(columns, kept, widths, width)
    headings = [Cell(text=columns[i].heading, colour="bold") for i in kept]
    lines = [_line(headings, kept, columns, widths, colours)]
    lines += [_line([row[i] for i in kept], kept, columns, widths, colours) for row in cells]
    return "".join(lines)


def _fit(columns: Sequence[Column], kept: list[int], widths: dict[int, int], width: int) -> None:
    """Leaves columns out of ``kept`` and narrows ``widths`` until a line fits."""
    while True:
        elastic = [i for i in kept if columns[i].elastic or i == kept[-1]]
        room = width - sum(widths[i] for i in kept if i not in elastic) - len(GAP) * (len(kept) - 1)
        if len(kept) == 1 or room >= sum(min(widths[i], LEAST) for i in elastic):
            break
        kept.remove(max(kept[1:], key=lambda i: (columns[i].spare, i)))
    elastic.sort(key=lambda i: widths[i])  # the short ones leave their share to the long ones
    for left, i in zip(range(len(elastic), 0, -1), elastic, strict=True):
        widths[i] = min(widths[i], max(room // left, 1))
        room -= widths[i]


def widest(text: str) -> int:
    """Columns of a terminal that the longest line takes; what paints it takes none."""
    return max((width_of(_PAINT.sub("", line)) for line in text.splitlines()), default=0)


def under(text: str, width: int) -> str:
    """A text that had no room in its row, whole, in lines of its own below it."""
    from textwrap import fill  # only where something is wrong

    indent = " " * len(_UNDER)
    return fill(_UNDER + printable(text), max(width, LEAST), subsequent_indent=indent) + "\n"


def _harmless(cell: Cell | str) -> Cell:
    if isinstance(cell, Cell):
        return Cell(text=printable(cell.text), colour=cell.colour)
    return Cell(text=printable(cell))


def _line(
    cells: Sequence[Cell], kept: Sequence[int], columns: Sequence[Column], widths: dict[int, int],
    colours: bool,
) -> str:
    parts = []
    for cell, i in zip(cells, kept, strict=True):
        text = cut(cell.text, widths[i])
        pad = " " * (widths[i] - width_of(text))
        shown = painted(text, cell.colour, colours)
        parts.append(pad + shown if columns[i].right else shown + ("" if i == kept[-1] else pad))
    return GAP.join(parts).rstrip(" ") + "\n"


def pairs(items: Sequence[tuple[str, object]]) -> str:
    """Names and values, a line for each; what is None or empty is left out."""
    shown = [(name, value) for name, value in items if value not in (None, "", [], {})]
    widest = max((len(name) for name, _ in shown), default=0)
    return "".join(f"{name.ljust(widest)}  {printable(value)}\n" for name, value in shown)
