"""Metrics on their way to the Manager: what is new of every collector, and its delivery in order.

Taking samples does not depend on the Manager: they wait in the queue. Delivery is at least once; node, type
and timestamp are the key by which the Manager knows a repeat.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from twisted.logger import Logger

from daemon.aio.periodic import Periodic, periodic
from daemon.aio.reactor import Clock
from daemon.aio.sleep import sleep
from daemon.model.metrics import Metrics
from daemon.rpc.link_errors import CallFailed, FaultKind
from daemon.rpc.link_state import Attempts, Session
from daemon.rpc.link_wire import Sample, read_line, sample_of, write_line
from daemon.rpc.report_queue import Batch, ReportQueue
from daemon.rpc.wake import Wake

EARLY_S = 10.0  # so long after the start a collector's first sample goes at once
EARLY_EVERY_S = 0.5

BATCH_REPORTS = 50
BATCH_BYTES = 256 * 1024  # far below the 4 MiB a gRPC server takes, and built within a few milliseconds
PACE_S = 0.25  # between two batches: after an outage the Manager gets a stream, not a flood


class Collectors(Protocol):
    """Where samples come from; :class:`daemon.collectors.manager.CollectorManager` is one."""

    def get_latest(self) -> Mapping[str, Metrics]:
        """The last sample of every collector that has one."""
        ...


def new_samples(
    latest: Mapping[str, Metrics], reported: Mapping[str, int], *, first_only: bool = False
) -> dict[str, Sample]:
    """What the Manager has not got, by collector.

    Args:
        latest: the last sample of every collector, by name.
        reported: the timestamp of the last sample taken from each; a second is the finest the key tells.
        first_only: only of collectors nothing was taken from yet.
    """
    found = {}
    for name, metrics in latest.items():
        before = reported.get(name)
        if before is not None and (first_only or int(metrics.timestamp) == before):
            continue
        found[name] = sample_of(metrics)
    return found


class ReportSampler:
    """Takes what is new every ``interval_s``, and the first samples as soon as they are there.

    Args:
        clock: the timer.
        collectors: asked.
        queue: takes the reports.
        interval_s: manager.report_interval.
    """

    def __init__(
        self, clock: Clock, collectors: Collectors, queue: ReportQueue, interval_s: float
    ) -> None:
        self._clock = clock
        self._collectors = collectors
        self._queue = queue
        self._interval_s = interval_s
        self._reported: dict[str, int] = {}
        self._rounds: Periodic | None = None
        self._early: Periodic | None = None
        self._early_until = 0.0

    def start(self) -> None:
        """Begins."""
        self._early_until = self._clock.seconds() + EARLY_S
        self._early = periodic(self._clock, EARLY_EVERY_S, self._look_early, name="first reports")
        self._rounds = periodic(
            self._clock, self._interval_s, lambda: self._take(first_only=False), name="reports",
            phase_s=self._interval_s,
        )

    def stop(self) -> None:
        """Ends; a round never waits, so none is under way."""
        for timer in (self._early, self._rounds):
            if timer is not None:
                timer.stop()
        self._early = self._rounds = None

    def _look_early(self) -> None:
        self._take(first_only=True)
        if self._clock.seconds() >= self._early_until and self._early is not None:
            self._early.stop()  # this round is the only one under way, and it ends here
            self._early = None

    def _take(self, *, first_only: bool) -> None:
        latest = self._collectors.get_latest()
        samples = new_samples(latest, self._reported, first_only=first_only)
        for name, sample in samples.items():
            self._reported[name] = sample.timestamp
        if len(self._reported) > len(latest):  # collectors have left the configuration
            self._reported = {name: at for name, at in self._reported.items() if name in latest}
        if samples:
            self._queue.put([write_line(sample) for sample in samples.values()])


class ReportSender:
    """Delivers what waits, oldest first, one call at a time.

    What is refused as INVALID_ARGUMENT would be refused again: the batch is sent in smaller parts until the
    one report is found, which is dropped and counted. ``success=false`` says nothing about a single report (a
    Manager whose database is down says so): all of it is kept and tried again, as after any other fault.

    Args:
        queue: where reports wait.
        clock: waits.
        node_id: whose they are.
        attempts: of the reports.
    """

    log = Logger()

    def __init__(self, queue: ReportQueue, clock: Clock, node_id: str, attempts: Attempts) -> None:
        self._queue = queue
        self._clock = clock
        self._node_id = node_id
        self._attempts = attempts
        self._wake = Wake(clock)
        self._limit = BATCH_REPORTS
        queue.on_news = self._wake.set

    async def run(self, session: Session) -> None:
        """Delivers until it is cancelled."""
        try:
            while True:
                batch = await self._queue.take(self._limit, BATCH_BYTES)
                if batch is None:
                    await self._wake.wait()
                    continue
                await self._deliver(session, batch)
        finally:
            self._queue.release()

    async def _deliver(self, session: Session, batch: Batch) -> None:
        samples = [sample for line in batch.lines if (sample := read_line(line)) is not None]
        if len(samples) < len(batch.lines):
            self.log.warn(
                "D2003 {count} waiting reports are none of this version's and are dropped",
                count=len(batch.lines) - len(samples), error_code="D2003",
            )
        if samples:
            failed = await self._attempts.make(session, session.calls.report(self._node_id, samples))
            if failed is not None:
                await self._failed(failed, batch, samples)
                return
        await self._queue.settle(batch, delivered=len(samples))
        self._limit = min(BATCH_REPORTS, self._limit * 2)
        if self._queue.counts.waiting:
            await sleep(self._clock, PACE_S)

    async def _failed(self, failed: CallFailed, batch: Batch, samples: list[Sample]) -> None:
        if failed.kind is FaultKind.INVALID and len(samples) == 1:
            self.log.warn(
                "D2003 the Manager refuses the report {type} of {timestamp}, which is dropped: {message}",
                type=samples[0].type, timestamp=samples[0].timestamp, message=failed.message,
                error_code="D2003",
            )
            await self._queue.settle(batch, refused=1)
            await sleep(self._clock, PACE_S)
            return
        self._queue.release()
        if failed.kind in (FaultKind.INVALID, FaultKind.BUSY):
            self._limit = max(1, len(samples) // 2)
        if failed.kind is FaultKind.INVALID:
            await sleep(self._clock, PACE_S)
        else:
            await self._attempts.pause(failed)
