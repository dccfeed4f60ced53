"""An answer that serves many callers: given again while nothing it tells of is known to have changed."""

from __future__ import annotations

import time
from collections.abc import Callable

FRESH_S = 0.02


class RecentAnswer:
    """The last answer to a question whose answer is the same for everybody.

    A crossing to the reactor costs as much as all of gRPC's own work for a small call; while many ask at the
    same time one look serves them all. Whoever hears of a change says so by :meth:`forget`, so that a caller
    who changed something sees it; what changes without a word (the second of a heartbeat) shows at most
    ``fresh_s`` later, and a reactor that hangs is not hidden for longer than that.

    Args:
        fresh_s: seconds after which an answer is no longer given.
        now: monotonic seconds, in any thread.
    """

    def __init__(self, fresh_s: float = FRESH_S, now: Callable[[], float] = time.monotonic) -> None:
        self._fresh_s = fresh_s
        self._now = now
        self._kept: tuple[bytes, float] | None = None  # replaced as a whole: workers read it without a lock

    def get(self) -> bytes | None:
        """The answer, in any thread; None: look for yourself."""
        kept = self._kept
        return kept[0] if kept is not None and self._now() < kept[1] else None

    def keep(self, answer: bytes) -> bytes:
        """What is so at this moment; on the reactor's thread, like the changes it would have to hear of."""
        self._kept = (answer, self._now() + self._fresh_s)
        return answer

    def forget(self) -> None:
        """Something changed; on the reactor's thread."""
        self._kept = None
