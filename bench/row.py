"""One row of the table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A measure and its floor, both of the same run, as the table shows them.

    Attributes:
        ratio: ours by floor, None where the aim is an absolute number.
        aim: in words.
    """

    measure: str
    floor: str
    ours: str
    ratio: float | None
    aim: str
    holds: bool

    def cells(self) -> tuple[str, ...]:
        """The texts of the columns."""
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}"
        return (self.measure, self.floor, self.ours, ratio, self.aim, "yes" if self.holds else "**NO**")


HEADINGS = ("measure", "floor", "ours", "ratio", "aim", "holds?")


def ms(seconds: float) -> str:
    """Seconds as milliseconds."""
    return f"{seconds * 1000:.2f} ms" if seconds < 0.1 else f"{seconds * 1000:.0f} ms"
