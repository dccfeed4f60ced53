"""Silence of the other side, as long as it is the other side that is silent."""

from __future__ import annotations

from collections.abc import Callable

from daemon.aio.reactor import Clock, DelayedCall


class Silence:
    """Calls ``broken`` once nothing was heard for ``limit_s`` seconds; begins with the first :meth:`heard`.

    One timer, set anew when it comes too early: a fast transfer hears something thousands of times a second.

    Args:
        clock: measures.
        limit_s: seconds.
        broken: called at most once.
    """

    def __init__(self, clock: Clock, limit_s: float, broken: Callable[[], None]) -> None:
        self._clock = clock
        self._limit_s = limit_s
        self._broken = broken
        self._heard_at = 0.0
        self._held = False
        self._timer: DelayedCall | None = None
        self._over = False

    def heard(self) -> None:
        """Something came."""
        self._heard_at = self._clock.seconds()
        if self._timer is None and not self._over:
            self._timer = self._clock.callLater(self._limit_s, self._look)

    def hold(self) -> None:
        """From now on it is we who do not listen."""
        self._held = True

    def release(self) -> None:
        """We listen again, and the other side has all its time again."""
        self._held = False
        self._heard_at = self._clock.seconds()

    def end(self) -> None:
        """Nothing is called any more."""
        self._over = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def _look(self) -> None:
        left_s = self._limit_s if self._held else self._heard_at + self._limit_s - self._clock.seconds()
        if left_s > 0:
            self._timer = self._clock.callLater(left_s, self._look)
        else:
            self._over = True
            self._broken()
