"""Who waits for any change of an agent: told on a turn of its own, once for all that changed together."""

from __future__ import annotations

from collections.abc import Callable

from daemon.aio.reactor import Clock, DelayedCall


class Watchers:
    """The watchers of one agent.

    Args:
        clock: calls them.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._calls: list[Callable[[], None]] = []
        self._soon: DelayedCall | None = None

    def add(self, call: Callable[[], None]) -> Callable[[], None]:
        """Calls after each change from now on.

        Returns:
            ends that; harmless when it has ended.
        """
        self._calls.append(call)

        def end() -> None:
            if call in self._calls:
                self._calls.remove(call)
            if not self._calls:
                self.clear()

        return end

    def changed(self) -> None:
        """Something changed."""
        if self._calls and self._soon is None:
            self._soon = self._clock.callLater(0, self._tell)

    def _tell(self) -> None:
        self._soon = None
        for call in tuple(self._calls):
            call()

    def clear(self) -> None:
        """Nobody watches any more."""
        self._calls.clear()
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
