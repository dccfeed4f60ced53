"""The one list of alerts: who raised what, since when, until when."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import msgspec
from twisted.logger import Logger

from daemon.interfaces import EventSink, WallClock
from daemon.model.alert import Alert
from daemon.model.event import Severity

log = Logger()

CLEARED_KEPT = 200
STANDING_MAX = 4096  # beyond every sensible host; a flood is counted, not kept
MESSAGE_MAX = 4096  # characters; longer ones quote somebody
_RANKS = {Severity.INFO: 0, Severity.WARN: 1, Severity.ERROR: 2}

Observer = Callable[[Alert], None]


def _fit(message: str) -> str:
    """A message that UTF-8 can say, of bounded length: causes quote file names and other people's output."""
    text = message if len(message) <= MESSAGE_MAX else message[: MESSAGE_MAX - 1] + "\N{HORIZONTAL ELLIPSIS}"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


class AlertBook:
    """Implements :class:`daemon.interfaces.AlertSink`. Used on the reactor's thread only.

    Alerts are not stored: after a restart of the daemon their sources raise them again, and the event journal
    remembers the old ones.

    An alert that is raised after it was cleared is a new one, however soon: what flaps is calmed where it is
    judged (``threshold_duration``, ``failure_threshold``), and a list that hid its flapping would lie.

    Args:
        wall: stamps them.
        events: hears ``alert.raised`` and ``alert.cleared``.

    Attributes:
        raised_total: alerts that began.
        cleared_total: alerts that ended.
        dropped_total: calls that would have begun an alert beyond the bound.
    """

    def __init__(self, wall: WallClock, events: EventSink) -> None:
        self.raised_total = 0
        self.cleared_total = 0
        self.dropped_total = 0
        self._wall = wall
        self._events = events
        self._standing: dict[tuple[str, str], Alert] = {}
        self._cleared: deque[Alert] = deque(maxlen=CLEARED_KEPT)
        self._observers: dict[object, Observer] = {}
        self._full_said = False

    def standing(self) -> tuple[Alert, ...]:
        """The alerts that stand, the newest first."""
        return tuple(reversed(self._standing.values()))

    def list(self) -> tuple[Alert, ...]:
        """Those that stand, then those that were cleared lately; the newest first."""
        return (*self.standing(), *reversed(self._cleared))

    def raise_alert(
        self,
        type: str,
        message: str,
        *,
        agent_id: str = "",
        severity: Severity = Severity.WARN,
        current_value: float | None = None,
        threshold: float | None = None,
    ) -> None:
        """See AlertSink. One that stands is announced again only when its severity rises."""
        key = (agent_id, type)
        old = self._standing.get(key)
        if old is None and len(self._standing) >= STANDING_MAX:
            self._drop(agent_id, type)
            return
        message = _fit(message)
        alert = Alert(
            agent_id=agent_id, type=type, severity=severity, message=message, current_value=current_value,
            threshold=threshold, timestamp=self._wall() if old is None else old.timestamp,
        )
        self._standing[key] = alert
        if old is not None and _RANKS[severity] <= _RANKS[old.severity]:
            return
        self.raised_total += old is None
        # Observers first: an event that cannot be stored raises or clears an alert itself, told after this.
        self._tell(alert)
        self._events.publish(
            "alert.raised", f"{type}: {message}", severity=severity, agent_id=agent_id,
            data={"type": type, "current_value": current_value, "threshold": threshold},
        )

    def clear(self, type: str, *, agent_id: str = "", message: str = "") -> None:
        """See AlertSink."""
        alert = self._standing.pop((agent_id, type), None)
        if alert is None:
            return
        now = self._wall()
        alert = msgspec.structs.replace(alert, cleared_at=now)
        self._cleared.append(alert)
        self._full_said &= len(self._standing) > STANDING_MAX // 2
        self.cleared_total += 1
        about = f"agent {agent_id}" if agent_id else "the daemon"
        self._tell(alert)
        self._events.publish(
            "alert.cleared",
            f"{type} of {about} is over after {max(0.0, now - alert.timestamp):.0f} s"
            + (f": {message}" if message else ""),
            agent_id=agent_id, data={"type": type},
        )

    def forget(self, agent_id: str) -> None:
        """See AlertSink."""
        for owner, type in tuple(self._standing):
            if owner == agent_id:
                self.clear(type, agent_id=agent_id, message="the agent has left the configuration")

    def subscribe(self, call: Observer) -> Callable[[], None]:
        """Calls with every alert that begins, rises or ends.

        Returns:
            ends the subscription.
        """
        key = object()
        self._observers[key] = call
        return lambda: self._observers.pop(key, None) and None

    def _drop(self, agent_id: str, type: str) -> None:
        self.dropped_total += 1
        if not self._full_said:
            self._full_said = True
            log.error("{count} alerts stand, no more are kept: {type} of {agent_id} is dropped and counted",
                      count=STANDING_MAX, type=type, agent_id=agent_id or "the daemon")

    def _tell(self, alert: Alert) -> None:
        for call in tuple(self._observers.values()):
            try:
                call(alert)
            except Exception:  # noqa: BLE001 - logged; whoever raises an alert is never hurt
                log.failure("an observer of alert {type} failed", type=alert.type)
