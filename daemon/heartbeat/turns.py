"""Fair shares of the reactor among connections: nobody waits for a flooding writer.

All connections together work for ``TURN_S`` in one turn of the loop. Who still has messages then
stops reading its socket and queues; those who wait get half of each turn, one after the other, and the
other half is for fresh data, so that a quiet agent is heard at once.
"""

from __future__ import annotations

from typing import Protocol

from daemon.aio.reactor import Clock, DelayedCall

TURN_S = 0.004


class Waiter(Protocol):
    """Who waits for a turn."""

    def proceed(self) -> None:
        """Works on, for one slice or until the turn is spent; queues again when work is left."""
        ...


class Turns:
    """The turns of one receiver."""

    def __init__(self, clock: Clock, turn_s: float = TURN_S) -> None:
        self._clock = clock
        self._turn_s = turn_s
        self._begun = False  # whether anybody has worked in this turn of the loop
        self._ends = 0.0
        self._next: DelayedCall | None = None
        self._waiting: dict[Waiter, None] = {}  # an ordered set

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def spent(self) -> bool:
        """Whether this turn's time is used up; the first question begins a turn."""
        if not self._begun:
            self._begin(self._turn_s)
            return False
        return self._clock.seconds() >= self._ends

    def queue(self, waiter: Waiter) -> None:
        """Its ``proceed`` will be called in a later turn."""
        self._waiting[waiter] = None
        if self._next is None:
            self._next = self._clock.callLater(0, self._turn)

    def forget(self, waiter: Waiter) -> None:
        """It waits no more."""
        self._waiting.pop(waiter, None)

    def stop(self) -> None:
        """Nobody is called any more."""
        self._waiting.clear()
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def _begin(self, length_s: float) -> None:
        self._begun = True
        self._ends = self._clock.seconds() + length_s
        if self._next is None:
            self._next = self._clock.callLater(0, self._turn)

    def _turn(self) -> None:
        """A new turn of the loop: first those who wait."""
        self._next = None
        self._begun = False
        if self._waiting:
            self._begin(self._turn_s / 2)
            self._serve()
            self._ends += self._turn_s / 2

    def _serve(self) -> None:
        for _ in range(len(self._waiting)):
            waiter = next(iter(self._waiting), None)
            if waiter is None:
                break
            del self._waiting[waiter]
            waiter.proceed()
            if self.spent():
                break
