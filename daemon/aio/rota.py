"""Many small periodic jobs that share their wakes.

A process that slept comes back to cold caches: a wake costs some 0.5 ms of CPU whatever is done in it, and
a timer of its own for each of hundreds of jobs costs more than the jobs do. Those who have the same interval
and phase are one *shift* here, which wakes once for all of them.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.logger import Logger

from daemon.aio.periodic import Periodic, periodic
from daemon.aio.reactor import Clock

log = Logger()

PHASE_MIN_S = 0.001  # never within the call that asks


def until_beat_s(now_s: float, interval_s: float, phase: float = 0.0) -> float:
    """Seconds until the clock itself stands at the next multiple of the interval, moved by its phase (0..1).

    By the clock and not by the time of asking: whoever has the same interval shares wakes, whenever he came.
    """
    return max(PHASE_MIN_S, (interval_s * phase - now_s) % interval_s)


class Member:
    """One job; made by :meth:`Rota.join`."""

    def __init__(self, name: str, work: Callable[[], None], shift: _Shift) -> None:
        self.name = name
        self.work = work
        self.failures_total = 0
        self._shift = shift

    def leave(self) -> None:
        """Its work is not called again."""
        self._shift.leave(self)


class Rota:
    """The shifts of one subject.

    Args:
        clock: the reactor.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._shifts: dict[tuple[float, float], _Shift] = {}

    @property
    def shifts(self) -> int:
        """Timers in use."""
        return len(self._shifts)

    def join(self, interval_s: float, phase: float, work: Callable[[], None], *, name: str) -> Member:
        """Calls ``work`` every ``interval_s`` seconds from the next beat on.

        Args:
            interval_s: seconds, > 0.
            phase: 0..1, the place of the beat within the interval.
            work: plain; what it raises is logged and counted, neither ends its rounds nor touches others'.
            name: for the log.
        """
        key = (interval_s, phase)
        shift = self._shifts.get(key)
        if shift is None:
            shift = self._shifts[key] = _Shift(lambda: self._shifts.pop(key, None))
            shift.rounds = periodic(
                self._clock, interval_s, shift.work, name="a shift of " + name,
                phase_s=until_beat_s(self._clock.seconds(), interval_s, phase),
            )
        member = Member(name, work, shift)
        shift.members[member] = None
        return member


class _Shift:
    """Those who share one timer."""

    def __init__(self, over: Callable[[], object]) -> None:
        self.members: dict[Member, None] = {}
        self.rounds: Periodic | None = None
        self._over = over

    def leave(self, member: Member) -> None:
        self.members.pop(member, None)
        if not self.members and self.rounds is not None:
            self.rounds.stop()  # no round has a Deferred: it is over at once
            self.rounds = None
            self._over()

    def work(self) -> None:
        for member in tuple(self.members):
            if member not in self.members:
                continue  # one before it took it out
            try:
                member.work()
            except Exception:  # noqa: BLE001 - logged and counted; the others have their turn
                member.failures_total += 1
                log.failure("{name}: a round failed; the next one comes", name=member.name)
