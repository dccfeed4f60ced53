"""Where a log is cut, pure: whole blocks leave the live file, whole lines go into the rotated one.

The kernel can only take whole blocks from the head, and lines do not end at blocks. The cut is at the last
block boundary N; the copy goes on to the first line end at or after N. What the copy took beyond N stays at
the head of the live file, and is skipped there by everybody from then on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

FindEnd = Callable[[int, int], int]
"""``find(begin, end)``: the offset just behind the first newline in [begin, end), or -1."""
FindLastEnd = Callable[[int, int], int]
"""``find(begin, end)``: the offset just behind the last newline in [begin, end), or -1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A cut of a live file.

    Attributes:
        begin: the first byte to be copied: what is before it was copied by the cut before.
        end: behind the last byte to be copied, a line end unless ``split``.
        collapse: bytes that leave the head; a multiple of the block size, at most ``end``.
        split: a line longer than the file may be had to be cut in its middle.
    """

    begin: int
    end: int
    collapse: int
    split: bool = False

    @property
    def skip(self) -> int:
        """Bytes at the head of the live file, after the collapse, that are copied already."""
        return self.end - self.collapse


def plan_cut(
    size: int, skip: int, block: int, first_end: FindEnd, last_end: FindLastEnd, *, may_split: bool
) -> Cut | None:
    """Where to cut a file of ``size`` bytes whose first ``skip`` bytes are copied already; None for nowhere.

    Args:
        block: the unit of a collapse, which may not reach the end of the file.
        first_end, last_end: look for line ends.
        may_split: cut in the middle of a line where there is no line end at all.
    """
    boundary = (size - 1) // block * block
    if boundary <= 0 or boundary < skip:
        return None
    end = first_end(max(boundary - 1, skip), size)
    if end < 0:  # the last line has not ended: the cut is before it
        end = last_end(skip, boundary)
        boundary = end // block * block if end > 0 else 0
        if boundary > 0:
            end = first_end(max(boundary - 1, skip), size)
    if end > skip and boundary > 0:
        return Cut(begin=skip, end=end, collapse=boundary)
    boundary = (size - 1) // block * block
    if may_split and boundary > skip:
        return Cut(begin=skip, end=boundary, collapse=boundary, split=True)
    return None
