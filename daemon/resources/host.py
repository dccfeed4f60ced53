"""Keeps a day of what the host's collectors measure, in one ring on disk: ``work_dir/state/host.ring``."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from daemon.aio.periodic import Periodic, periodic
from daemon.aio.reactor import Clock
from daemon.aio.rota import until_beat_s
from daemon.aio.threads import LaneBusy, LaneTimeout, Threads
from daemon.config.schema import ResourcesConfig
from daemon.errors import StorageError
from daemon.interfaces import AlertSink, EventSink, WallClock
from daemon.model.event import Severity
from daemon.model.usage import HostPoint
from daemon.resources.host_record import HOST, HostSample
from daemon.resources.host_sample import Latest, host_points, host_sample
from daemon.resources.ring import Ring

log = Logger()

LANE = "host-history"
WRITE_DEADLINE_S = 10.0
READ_DEADLINE_S = 10.0
STOP_DEADLINE_S = 3.0
UNSAVED_MAX = 60  # samples that wait for a disk; older ones are counted as lost
ALERT = "host_history_storage"

_Numbered = tuple[int, HostSample]


class HostHistory(Service):
    """The service. It measures nothing itself: it keeps the newest samples of the collectors.

    Args:
        path: of the ring; its folder is there.
        clock: the reactor.
        wall: stamps samples.
        threads: stores and reads them.
        latest: the newest sample of every collector, by name.
        events: hears of a file that was no ring.
        alerts: hears of a disk that refuses.

    Attributes:
        lost_total: samples that no disk took in time.
    """

    def __init__(
        self, path: Path, clock: Clock, wall: WallClock, threads: Threads, latest: Callable[[], Latest],
        events: EventSink, alerts: AlertSink,
    ) -> None:
        self.lost_total = 0
        self._clock = clock
        self._wall = wall
        self._threads = threads
        self._latest = latest
        self._events = events
        self._alerts = alerts
        self._store = _Store(path)
        self._config = ResourcesConfig()
        self._before: Latest = {}
        self._numbers = itertools.count(1)
        self._unsaved: list[_Numbered] = []
        self._rounds: Periodic | None = None
        self._failing = ""

    @property
    def torn_total(self) -> int:
        """Damaged records found when the ring was opened; they are left out."""
        return self._store.torn

    @property
    def _capacity(self) -> int:
        return max(1, round(self._config.history / self._config.interval))

    def apply(self, config: ResourcesConfig) -> None:
        """Takes a configuration: how often, and for how long."""
        old, self._config = self._config, config
        if self._rounds is not None and old.interval != config.interval:
            self._rounds.stop().addErrback(
                lambda failure: log.failure("history of the host", failure=failure)
            )
            self._rounds = self._begin()

    def startService(self) -> None:
        """Begins; the first sample comes with the next beat of the clock."""
        super().startService()
        self._rounds = self._begin()

    def _begin(self) -> Periodic:
        interval_s = self._config.interval
        return periodic(
            self._clock, interval_s, lambda: Deferred.fromCoroutine(self._round()), name="host history",
            phase_s=until_beat_s(self._clock.seconds(), interval_s),  # in the wake of the agents' history
        )

    def stopService(self) -> Deferred[None]:
        """Stores what waits, once; fires when that is done."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        rounds, self._rounds = self._rounds, None
        if rounds is not None:
            await rounds.stop()
        await self._save(STOP_DEADLINE_S)

    async def _round(self) -> None:
        latest = dict(self._latest())
        sample = host_sample(self._before, latest, self._wall())
        self._before = latest
        if sample.known:
            self._unsaved.append((next(self._numbers), sample))
            if len(self._unsaved) > UNSAVED_MAX:
                del self._unsaved[0]
                self.lost_total += 1
        await self._save(WRITE_DEADLINE_S)

    async def _save(self, deadline_s: float) -> None:
        if not self._unsaved:
            return
        batch = tuple(self._unsaved)
        try:
            newest = await self._threads.run(LANE, deadline_s, self._store.append, batch, self._capacity)
        except (LaneBusy, LaneTimeout) as error:
            # It may be written all the same, later; the numbers keep it from being written twice.
            self._tell(f"the disk does not answer ({error}); check the disk of work_dir")
        except StorageError as error:
            self._tell(error.message)
        else:
            self._unsaved = [each for each in self._unsaved if each[0] > newest]
            self._tell("")

    def _tell(self, cause: str) -> None:
        kept, self._store.set_aside = self._store.set_aside, ""
        if kept:
            self._events.publish(
                "daemon.history_corrupt",
                f"the history of the host was unreadable; kept as {kept}, it begins anew",
                severity=Severity.WARN, data={"code": "D1004", "kept": kept},
            )
        if cause and not self._failing:
            text = f"history of the host: {cause}; up to {UNSAVED_MAX} samples wait for it"
            log.error("D1004 {text}", text=text, error_code="D1004")
            self._alerts.raise_alert(ALERT, text, severity=Severity.ERROR)
        elif not cause and self._failing:
            self._alerts.clear(ALERT, message="history of the host is stored again")
        self._failing = cause

    async def query(self, duration_s: int, step_s: int = 0) -> Sequence[HostPoint]:
        """The points of the last ``duration_s`` seconds by wall time, oldest first.

        Args:
            duration_s: seconds.
            step_s: seconds that make one point; 0 gives the samples as they are.

        Raises:
            StorageError: the history cannot be read.
        """
        since = self._wall() - duration_s
        waiting = tuple(self._unsaved)
        try:
            return await self._threads.run(
                LANE, READ_DEADLINE_S, self._store.points, since, step_s, self._capacity, waiting
            )
        except (LaneBusy, LaneTimeout) as error:
            raise StorageError(
                f"the history of the host does not answer ({error}); check the disk of work_dir"
            ) from error


class _Store:
    """The ring; every method blocks and is called on the lane.

    Attributes:
        torn: see :class:`HostHistory`.
        set_aside: where the file is now that was found instead of a ring; empty otherwise, or once told.
    """

    def __init__(self, path: Path) -> None:
        self.torn = 0
        self.set_aside = ""
        self._path = path
        self._ring: Ring[HostSample] | None = None
        self._newest = 0

    def append(self, samples: Sequence[_Numbered], capacity: int) -> int:
        """Stores what is not on disk yet; the number of the newest that is.

        Raises:
            StorageError: the disk refuses.
        """
        ring = self._open(capacity)
        new = [each for each in samples if each[0] > self._newest]
        begin = ring.next
        try:
            ring.append(sample for _number, sample in new)
        except StorageError:
            self._ring = None  # whatever happened to it: the next time it is looked at anew
            raise
        finally:
            if ring.next > begin:
                self._newest = new[ring.next - begin - 1][0]
        return self._newest

    def points(
        self, since: float, step_s: int, capacity: int, waiting: Sequence[_Numbered]
    ) -> Sequence[HostPoint]:
        """See :meth:`HostHistory.query`.

        Raises:
            StorageError: it cannot be read.
        """
        stored = self._open(capacity).read_since(since)
        more = [sample for number, sample in waiting if number > self._newest and sample.at >= since]
        return host_points(itertools.chain(map(HOST.sample_of, stored), more), step_s)

    def _open(self, capacity: int) -> Ring[HostSample]:
        if self._ring is None or self._ring.wanted != capacity:
            first = self._ring is None
            self._ring = ring = Ring(self._path, capacity, HOST)
            self.torn += ring.torn if first else 0
            self.set_aside = ring.set_aside or self.set_aside
        return self._ring
