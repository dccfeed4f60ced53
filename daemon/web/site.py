"""Twisted's Site without what a daemon at rest should not do: no access log, no timer every second."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.server import Site

from daemon.web.request import BODY_MAX, BoundedRequest

IDLE_S = 75  # a keep-alive connection without a request is closed

Doorkeeper = Callable[[Any], str | None]
BodyRoom = Callable[[bytes, bytes, BoundedRequest], int]


class CountedChannel(HTTPChannel):
    """One connection, counted, its peer asked for at the door.

    Attributes:
        peer_name: who it is, where the door can tell; else empty.
    """

    site: Any
    transport: Any
    timeOut: Any
    callLater: Any

    def __init__(self, channels: set[CountedChannel], doorkeeper: Doorkeeper) -> None:
        super().__init__()
        self.peer_name = ""
        self._channels = channels
        self._doorkeeper = doorkeeper

    def connectionMade(self) -> None:
        """The connection is there; before a byte is read the door decides."""
        peer_name = self._doorkeeper(self.transport)
        if peer_name is None:
            self.transport.abortConnection()
            return
        self.peer_name = peer_name
        self._channels.add(self)
        super().connectionMade()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone."""
        if self in self._channels:
            self._channels.discard(self)
            super().connectionLost(reason)

    def dataReceived(self, data: bytes) -> None:
        """Bytes of requests; none of a peer that was turned away."""
        if self in self._channels:
            super().dataReceived(data)

    def end(self) -> None:
        """Closes the connection once what was written has gone out."""
        self.transport.loseConnection()


class QuietSite(Site):
    """A Site that writes no access log: operations are audit events, and idle hosts stay idle.

    Args:
        resource: the gate.
        channels: the connections, shared by the listeners of one service.
        doorkeeper: names a peer, or turns it away with None.
        reactor: for idle timeouts.
        body_room: bytes that the body of a request may have, by method and path; its headers are there.
    """

    noisy = False
    displayTracebacks = False

    def __init__(
        self, resource: Any, channels: set[CountedChannel], doorkeeper: Doorkeeper, reactor: Any,
        body_room: BodyRoom = lambda command, path, request: BODY_MAX,
    ) -> None:
        super().__init__(resource, requestFactory=BoundedRequest, timeout=IDLE_S, reactor=reactor)
        self._channels = channels
        self._doorkeeper = doorkeeper
        self.body_room = body_room

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """One channel for each connection."""
        channel = CountedChannel(self._channels, self._doorkeeper)
        channel.factory = self
        channel.site = self
        channel.requestFactory = self.requestFactory
        channel.timeOut = self.timeOut
        channel.callLater = self.reactor.callLater
        return channel

    def acceptableProtocols(self) -> list[bytes]:
        """HTTP/1.1 alone, also where Twisted could speak HTTP/2: our channels cannot."""
        return [b"http/1.1"]

    def startFactory(self) -> None:
        """Twisted's own would begin a timer that renews the date of its access log every second."""

    def stopFactory(self) -> None:
        """Nothing was begun."""

    def log(self, request: Any) -> None:
        """No access log."""
