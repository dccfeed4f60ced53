"""One collector on its timer: deadline, overlap, success and failure."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from daemon.aio.periodic import Periodic, periodic
from daemon.aio.reactor import Clock, DelayedCall
from daemon.aio.threads import LaneBusy, LaneTimeout, Threads
from daemon.collectors.base import Collector, is_blocking, lane_of
from daemon.errors import CollectError, DaemonError
from daemon.interfaces import EventSink, WallClock
from daemon.model.event import Severity
from daemon.model.metrics import Metrics

log = Logger()

STOP_GRACE_S = 5.0  # for a round that does not end when it is cancelled (a plug-in may do that)


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectorStats:
    """How a collector is doing.

    Attributes:
        duration_s: of the last round that ended.
        success: whether that one succeeded; False before the first.
        rounds_total: rounds begun.
        failures_total: rounds that failed.
        skipped_total: rounds left out because the one before had not ended.
        last_error: what the last failure said, with its code; empty if none ever did.
        last_success_at: wall time, Unix seconds; 0 before the first.
    """

    duration_s: float = 0.0
    success: bool = False
    rounds_total: int = 0
    failures_total: int = 0
    skipped_total: int = 0
    last_error: str = ""
    last_success_at: float = 0.0


def as_collect_error(failure: Failure) -> CollectError | None:
    """What the failure of a round means; None for one nobody foresaw, a bug."""
    error = failure.value
    if isinstance(error, CollectError):
        return error
    if isinstance(error, DaemonError):
        return CollectError(error.message, **error.details)
    if isinstance(error, (LaneTimeout, LaneBusy)):
        return CollectError(f"{error}; a disk or server does not answer")
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        return CollectError(f"{error.strerror or error}{where}")
    return None


class CollectorRunner:
    """Runs one collector.

    Args:
        clock: timers and durations.
        threads: where a collector that blocks is called.
        wall: for ``last_success_at``.
        events: hears ``collector.failed`` and ``collector.recovered``, at changes only.
        collector: what is run.
        before: the runner of an earlier collector of that name; its latest sample and its counts go on.
    """

    def __init__(
        self,
        clock: Clock,
        threads: Threads,
        wall: WallClock,
        events: EventSink,
        collector: Collector,
        before: CollectorRunner | None = None,
    ) -> None:
        self.collector = collector
        self.name = collector.name
        self._clock = clock
        self._threads = threads
        self._wall = wall
        self._events = events
        self._timer: Periodic | None = None
        self._under_way: Deferred[None] | None = None
        self._deadline: DelayedCall | None = None
        self._busy = False
        self._dropped = False  # the round under way has been counted as failed, or nobody waits for it
        self._waiters: list[Deferred[None]] = []
        self.latest: Metrics | None = before.latest if before is not None else None
        self._failing: bool = before._failing if before is not None else False
        self._stats = before.stats if before is not None else CollectorStats()
        self._began_s = 0.0
        self._rounds_total = self._stats.rounds_total
        self._skipped_total = self._stats.skipped_total

    @property
    def stats(self) -> CollectorStats:
        """How it is doing."""
        last = self._stats
        return CollectorStats(
            duration_s=last.duration_s,
            success=last.success,
            rounds_total=self._rounds_total,
            failures_total=last.failures_total,
            skipped_total=self._skipped_total,
            last_error=last.last_error,
            last_success_at=last.last_success_at,
        )

    @property
    def started(self) -> bool:
        """Whether its timer runs."""
        return self._timer is not None

    def start(self) -> None:
        """Begins with a round at once."""
        self._timer = periodic(
            self._clock, self.collector.interval_s, self._beat, name=f"collector {self.name}"
        )

    def _beat(self) -> None:
        """A round is due. It returns at once, so that the timer never waits and overlap is counted here."""
        if self._busy:
            self._skipped_total += 1
            return
        self._rounds_total += 1
        self._busy = True
        self._dropped = False
        self._began_s = self._clock.seconds()
        call = Deferred.fromCoroutine(self._collect())
        call.addCallbacks(self._succeeded, self._failed)
        ended = call.addErrback(self._broken).addBoth(self._ended)
        if self._busy:  # not answered within this call
            self._under_way = ended
            self._deadline = self._clock.callLater(self.collector.timeout_s, self._overdue)

    async def _collect(self) -> Metrics:
        collector = self.collector
        if is_blocking(collector):
            result = await self._threads.run(lane_of(self.name), collector.timeout_s, collector.collect)
        else:
            result = collector.collect()
        if inspect.isawaitable(result):
            result = await result
        if not isinstance(result, Metrics):
            raise CollectError(f"collect() returned {type(result).__name__}, not Metrics")
        return result

    def _succeeded(self, metrics: Metrics) -> None:
        if self._dropped:
            return
        self.latest = metrics
        duration_s = self._clock.seconds() - self._began_s
        self._stats = CollectorStats(
            duration_s=duration_s,
            success=True,
            failures_total=self._stats.failures_total,
            last_error=self._stats.last_error,
            last_success_at=self._wall(),
        )
        if self._failing:
            self._failing = False
            log.info("collector {collector} works again", collector=self.name, duration_s=duration_s)
            self._events.publish(
                "collector.recovered", f"collector {self.name} works again", data={"collector": self.name}
            )

    def _failed(self, failure: Failure) -> None:
        if self._dropped:
            return
        error = as_collect_error(failure)
        if error is None:
            if not self._failing:
                log.failure("collector {collector}: a bug in it", failure=failure, collector=self.name)
            error = CollectError(f"{failure.type.__name__ if failure.type else 'failure'}: {failure.value}")
        self._record_failure(error)

    def _record_failure(self, error: CollectError) -> None:
        self._stats = CollectorStats(
            duration_s=self._clock.seconds() - self._began_s,
            success=False,
            failures_total=self._stats.failures_total + 1,
            last_error=str(error),
            last_success_at=self._stats.last_success_at,
        )
        if self._failing:
            return  # told when it began
        self._failing = True
        log.warn(
            "collector {collector} fails: {error}; the others run on, it is tried again every {interval_s} s",
            collector=self.name, error=error, error_code=error.code.value,
            interval_s=self.collector.interval_s,
        )  # fmt: skip
        self._events.publish(
            "collector.failed",
            f"collector {self.name} fails: {error.message}",
            severity=Severity.WARN,
            data={"collector": self.name, "code": error.code.value, "error": error.message},
        )

    def _broken(self, failure: Failure) -> None:
        log.failure("collector {collector}: its result was lost", failure=failure, collector=self.name)

    def _overdue(self) -> None:
        limit_s = self.collector.timeout_s
        hint = "raise its timeout or see what hangs"
        self._record_failure(CollectError(f"no answer within {limit_s:g} s; {hint}"))
        self._drop()

    def _drop(self) -> None:
        """Nobody waits for the round under way any more."""
        self._dropped = True
        if self._under_way is not None:
            self._under_way.cancel()

    def _ended(self, _result: object) -> None:
        self._busy = False
        self._under_way = None
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        self._deadline = None
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.callback(None)

    def stop(self) -> Deferred[None]:
        """Ends the timer and cancels a round under way.

        Returns:
            fires when it is gone; one that ignores its cancellation is given up after ``STOP_GRACE_S``.
        """
        if self._timer is not None:
            self._timer.stop()  # its beats end within themselves: nothing to wait for
            self._timer = None
        self._drop()
        if not self._busy:
            return succeed(None)
        waiter: Deferred[None] = Deferred()
        self._waiters.append(waiter)
        grace = self._clock.callLater(STOP_GRACE_S, self._give_up, waiter)

        def gone(result: None) -> None:
            if grace.active():
                grace.cancel()

        return waiter.addCallback(gone)

    def _give_up(self, waiter: Deferred[None]) -> None:
        log.warn("collector {collector} ignores its cancellation; it is given up", collector=self.name)
        self._waiters.remove(waiter)
        waiter.callback(None)
