"""Named timers of one agent: setting one again moves it, and all can be taken back at once."""

from __future__ import annotations

from collections.abc import Callable

from daemon.aio.reactor import Clock, DelayedCall


class Timers:
    """A handful of named timers on one clock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._calls: dict[str, DelayedCall] = {}

    def set(self, name: str, delay_s: float, call: Callable[[], None]) -> None:
        """Calls once after ``delay_s`` seconds, instead of what the name was set to before."""
        self.cancel(name)
        self._calls[name] = self._clock.callLater(delay_s, self._fire, name, call)

    def _fire(self, name: str, call: Callable[[], None]) -> None:
        del self._calls[name]
        call()

    def pending(self, name: str) -> bool:
        """Whether that timer is still to come."""
        return name in self._calls

    def cancel(self, name: str) -> None:
        """Takes a timer back; nothing happens when it is not set."""
        call = self._calls.pop(name, None)
        if call is not None:
            call.cancel()

    def cancel_all(self) -> None:
        """Takes every timer back."""
        for name in tuple(self._calls):
            self.cancel(name)
