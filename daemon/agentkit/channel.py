"""The way a heartbeat takes: the protocol of both ways, and the one over the Unix socket.

A message is *delivered* over the socket when the kernel has taken all of it. The daemon does not answer
bare heartbeats, so nothing better can be known; a daemon that never reads is noticed once the kernel's
buffer is full, and from then on nothing more is written: at most one message waits in this process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IPullProducer
from twisted.internet.protocol import ClientFactory, connectionDone
from twisted.internet.protocol import Protocol as StreamProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from daemon.aio.reactor import Clock, DelayedCall

log = Logger()

CONNECT_TIMEOUT_S = 5.0


class NotDelivered(Exception):
    """A heartbeat did not get through; the message says why.

    Args:
        wait_s: the other side asked us to wait at least that long, or None.
    """

    def __init__(self, message: str, *, wait_s: float | None = None) -> None:
        super().__init__(message)
        self.wait_s = wait_s


class UnixReactor(Clock, Protocol):
    """Timers and Unix sockets (IReactorUNIX)."""

    def connectUNIX(self, address: str, factory: ClientFactory, timeout: float = 30) -> Any:
        """Connects; returns an IConnector."""
        ...


class Channel(Protocol):
    """A way to the daemon. One message at a time: the sender waits for each before the next."""

    target: str

    def deliver(self, payload: bytes) -> Deferred[None]:
        """Brings one message over, connecting first where needed; fails with NotDelivered."""
        ...

    def close(self, within_s: float) -> Deferred[None]:
        """Ends it; a message under way fails. Fires when the connection is gone, within that time."""
        ...


@implementer(IPullProducer)
class _Line(StreamProtocol):
    """The connection. As a pull producer it is told each time the kernel has taken everything."""

    transport: Any  # zope's interfaces of it say nothing to a type checker

    def __init__(self, channel: UnixChannel) -> None:
        self._channel = channel

    def connectionMade(self) -> None:
        self.transport.registerProducer(self, False)
        self._channel.connected(self)

    def dataReceived(self, data: bytes) -> None:
        """A bare heartbeat has no answer; whatever comes is dropped so that it piles up nowhere."""

    def resumeProducing(self) -> None:
        self._channel.drained()

    def stopProducing(self) -> None:
        """The transport is gone; connectionLost follows."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._channel.gone(reason)

    def send(self, payload: bytes) -> None:
        self.transport.write(payload)

    def end(self) -> None:
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def abort(self) -> None:
        self.transport.abortConnection()


class _Factory(ClientFactory):
    noisy = False

    def __init__(self, channel: UnixChannel) -> None:
        self._channel = channel

    def buildProtocol(self, addr: object) -> _Line:
        return _Line(self._channel)

    def clientConnectionFailed(self, connector: object, reason: Failure) -> None:
        self._channel.gone(reason)


class UnixChannel:
    """One kept connection to the daemon's heartbeat socket.

    Args:
        reactor: connects.
        path: the socket.
        lost: told, with the reason, when the connection ends while no message is under way.
    """

    def __init__(self, reactor: UnixReactor, path: str, lost: Callable[[str], None]) -> None:
        self.target = path
        self._reactor = reactor
        self._path = path
        self._lost = lost
        self._line: _Line | None = None
        self._connector: Any = None
        self._payload: bytes | None = None  # waits for the connection
        self._under_way: Deferred[None] | None = None
        self._closed: Deferred[None] | None = None
        self._close_timer: DelayedCall | None = None

    def deliver(self, payload: bytes) -> Deferred[None]:
        """See :class:`Channel`."""
        if self._under_way is not None or self._closed is not None:
            raise RuntimeError("a channel takes one message at a time, and none once it is closed")
        result: Deferred[None] = Deferred()
        self._under_way = result
        if self._line is not None:
            self._line.send(payload)
        else:
            self._payload = payload
            self._connector = self._reactor.connectUNIX(
                self._path, _Factory(self), timeout=CONNECT_TIMEOUT_S
            )
        return result

    def connected(self, line: _Line) -> None:
        """The connection stands: what waited for it goes out."""
        self._line = line
        payload, self._payload = self._payload, None
        if payload is not None:
            line.send(payload)

    def drained(self) -> None:
        """The kernel has taken everything (the transport also says so once at the beginning)."""
        if self._payload is None and self._line is not None:
            self._settle(None)

    def gone(self, reason: Failure) -> None:
        """The connection ended, or could not be made."""
        had_line = self._line is not None
        self._line = self._connector = self._payload = None
        text = reason.getErrorMessage().strip().rstrip(".")
        if self._close_timer is not None and self._close_timer.active():
            self._close_timer.cancel()
        # Settling may run the sender to its end, close() included: what holds is what was before it.
        idle, closed = self._under_way is None, self._closed
        self._settle(NotDelivered(f"{'connection lost' if had_line else 'cannot connect'} ({text})"))
        if closed is not None:
            closed.callback(None)
        elif idle:
            self._lost(f"connection lost ({text})")

    def _settle(self, fault: NotDelivered | None) -> None:
        under_way, self._under_way = self._under_way, None
        if under_way is None:
            return
        if fault is None:
            under_way.callback(None)
        else:
            under_way.errback(fault)

    def close(self, within_s: float) -> Deferred[None]:
        """See :class:`Channel`. Bytes the kernel has taken stay readable for the daemon."""
        if self._closed is not None or (self._line is None and self._connector is None):
            self._closed = self._closed or succeed(None)
            return succeed(None)
        closed: Deferred[None] = Deferred()
        self._closed = closed
        if self._line is None:
            self._connector.disconnect()
        elif self._under_way is not None or within_s <= 0:
            self._line.abort()
        else:
            # An orderly end waits until the socket is writable, which one that nobody reads never is.
            self._close_timer = self._reactor.callLater(within_s, self._line.abort)
            self._line.end()
        return closed
