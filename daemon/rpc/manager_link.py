"""The link to the Manager: registers, says that the node lives, and carries what is to be reported.

One channel is reused for everything. The heartbeat alone decides whether the link is up: reports, states and
events fail and are tried again each by itself, and touch neither it nor one another.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from msgspec.structs import replace
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from daemon.aio.reactor import Clock, ThreadReactor
from daemon.aio.shielded import shielded
from daemon.aio.sleep import sleep
from daemon.aio.threads import LaneBusy, LaneTimeout, Threads
from daemon.config.schema import ManagerConfig
from daemon.control.node import NodeFacts, address_towards
from daemon.errors import ErrorCode, ManagerConnectError
from daemon.events.bus import EventBus
from daemon.interfaces import AlertSink, WallClock
from daemon.model.event import Severity
from daemon.rpc.channel import ManagerCalls
from daemon.rpc.event_reports import EventReporter
from daemon.rpc.link_channel import Dial, LinkChannel, grpc_dial
from daemon.rpc.link_errors import CallFailed, FaultKind
from daemon.rpc.link_state import Attempts, LinkState, Notes, Pauses, Session
from daemon.rpc.link_wire import NodeCard, WireState
from daemon.rpc.log_tap import LogTap
from daemon.rpc.report_queue import ReportQueue
from daemon.rpc.reports import Collectors, ReportSampler, ReportSender
from daemon.rpc.state_syncer import StateSyncer
from daemon.rpc.wake import Wake

ADDRESS_S = 5.0  # for the look-up of the Manager's name
ADDRESS_LANE = "manager-address"


class ManagerLink(Service):
    """The service. An empty ``manager.address`` means off: nothing is taken, queued or sent.

    Args:
        reactor: where answers of gRPC arrive.
        clock: timers and durations, the reactor again but in tests.
        threads: for what blocks: the queue's disk, certificates, names.
        wall: for what is shown, and for certificates.
        config: the section ``manager``.
        facts: who the node is.
        labels: ``daemon.labels``.
        versions: of the daemon and of its agent, as they are at a registration.
        collectors: where metrics come from.
        states: every agent as SyncAgentStates tells of it; :func:`daemon.rpc.convert.agent_state` makes one.
        bus: its events are reported; hears when the link comes up and breaks.
        alerts: hears of a disk that refuses reports, and of certificates that end.
        directory: ``work_dir/state/reports``.
        log_tap: an observer of the log, added to it by the caller.
        random_unit: for jitter.
        dial: makes a channel.
    """

    log = Logger()
    name = "manager"

    def __init__(
        self, *, reactor: ThreadReactor, clock: Clock, threads: Threads, wall: WallClock,
        config: ManagerConfig, facts: NodeFacts, labels: Mapping[str, str],
        versions: Callable[[], tuple[str, str]], collectors: Collectors,
        states: Callable[[], Sequence[WireState]], bus: EventBus, alerts: AlertSink, directory: Path,
        log_tap: LogTap | None = None, random_unit: Callable[[], float] = random.random,
        dial: Dial | None = None,
    ) -> None:
        self._clock = clock
        self._threads = threads
        self._wall = wall
        self._config = config
        self._facts = facts
        self._labels = labels
        self._versions = versions
        self._bus = bus
        self._random_unit = random_unit
        self._notes = Notes()
        self._channel = LinkChannel(
            config, clock, threads, wall, alerts, self._notes,
            dial if dial is not None else grpc_dial(reactor),
        )
        self._queue = ReportQueue(directory, clock, threads, wall, config.queue, alerts)
        self._sampler = ReportSampler(clock, collectors, self._queue, config.report_interval)
        self._sender = ReportSender(self._queue, clock, facts.node_id, self._attempts("reports"))
        self._syncer = StateSyncer(
            clock, facts.node_id, states, config.sync_interval, self._attempts("states")
        )
        tap = log_tap if log_tap is not None else LogTap(wall)
        self._events = EventReporter(
            clock, threads, bus, tap, facts.node_id, directory, self._attempts("events"), self._notes
        )
        tap.on_news = lambda: reactor.callFromThread(self._events.news)
        self._working: Deferred[None] | None = None
        self._beat_now = Wake(clock)
        self._sampling = False
        self._down: bool | None = None  # None: nobody knows yet
        self._connected = False
        self._since: float | None = None
        self._registered_at: float | None = None
        self._ip = ""
        self._connects = self._failures = self._beats = 0

    def _attempts(self, part: str) -> Attempts:
        return Attempts(part, self._clock, self._pauses(), self._notes)

    def _pauses(self) -> Pauses:
        return Pauses(self._config.reconnect_interval, self._config.reconnect_max, self._random_unit)

    # ------------------------------------------------------------------ facts

    @property
    def state(self) -> LinkState:
        """The link at this moment."""
        counts = self._queue.counts
        return LinkState(
            address=self._config.address, connected=self._connected, since=self._since,
            last_error=self._notes.last_error, queued=counts.waiting, delivered=counts.delivered_total,
            dropped=counts.dropped_total, refused=counts.refused_total, registered_at=self._registered_at,
            certificate_not_after=self._channel.not_after, secure=self._channel.secure, ip=self._ip,
            connects_total=self._connects, failures_total=self._failures, heartbeats_total=self._beats,
            storage_problem=self._queue.problem, events_dropped=self._events.dropped_total,
        )

    def states_changed(self, agent_id: str) -> None:
        """An agent is in another state, has another process or another version. Cheap."""
        self._syncer.changed(agent_id)

    @property
    def calls(self) -> ManagerCalls:
        """See Session."""
        return self._channel.calls

    def doubt(self) -> None:
        """See Session."""
        self._beat_now.set()

    # ------------------------------------------------------------- life of it

    def startService(self) -> None:
        """Begins, in the background."""
        super().startService()
        self._channel.start()
        self._begin()

    def apply(self, config: ManagerConfig) -> None:
        """Takes what a reload may change: address, tls and queue. What waits goes to the new address."""
        before = self._config
        self._config = replace(before, address=config.address, tls=config.tls, queue=config.queue)
        if config.queue != before.queue:
            self._queue.apply(config.queue)
        if (config.address, config.tls) == (before.address, before.tls):
            return
        self._channel.apply(self._config)
        self._notes.forget()
        self._is_connected(False)
        self._down = None
        if self._working is not None:
            self._working.cancel()  # begins again with the new ones
        else:
            self._begin()

    def _begin(self) -> None:
        on = bool(self.running and self._config.address)
        self._sample(on)
        if not on:
            return
        self._working = work = Deferred.fromCoroutine(self._work())
        work.addErrback(self._broken)
        work.addCallback(self._rest)

    def _sample(self, on: bool) -> None:
        """Reports are taken while there is a Manager to take them to, whether it answers or not."""
        if on and not self._sampling:
            self._queue.open()
            self._sampler.start()
        elif not on and self._sampling:
            self._sampler.stop()
        self._sampling = on

    def _broken(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            self.log.failure("the Manager link", failure=failure)

    def _rest(self, _result: None) -> None:
        self._working = None
        self._begin()

    def stopService(self) -> Deferred[None]:
        """Leaves within a second, whatever hangs; what is queued stays on disk."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        work = self._working
        if work is not None:
            gone: Deferred[None] = Deferred()
            work.addBoth(lambda _ended: gone.callback(None))
            work.cancel()
            await gone
        self._sample(False)
        await self._channel.stop()
        self._is_connected(False)
        await self._events.close()
        await self._queue.close()

    # ---------------------------------------------------------------- sessions

    async def _work(self) -> None:
        """Connects, and connects again, until it is cancelled."""
        pauses = self._pauses()
        while True:
            began: float | None = None
            retry_after_s = 0.0
            try:
                await self._connect()
                began = self._clock.seconds()
                await self._session()
            except CancelledError:
                raise
            except CallFailed as failed:
                retry_after_s = failed.retry_after_s
                self._lost(_code(failed), failed.message)
            except ManagerConnectError as error:
                self._lost(error.code, error.message)
            except Exception:  # noqa: BLE001 - logged; a fault of ours must not end the link for good
                self.log.failure("the Manager link: a fault of the daemon")
                self._lost(ErrorCode.MANAGER_CONNECT, "a fault of the daemon; its log says more")
            if began is not None and self._clock.seconds() - began >= self._config.reconnect_interval:
                pauses.reset()  # one that flaps is left alone for longer and longer
            await sleep(self._clock, pauses.next_s(retry_after_s))

    def _lost(self, code: ErrorCode, message: str) -> None:
        self._failures += 1
        self._notes.failed("link", code, message)
        self._is_connected(False)
        if self._down is not True:
            self._down = True
            self._bus.publish(
                "manager.disconnected", f"no link to the Manager at {self._config.address}: {message}",
                severity=Severity.WARN, data={"address": self._config.address, "code": code.value},
            )

    def _is_connected(self, connected: bool) -> None:
        if connected != self._connected or self._since is None:
            self._since = self._wall()
        self._connected = connected

    async def _connect(self) -> None:
        """A channel, and a registration over it.

        Raises:
            CallFailed, ManagerConnectError: it did not come about.
        """
        await self._channel.open()
        self._ip = await self._address()
        await self._register()
        self._connects += 1
        self._is_connected(True)
        self._down = False
        self._notes.well("link", say=False)
        address = self._config.address
        self.log.info("registered at the Manager at {address}", address=address)
        self._bus.publish("manager.connected", f"registered at the Manager at {address}",
                          data={"address": address})
        if not self._channel.secure:
            self.log.warn(
                "the link to the Manager at {address} is not encrypted and proves nobody; write manager.tls",
                address=address,
            )

    async def _register(self) -> None:
        facts = self._facts
        daemon_version, agent_version = self._versions()
        await self.calls.register(NodeCard(
            node_id=facts.node_id, hostname=facts.hostname, ip=self._ip, os=facts.os, arch=facts.arch,
            labels=self._labels, daemon_version=daemon_version, agent_version=agent_version,
        ))
        self._registered_at = self._wall()

    async def _address(self) -> str:
        """Our own address on the way to the Manager; looking its name up may block."""
        host = self._config.address.rpartition(":")[0].strip("[]")
        try:
            found = await shielded(self._threads.run(ADDRESS_LANE, ADDRESS_S, address_towards, host))
        except (LaneBusy, LaneTimeout, ValueError):
            found = ""
        return found or self._ip or self._facts.ip  # not found just now: the calls will tell why

    async def _session(self) -> None:
        """Everything that happens while the link is up.

        Raises:
            CallFailed: it broke.
        """
        ended: list[Deferred[None]] = []
        parts = (
            ("reports", self._sender.run), ("states", self._syncer.run), ("events", self._events.run)
        )
        for name, run in parts:
            part = Deferred.fromCoroutine(self._keep_on(name, run))
            part.addErrback(self._broken)
            ended.append(part)
        try:
            await self._beat()
        finally:
            for part in ended:
                part.cancel()
                await part

    async def _keep_on(self, name: str, run: Callable[[Session], Awaitable[None]]) -> None:
        """A fault of ours in one part must not end it for good, nor the others at all."""
        while True:
            try:
                await run(self)
            except CancelledError:
                raise
            except Exception:  # noqa: BLE001 - logged
                self.log.failure("the Manager link: a fault of {name}", name=name)
            await sleep(self._clock, self._config.reconnect_max)

    async def _beat(self) -> None:
        """Heartbeats until one fails.

        Raises:
            CallFailed: the link is down.
        """
        unknown = self._pauses()
        while True:
            pause_s = self._config.heartbeat_interval
            try:
                await self.calls.heartbeat(self._facts.node_id, self._wall())
            except CallFailed as failed:
                if failed.kind is FaultKind.UNKNOWN_NODE:
                    await self._register_again(failed, unknown)
                    continue
                if failed.kind is not FaultKind.BUSY:
                    raise
                pause_s = max(pause_s, unknown.next_s(failed.retry_after_s))
                self._notes.failed("link", ErrorCode.MANAGER_CONNECT, failed.message)
            else:
                unknown.reset()
                self._beats += 1
                self._notes.well("link")
            await self._beat_now.wait(pause_s)

    async def _register_again(self, failed: CallFailed, unknown: Pauses) -> None:
        """The Manager does not know us (any more). At once for the first time, then with patience."""
        self._notes.failed(
            "link", ErrorCode.MANAGER_REGISTER, f"{failed.message}; the node registers again"
        )
        pause_s = unknown.next_s(failed.retry_after_s)
        if unknown.attempts > 1:
            await sleep(self._clock, pause_s)
        await self._register()


def _code(failed: CallFailed) -> ErrorCode:
    """Whether the Manager could not be reached, or did not want us."""
    if failed.kind in (FaultKind.AWAY, FaultKind.SLOW):
        return ErrorCode.MANAGER_CONNECT
    return ErrorCode.MANAGER_REGISTER
