"""Brings the event journal to the platter once a second, when there is something to bring."""

from __future__ import annotations

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from daemon.aio.periodic import Periodic, periodic
from daemon.aio.reactor import Clock
from daemon.errors import StorageError
from daemon.events.journal import EventJournal

log = Logger()

SYNC_INTERVAL_S = 1.0


class EventJournalService(Service):
    """Syncs the journal while it runs and once more when it stops; stop it after all who publish.

    It does not close the journal: events published while the process ends are still written.

    Args:
        clock: the reactor.
        journal: made by the caller, who closes it.
        interval_s: seconds of events that a power failure may cost.

    Attributes:
        sync_failures_total: syncs that the disk refused.
    """

    name = "events"

    def __init__(
        self, clock: Clock, journal: EventJournal, *, interval_s: float = SYNC_INTERVAL_S
    ) -> None:
        self.sync_failures_total = 0
        self._clock = clock
        self._journal = journal
        self._interval_s = interval_s
        self._timer: Periodic | None = None
        self._refused = False

    def startService(self) -> None:
        """Begins; the first sync comes after one interval."""
        super().startService()
        self._timer = periodic(
            self._clock, self._interval_s, self._sync, name="event journal sync", phase_s=self._interval_s
        )

    def stopService(self) -> Deferred[None]:
        """Ends it; fires when everything published before is synced, or the disk refused."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            await timer.stop()
        await self._sync()

    def _sync(self) -> Deferred[None]:
        if not self._journal.dirty:
            return succeed(None)
        return Deferred.fromCoroutine(self._sync_now())

    async def _sync_now(self) -> None:
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
