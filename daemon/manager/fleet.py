"""What daemons tell the Manager: each verb is written down, and acknowledged after the commit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from daemon.aio.periodic import Periodic, periodic
from daemon.aio.reactor import Clock
from daemon.errors import RequestError, StorageError
from daemon.interfaces import WallClock
from daemon.manager import records
from daemon.manager.config import ManagerConfig
from daemon.manager.intake import Intake
from daemon.manager.model import NodeRow, NodeState, Registration
from daemon.manager.presence import Presence
from daemon.manager.wire import Entries, Report, States

Names = Sequence[str]

EXPIRE_EVERY_S = 60.0


class Fleet:
    """Every node, as far as it tells of itself.

    Args:
        clock: monotonic time, which decides who is offline.
        wall: what is stored and shown.
        intake: writes.
        config: intervals and retention.

    Attributes:
        samples_total, repeats_total: samples that were stored, and those that were there already.
        events_total, lost_total: likewise of events, and those that daemons had to drop themselves.
        expired_total: rows that retention deleted.
    """

    log = Logger()

    def __init__(self, clock: Clock, wall: WallClock, intake: Intake, config: ManagerConfig) -> None:
        self.samples_total = 0
        self.repeats_total = 0
        self.events_total = 0
        self.lost_total = 0
        self.expired_total = 0
        self.presence = Presence(config.offline_after_s)
        self._clock = clock
        self._wall = wall
        self._intake = intake
        self._config = config
        self._timers: list[Periodic] = []

    # ------------------------------------------------------------- from daemons

    async def register(self, node: Registration, names: Names) -> str:
        """A daemon starts, or was asked to register anew; a line for its log."""
        now = self._wall()
        new = await self._intake.submit(lambda tx: records.register(tx, node, names, now))
        self.presence.heard(node.node_id, self._clock.seconds())
        self.log.info(
            "node {node_id} ({hostname}, {ip}) registered{new}",
            node_id=node.node_id, hostname=node.hostname, ip=node.ip or node.peer,
            new=" for the first time" if new else "",
        )
        return "registered" if new else "registered again"

    async def heartbeat(self, node_id: str, names: Names) -> None:
        """A daemon lives."""
        now = self._wall()
        self.presence.arrived(node_id, self._clock.seconds())
        await self._intake.submit(lambda tx: records.heartbeat(tx, node_id, names, now))
        self.presence.heard(node_id, self._clock.seconds())

    async def report(self, report: Report, names: Names) -> int:
        """Samples; how many of them were repeats."""
        now = self._wall()
        repeats = await self._intake.submit(
            lambda tx: records.report(tx, report.node_id, report.samples, names, now)
        )
        self.samples_total += len(report.samples) - repeats
        self.repeats_total += repeats
        return repeats

    async def sync(self, states: States, names: Names) -> None:
        """States of a node's agents."""
        now = self._wall()
        gone_after_s = self._config.retention.agents
        await self._intake.submit(
            lambda tx: records.sync(
                tx, states.node_id, states.agents, names, now, gone_after_s=gone_after_s
            )
        )

    async def events(self, told: Entries, names: Names) -> int:
        """Events and log entries; how many of them were repeats."""
        now = self._wall()
        repeats = await self._intake.submit(
            lambda tx: records.events(tx, told.node_id, told.entries, told.lost, names, now)
        )
        self.events_total += len(told.entries) - repeats
        if repeats < len(told.entries) or not told.entries:
            self.lost_total += told.lost
        return repeats

    # ------------------------------------------------------------ from operators

    async def release(self, node_id: str, peer: str) -> None:
        """The next certificate that registers this node owns it.

        Raises:
            RequestError: UNKNOWN.
        """
        now = self._wall()
        await self._intake.submit(lambda tx: records.release(tx, node_id, peer, now))

    # -------------------------------------------------------------------- timers

    def start(self, known: Sequence[NodeRow]) -> None:
        """Watches the nodes, those that were known before from now on."""
        self.presence.load(
            ((node.node_id, node.state == NodeState.ONLINE) for node in known), self._clock.seconds()
        )
        every_s = min(max(self._config.heartbeat_interval / 4, 0.05), 15.0)
        self._timers = [
            self._every(every_s, self.sweep, "offline nodes"),
            self._every(EXPIRE_EVERY_S, self.expire, "retention"),
        ]

    def _every(self, interval_s: float, work: Callable[[], Any], name: str) -> Periodic:
        return periodic(
            self._clock, interval_s, lambda: Deferred.fromCoroutine(work()), name=name, phase_s=interval_s
        )

    async def stop(self) -> None:
        """Ends the timers and waits for what is under way."""
        timers, self._timers = self._timers, []
        for timer in timers:
            await timer.stop()
        await self._intake.drain()

    async def sweep(self) -> None:
        """Marks the nodes whose heartbeats stay away, all of them in one commit."""
        silence_s = self.presence.offline_after_s
        now = self._wall()
        written = []
        for node_id in self.presence.lapsed(self._clock.seconds()):
            work = partial(records.offline, node_id=node_id, silence_s=silence_s, now=now)
            try:
                written.append((node_id, self._intake.submit(work)))
            except RequestError:
                break  # the database does not keep up: the rest comes with the next round
        for node_id, done in written:
            try:
                await done
            except StorageError as error:
                self.log.warn("node {node_id} is not marked as offline yet: {error}",
                              node_id=node_id, error=str(error), error_code="D1004")
                continue
            if node_id in self.presence.lapsed(self._clock.seconds()):  # not heard while it was written
                self.presence.gone(node_id)
                self.log.warn(
                    "node {node_id} is offline: no heartbeat for {silence_s:.0f} s; look at its daemon and "
                    "the network", node_id=node_id, silence_s=silence_s,
                )

    async def expire(self) -> None:
        """Deletes what is older than retention keeps, slice by slice, so that reports get in between."""
        kept = self._config.retention
        for table, kept_s in (
            ("samples", kept.metrics), ("node_events", kept.events), ("commands", kept.commands)
        ):
            before = self._wall() - kept_s
            more = True
            while more and self._timers:
                try:
                    rows, more = await self._intake.submit(
                        lambda tx, table=table, before=before: records.expire(  # type: ignore[misc]
                            tx, table, before
                        )
                    )
                except StorageError as error:
                    self.log.error("retention: {error}", error=str(error), error_code="D1004")
                    return
                self.expired_total += rows
