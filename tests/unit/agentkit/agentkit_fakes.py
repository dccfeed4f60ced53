"""A host in memory for the agent's side: daemons on Unix sockets, ports, and a clock."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.error import CannotListenError, ConnectError, ConnectionAborted, ConnectionDone
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure


class FakeDaemon:
    """What listens on a socket: reads (or not), and remembers."""

    def __init__(self) -> None:
        self.reads = True
        self.deaf_after = b"\0"  # once that was received, nothing more is read
        self.received = b""
        self.connections: list[FakeLine] = []
        self.connections_total = 0

    @property
    def messages(self) -> list[dict[str, Any]]:
        """What arrived, line by line."""
        return [json.loads(line) for line in self.received.splitlines()]

    def hang_up(self) -> None:
        for line in tuple(self.connections):
            line.end(ConnectionDone())


class FakeLine(StringTransport):
    """The agent's end of one connection, as the kernel and the reactor behave."""

    def __init__(self, host: FakeHost, daemon: FakeDaemon) -> None:
        super().__init__()
        self.host = host
        self.daemon = daemon
        self.waiting = b""
        self.pull: Any = None
        self.protocol: Any = None
        self.ending = False

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        super().registerProducer(producer, streaming)
        self.pull = producer
        producer.resumeProducing()

    def unregisterProducer(self) -> None:
        super().unregisterProducer()
        self.pull = None

    def write(self, data: bytes) -> None:
        self.waiting += data
        self.host.callLater(0, self.flush)

    def flush(self) -> None:
        """The reactor finds the socket writable, if it is."""
        if self.protocol is None or not self.daemon.reads:
            return
        had, self.waiting = self.waiting, b""
        self.daemon.received += had
        self.daemon.reads = self.daemon.deaf_after not in had
        if self.pull is not None and had:
            self.pull.resumeProducing()
        elif self.ending:
            self.end(ConnectionDone())

    def loseConnection(self) -> None:
        self.ending = True
        self.host.callLater(0, self.flush)

    def abortConnection(self) -> None:
        self.host.callLater(0, self.end, ConnectionAborted())

    def end(self, error: Exception) -> None:
        if self.protocol is not None:
            protocol, self.protocol = self.protocol, None
            self.daemon.connections.remove(self)
            protocol.connectionLost(Failure(error))


class _Connector:
    def __init__(self, host: FakeHost, path: str, factory: Any) -> None:
        self.host, self.path, self.factory = host, path, factory
        self.over = False

    def attempt(self) -> None:
        if self.over:
            return
        daemon = self.host.daemons.get(self.path)
        if daemon is None:
            self.fail()
            return
        self.over = True
        line = FakeLine(self.host, daemon)
        line.protocol = self.factory.buildProtocol(None)
        daemon.connections.append(line)
        daemon.connections_total += 1
        line.protocol.makeConnection(line)

    def fail(self) -> None:
        self.over = True
        self.factory.clientConnectionFailed(self, Failure(ConnectError(string="No such file")))

    def disconnect(self) -> None:
        if not self.over:
            self.fail()


class FakePort:
    """A listening port."""

    def __init__(self, host: FakeHost, key: tuple[str, int]) -> None:
        self.host, self.key = host, key

    def getHost(self) -> tuple[str, int]:
        return self.key

    def stopListening(self) -> None:
        del self.host.listening[self.key]


class FakeHost(MemoryReactorClock):
    """The reactor of that host."""

    def __init__(self) -> None:
        super().__init__()
        self.daemons: dict[str, FakeDaemon] = {}
        self.listening: dict[tuple[str, int], Any] = {}
        self.taken: set[int] = set()

    def connectUNIX(self, address: str, factory: Any, timeout: float = 30) -> _Connector:
        connector = _Connector(self, address, factory)
        self.callLater(0, connector.attempt)
        return connector

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> FakePort:
        if port in self.taken or (interface, port) in self.listening:
            raise CannotListenError(interface, port, OSError(98, "Address already in use"))
        self.listening[interface, port] = factory
        return FakePort(self, (interface, port))

    def settle(self, seconds: float = 0.0) -> None:
        """Lets time pass in small steps, so that what is due now happens now."""
        for _ in range(10):
            self.advance(0)
        steps = round(seconds * 10)
        for _ in range(steps):
            self.advance(0.1)
            self.advance(0)
            self.advance(0)
            self.advance(0)
