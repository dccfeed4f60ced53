"""How far a download is, and how often that is worth telling."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a download is.

    Attributes:
        received: bytes.
        total: bytes of the whole; None for not known.
        note: why it waits just now; empty while it does not.
    """

    received: int
    total: int | None
    note: str = ""

    @property
    def ratio(self) -> float:
        """0 to 1; 0 where the total is not known."""
        return min(1.0, self.received / self.total) if self.total else 0.0


class Tenths:
    """For events: at most one for every 10 %, whatever a download that begins anew does in between."""

    def __init__(self) -> None:
        self._told = 0

    def passed(self, progress: Progress) -> int | None:
        """Percent, a multiple of ten, when another tenth is done; None otherwise."""
        percent = int(progress.ratio * 10) * 10
        if percent <= self._told:
            return None
        self._told = percent
        return percent
