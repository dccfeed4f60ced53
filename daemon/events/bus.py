"""The event bus: subjects publish, the journal keeps, the edges listen."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from twisted.logger import Logger

from daemon.errors import StorageError
from daemon.events.codec import encode_event
from daemon.events.history import EventHistory, EventPage
from daemon.events.journal import EventJournal
from daemon.interfaces import WallClock
from daemon.model.event import Event, Severity

log = Logger()

Observer = Callable[[Event], None]


class EventBus:
    """Implements :class:`daemon.interfaces.EventSink`. Used on the reactor's thread only.

    Args:
        wall: stamps the events.
        journal: keeps them over restarts; None (a disk that cannot be used) keeps the newest in memory.

    Attributes:
        published_total: events published.
        lost_total: those of them that are not in the journal because the disk refused.
        observer_failures_total: calls of observers that raised.
    """

    def __init__(self, wall: WallClock, journal: EventJournal | None = None) -> None:
        self.published_total = 0
        self.lost_total = 0
        self.observer_failures_total = 0
        self._wall = wall
        self._history = journal if journal is not None else EventHistory(max(1, int(wall())))
        self._observers: dict[object, Observer] = {}
        self._undelivered: deque[Event] = deque()
        self._delivering = False
        self._refused = False
        self._on_refusal: Callable[[str], None] = lambda _text: None

    @property
    def position(self) -> str:
        """The newest id issued: reading after it gives what is published from now on."""
        return self._history.position

    def latest(self, limit: int) -> tuple[Event, ...]:
        """The newest ``limit`` events, oldest first; not more than memory holds (512)."""
        return self._history.latest(limit)

    async def read_after(self, event_id: str | None, limit: int) -> EventPage:
        """See :meth:`EventHistory.read_after`."""
        return await self._history.read_after(event_id, limit)

    def publish(
        self,
        type: str,
        message: str,
        *,
        severity: Severity = Severity.INFO,
        agent_id: str = "",
        data: Mapping[str, Any] | None = None,
    ) -> None:
        """Announces one event. Never raises, whatever ``data`` holds: what JSON cannot say is replaced."""
        event, line = encode_event(Event(
            id=self._history.issue(), at=self._wall(), type=type, severity=severity, agent_id=agent_id,
            message=message, data=data or {},
        ))
        self.published_total += 1
        try:
            self._history.store(event, line)
        except StorageError as error:
            self._not_stored(error)
        else:
            if self._refused:
                self._refused = False
                self._on_refusal("")
                log.info("the event journal takes events again; {lost_total} were lost so far",
                         lost_total=self.lost_total)
        self._undelivered.append(event)
        if not self._delivering:  # else an observer published: the loop below comes to it in order
            self._deliver()

    def _not_stored(self, error: StorageError) -> None:
        self.lost_total += 1
        if not self._refused:  # once, not for every event of a full disk
            self._refused = True
            log.error("events are kept in memory only: {error}",
                      error=str(error), error_code=error.code.value)
            self._on_refusal(f"events are kept in memory only: {error.message}")

    def when_refused(self, call: Callable[[str], None]) -> None:
        """Calls once when the journal begins to refuse events, and with an empty text when it takes them
        again.
        """
        self._on_refusal = call

    def _deliver(self) -> None:
        self._delivering = True
        try:
            while self._undelivered:
                event = self._undelivered.popleft()
                for key, observer in tuple(self._observers.items()):
                    if key not in self._observers:
                        continue  # an observer before it took this one away
                    try:
                        observer(event)
                    except Exception:  # noqa: BLE001 - logged and counted; a publisher is never hurt
                        self.observer_failures_total += 1
                        log.failure("an observer of event {event_id} failed", event_id=event.id)
        finally:
            self._delivering = False

    def subscribe(self, callback: Observer) -> Callable[[], None]:
        """Calls ``callback`` with every event published from now on, in order, within ``publish``.

        Returns:
            ends the subscription; calling it again does nothing.
        """
        key = object()
        self._observers[key] = callback

        def unsubscribe() -> None:
            self._observers.pop(key, None)

        return unsubscribe
