"""A budget of work per turn of the reactor, so that a burst cannot hold the loop.

The epoll reactor handles every ready descriptor before it looks at a timer again: fifty agents that die
at once would mean fifty spawns in one turn. Whoever may come in bursts asks here first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from twisted.logger import Logger

from daemon.aio.reactor import Clock

log = Logger()

TURN_BUDGET_S = 0.010  # a fifth of the 50 ms that nothing may exceed


class TurnBudget:
    """Runs work at once while the turn's budget lasts, later turns take the rest in order.

    Args:
        clock: the reactor.
        now: a clock fine enough for milliseconds that moves within a turn.
        budget_s: seconds of such work per turn.
    """

    def __init__(self, clock: Clock, now: Callable[[], float], budget_s: float = TURN_BUDGET_S) -> None:
        self._clock = clock
        self._now = now
        self._budget_s = budget_s
        self._spent_s = 0.0
        self._turn_open = False
        self._busy = False
        self._waiting: deque[Callable[[], None]] = deque()

    def run(self, work: Callable[[], None]) -> None:
        """Runs ``work`` now or, after a full turn, in one of the next.

        Work that asks for more work gets it in the next turn: it cannot nest without end.
        """
        if self._busy or self._waiting or self._spent_s >= self._budget_s:
            self._waiting.append(work)
        else:
            self._measure(work)
        if not self._turn_open:
            self._turn_open = True
            self._clock.callLater(0, self._next_turn)

    def _measure(self, work: Callable[[], None]) -> None:
        begin = self._now()
        self._busy = True
        try:
            work()
        except Exception:  # noqa: BLE001 - logged; one agent's fault is not the next one's
            log.failure("work of this turn failed")
        finally:
            self._busy = False
        self._spent_s += self._now() - begin

    def _next_turn(self) -> None:
        self._spent_s = 0.0
        for _ in range(len(self._waiting)):  # what these ask for comes after them, in another turn
            if self._spent_s >= self._budget_s:
                break
            self._measure(self._waiting.popleft())
        self._turn_open = bool(self._waiting or self._spent_s)
        if self._turn_open:
            self._clock.callLater(0, self._next_turn)
