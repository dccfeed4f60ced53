"""The heartbeat library: tells the daemon, again and again, that this process is alive.

The first heartbeat goes out at once, the next every ``interval_s``. When one does not get through, the
rhythm rests and attempts follow with back-off until one does; that one begins the rhythm anew. A heartbeat
that comes due while another is still under way (the daemon does not read) is skipped and counted, never
buffered.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from msgspec import UNSET
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from daemon.agentkit.channel import Channel, NotDelivered, UnixChannel, UnixReactor
from daemon.agentkit.message import RUNNING, STOPPING, HeartbeatMessage, encode
from daemon.agentkit.usage import OwnUsage
from daemon.aio.backoff import backoff_delay
from daemon.aio.periodic import Periodic
from daemon.aio.reactor import DelayedCall
from daemon.interfaces import WallClock
from daemon.model.moment import rfc3339

log = Logger()

RETRY_BASE_S = 0.5
RETRY_MAX_S = 30.0  # a third of the daemon's usual heartbeat_timeout
STABLE_S = 10.0  # deliveries for that long forget earlier failures
STOP_S = 1.0  # the announcement of the end may take that long
REMIND_S = 600.0  # an outage is warned about again after that long


@dataclass(frozen=True, slots=True, kw_only=True)
class SenderSettings:
    """What to send where.

    Attributes:
        socket_path: the daemon's heartbeat socket; used where ``url`` is empty.
        url: the daemon's ``/heartbeat``.
        interval_s: seconds between heartbeats, > 0.
        agent_id: our id at the daemon; needed with ``url``.
        version: our version.
    """

    socket_path: str = ""
    url: str = ""
    interval_s: float = 30.0
    agent_id: str = ""
    version: str = ""

    @property
    def target(self) -> str:
        """Where heartbeats go."""
        return self.url or self.socket_path


@dataclass(frozen=True, slots=True, kw_only=True)
class SenderStats:
    """How it went since the start.

    Attributes:
        delivered_total: heartbeats that got through.
        failures_total: attempts that did not, skipped ones among them.
        skipped_total: heartbeats that came due while the one before was still under way.
        last_delivered_at: Unix seconds of the last one that got through, or None.
        silent_s: seconds since then, or since the start.
    """

    delivered_total: int
    failures_total: int
    skipped_total: int
    last_delivered_at: float | None
    silent_s: float


def retry_delay_s(attempt: int, interval_s: float, random_unit: float) -> float:
    """Seconds until the next attempt after ``attempt`` failures before this one.

    Doubles from 0.5 s up to 30 s, or up to the interval where that is shorter (but 1 s at least). The
    upper half is drawn at random: agents of one host that lost one daemon do not return as one.
    """
    most = min(RETRY_MAX_S, max(interval_s, 1.0))
    delay = backoff_delay(attempt, base_delay=RETRY_BASE_S, max_delay=most, multiplier=2.0)
    return delay * (0.5 + 0.5 * random_unit)


ChannelMaker = Callable[[UnixReactor, SenderSettings, Callable[[str], None]], Channel]


def open_channel(reactor: UnixReactor, settings: SenderSettings, lost: Callable[[str], None]) -> Channel:
    """The way the settings name: ``url``, else the Unix socket."""
    if settings.url:
        # The HTTP client is loaded only by those who use it: 2 MB that others do not pay.
        from daemon.agentkit.post import HttpChannel

        return HttpChannel(reactor, settings.url)
    return UnixChannel(reactor, settings.socket_path, lost)


class HeartbeatSender:
    """Sends the heartbeats of this process.

    Args:
        reactor: time and connections.
        wall: Unix time for the ``timestamp``.
        settings: what to send where; :meth:`reconfigure` changes them later.
        usage: measures this process; made here where None.
        pid: this process.
        on_success: called after each heartbeat that got through.
        on_failure: called with the reason after each that did not. What a callback raises is logged.
        channels: makes the way to the daemon.
        random_unit: a source of numbers in [0, 1).
    """

    def __init__(
        self,
        reactor: UnixReactor,
        wall: WallClock,
        settings: SenderSettings,
        *,
        usage: OwnUsage | None = None,
        pid: int | None = None,
        on_success: Callable[[], None] | None = None,
        on_failure: Callable[[str], None] | None = None,
        channels: ChannelMaker = open_channel,
        random_unit: Callable[[], float] = random.random,
    ) -> None:
        self.settings = settings
        self.usage = usage or OwnUsage(reactor)
        self._reactor = reactor
        self._wall = wall
        self._pid = os.getpid() if pid is None else pid
        self._on_success = on_success
        self._on_failure = on_failure
        self._channels = channels
        self._random_unit = random_unit
        self._channel: Channel | None = None
        self._timer: Periodic | None = None
        self._retry: DelayedCall | None = None
        self._under_way: Deferred[None] | None = None
        self._closing: list[Deferred[None]] = []
        self._started_at: float | None = None
        self._stopping = False
        self._delivered = self._failures = self._skipped = 0
        self._last_at: float | None = None
        self._last_wall: float | None = None
        self._attempt = 0
        self._good_since: float | None = None
        self._warned_at: float | None = None

    @property
    def stats(self) -> SenderStats:
        """How it went since the start."""
        now = self._reactor.seconds()
        since = self._last_at if self._last_at is not None else self._started_at
        return SenderStats(
            delivered_total=self._delivered,
            failures_total=self._failures,
            skipped_total=self._skipped,
            last_delivered_at=self._last_wall,
            silent_s=0.0 if since is None else max(0.0, now - since),
        )

    @property
    def status(self) -> str:
        """The status the next heartbeat carries."""
        return STOPPING if self._stopping else RUNNING

    def start(self) -> None:
        """Connects and sends the first heartbeat now, or keeps trying. Once only."""
        if self._started_at is not None or self._stopping:
            raise RuntimeError("a sender starts once")
        self._started_at = self._reactor.seconds()
        self._open()
        self._begin_rhythm()

    def reconfigure(self, settings: SenderSettings) -> None:
        """Other settings from now on; where interval or target changed, a heartbeat follows at once."""
        before, self.settings = self.settings, settings
        if self._started_at is None or self._stopping:
            return
        if settings.target != before.target:
            self._leave_channel(STOP_S)
            self._under_way = None  # the old target's answer is no concern of the new one's
            self._attempt = 0
            self._open()
            self._begin_rhythm()
        elif settings.interval_s != before.interval_s:
            self._begin_rhythm()

    async def stop(self) -> None:
        """Announces the end and closes; a second at most, then it is gone. May be called twice."""
        if self._stopping or self._started_at is None:
            self._stopping = True
            return
        self._stopping = True
        self._rest()
        ends_at = self._reactor.seconds() + STOP_S
        farewell = Deferred.fromCoroutine(self._say_farewell())
        clock: Any = self._reactor  # addTimeout asks for zope's IReactorTime
        farewell.addTimeout(STOP_S, clock, onTimeoutCancel=lambda _value, _timeout: None)
        try:
            await farewell
        except Exception:  # noqa: BLE001 - logged; whatever it was, the connection is still to be closed
            log.failure("the end could not be announced")
        self._leave_channel(max(0.0, ends_at - self._reactor.seconds()))
        for closing in tuple(self._closing):
            await closing
        log.debug("heartbeats ended after {count}", count=self._delivered)

    async def _say_farewell(self) -> None:
        if self._under_way is not None:
            # Waited for by way of another Deferred: giving up here must not give up the message there.
            finished: Deferred[None] = Deferred()

            def over(_result: object) -> None:
                if not finished.called:
                    finished.callback(None)

            self._under_way.addBoth(over)
            await finished
        await self._deliver()

    def _open(self) -> None:
        def lost(reason: str) -> None:
            if self._channel is channel:
                self._lost(reason)

        channel = self._channels(self._reactor, self.settings, lost)
        self._channel = channel

    def _leave_channel(self, within_s: float) -> None:
        channel, self._channel = self._channel, None
        if channel is None:
            return
        closing = channel.close(within_s)

        def closed(result: object) -> None:
            self._closing.remove(closing)
            if isinstance(result, Failure):
                log.failure("the connection to {target} did not close", failure=result, target=channel.target)

        self._closing.append(closing)
        closing.addBoth(closed)

    def _rest(self) -> None:
        """No heartbeat comes due until the rhythm begins again."""
        if self._timer is not None:
            self._timer.stop()  # its rounds are plain calls: nothing is left to wait for
            self._timer = None
        if self._retry is not None and self._retry.active():
            self._retry.cancel()
        self._retry = None

    def _begin_rhythm(self) -> None:
        self._rest()
        self._timer = timer = Periodic(self._reactor, self.settings.interval_s, self._beat, "heartbeat")
        timer.start()

    def _beat(self) -> None:
        """A heartbeat is due."""
        if self._under_way is not None:
            self._skipped += 1
            self._failed("the one before is still under way, the daemon is slow or does not read")
            return
        sending = Deferred.fromCoroutine(self._deliver())
        if not sending.called:
            self._under_way = sending

        def sent(result: object) -> None:
            if self._under_way is sending:
                self._under_way = None
            if isinstance(result, Failure):
                log.failure("a heartbeat could not be made", failure=result)

        sending.addBoth(sent)

    async def _deliver(self) -> None:
        """One heartbeat over the present channel, and what follows from its outcome."""
        channel = self._channel
        if channel is None:
            return
        own = self.usage.sample()
        payload = encode(self._message(own.cpu_percent, own.rss_bytes))
        try:
            await channel.deliver(payload)
        except NotDelivered as fault:
            if self._channel is channel:
                self._retry_later(str(fault), fault.wait_s, count=True)
        else:
            if self._channel is channel:
                self._succeeded()

    def _message(self, cpu: float, memory: int) -> HeartbeatMessage:
        return HeartbeatMessage(
            pid=self._pid,
            timestamp=rfc3339(self._wall()),
            version=self.settings.version,
            status=self.status,
            cpu=round(cpu, 2),
            memory=memory,
            agent_id=self.settings.agent_id or UNSET,
        )

    def _succeeded(self) -> None:
        now = self._reactor.seconds()
        target = self.settings.target
        if self._warned_at is not None:
            log.info("heartbeats get through to {target} again", target=target)
        elif not self._delivered:
            log.info("the first heartbeat got through to {target}", target=target)
        self._warned_at = None
        if self._good_since is None:
            self._good_since = now
        self._delivered += 1
        self._last_at, self._last_wall = now, self._wall()
        self._tell(self._on_success)

    def _lost(self, reason: str) -> None:
        """The connection ended between two heartbeats: nothing failed yet, and the next try is soon."""
        self._retry_later(reason, None, count=False)

    def _retry_later(self, reason: str, wait_s: float | None, *, count: bool) -> None:
        if self._stopping:
            log.debug("{target} was not told of the end: {reason}",
                      target=self.settings.target, reason=reason)
            return
        now = self._reactor.seconds()
        if self._good_since is not None and now - self._good_since >= STABLE_S:
            self._attempt = 0
        self._good_since = None
        delay_s = retry_delay_s(self._attempt, self.settings.interval_s, self._random_unit())
        delay_s = max(delay_s, wait_s or 0.0)
        self._attempt += 1
        self._rest()
        self._retry = self._reactor.callLater(delay_s, self._begin_rhythm)
        if count:
            self._failed(f"{reason}; the next try is in {delay_s:.1f} s")
        else:
            log.info("{target}: {reason}; connecting again in {delay_s:.1f} s",
                     target=self.settings.target, reason=reason, delay_s=delay_s)

    def _failed(self, reason: str) -> None:
        self._failures += 1
        now = self._reactor.seconds()
        if self._warned_at is None or now - self._warned_at >= REMIND_S:
            self._warned_at = now
            log.warn(
                "heartbeats do not get through to {target}: {reason}; is the daemon running and the target "
                "right?", target=self.settings.target, reason=reason,
            )
        else:
            log.debug("no heartbeat to {target}: {reason}", target=self.settings.target, reason=reason)
        self._tell(self._on_failure, reason)

    def _tell(self, callback: Callable[..., None] | None, *args: str) -> None:
        if callback is None:
            return
        try:
            callback(*args)
        except Exception:  # noqa: BLE001 - logged; the caller's bug must not end the heartbeats
            log.failure("a heartbeat callback failed")
