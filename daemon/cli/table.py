"""Tables of text; pure. rich has better ones, but importing them takes as long as ``hostctl status``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from daemon.cli.words import cut, printable, width_of

GAP = "  "
LAST_LEAST = 16  # columns; with less room the last one is left out
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
    """

    heading: str
    right: bool = False
    optional: bool = False


def painted(text: str, colour: str, colours: bool) -> str:
    """The text in a colour, or as it is."""
    return f"\x1b[{COLOURS[colour]}m{text}\x1b[0m" if colours and colour else text


def render(
    columns: Sequence[Column], rows: Sequence[Sequence[Cell | str]], *, width: int | None = None,
    colours: bool = False,
) -> str:
    """A table whose last column takes the room that is left.

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
        last = kept[-1]
        room = width - sum(widths[i] for i in kept[:-1]) - len(GAP) * (len(kept) - 1)
        if room < min(widths[last], LAST_LEAST) and len(kept) > 1:
            kept.pop()
        else:
            widths[last] = min(widths[last], max(room, 1))
    headings = [Cell(text=columns[i].heading, colour="bold") for i in kept]
    lines = [_line(headings, kept, columns, widths, colours)]
    lines += [_line([row[i] for i in kept], kept, columns, widths, colours) for row in cells]
    return "".join(lines)


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
