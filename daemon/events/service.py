"""Brings the event journal to the platter soon after events were written, and sleeps otherwise."""

from __future__ import annotations

from collections.abc import Callable

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from daemon.aio.reactor import Clock, DelayedCall
from daemon.errors import StorageError
from daemon.events.bus import EventBus
from daemon.events.journal import EventJournal
from daemon.model.event import Event

log = Logger()

SYNC_DELAY_S = 1.0


class EventJournalService(Service):
    """Syncs the journal within a second of an event and once when it stops; stop it after all who publish.

    A host where nothing happens is not woken. It does not close the journal: events published while the
    process ends are still written.

    Args:
        clock: the reactor.
        bus: whose events are journalled.
        journal: made by the caller, who closes it.
        delay_s: seconds of events that a power failure may cost.

    Attributes:
        sync_failures_total: syncs that the disk refused.
    """

    name = "events"

    def __init__(
        self, clock: Clock, bus: EventBus, journal: EventJournal, *, delay_s: float = SYNC_DELAY_S
    ) -> None:
        self.sync_failures_total = 0
        self._clock = clock
        self._bus = bus
        self._journal = journal
        self._delay_s = delay_s
        self._timer: DelayedCall | None = None
        self._unsubscribe: Callable[[], None] = lambda: None
        self._under_way: Deferred[None] | None = None
        self._refused = False

    def startService(self) -> None:
        """Begins to follow the events; what was written before is synced with the first one."""
        super().startService()
        self._unsubscribe = self._bus.subscribe(self._published)
        if self._journal.dirty:
            self._schedule()

    def stopService(self) -> Deferred[None]:
        """Ends it; fires when everything published before is synced, or the disk refused."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self._unsubscribe()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._under_way is not None:
            waiter: Deferred[None] = Deferred()
            self._under_way.addCallback(waiter.callback)
            await waiter
        await self._sync()

    def _published(self, _event: Event) -> None:
        if self._timer is None and self._under_way is None:
            self._schedule()

    def _schedule(self) -> None:
        self._timer = self._clock.callLater(self._delay_s, self._due)

    def _due(self) -> None:
        self._timer = None
        self._under_way = done = Deferred.fromCoroutine(self._sync())
        done.addErrback(lambda failure: log.failure("event journal sync", failure=failure))
        done.addCallback(self._rest)

    def _rest(self, _result: object) -> None:
        self._under_way = None
        if self.running and self._journal.dirty:  # more came meanwhile, or the disk refused: again
            self._schedule()

    async def _sync(self) -> None:
        if not self._journal.dirty:
            return
        try:
            await self._journal.sync()
        except StorageError as error:
            self.sync_failures_total += 1
            if not self._refused:  # once, not every second
                self._refused = True
                log.error("a power failure may cost events: {error}",
                          error=str(error), error_code=error.code.value)
            return
        if self._refused:
            self._refused = False
            log.info("the event journal is synced again")
