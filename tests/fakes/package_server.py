"""A package server on a real socket of loopback, and all the ways in which such servers misbehave.

Its *manners* say how each request is answered, the last one for good. A manner is called with the connection
and the request.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol

Manner = Callable[["Peer", "Request"], object]


@dataclass(frozen=True)
class Request:
    """What was asked."""

    line: str
    headers: dict[str, str]

    @property
    def range(self) -> str:
        return self.headers.get("range", "")


class Peer(Protocol):
    """One connection."""

    factory: PackageServer

    def connectionMade(self) -> None:
        self.received = b""
        self.timer: Any = None
        self.factory.open += 1

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        head, end, rest = self.received.partition(b"\r\n\r\n")
        if end:
            self.received = rest
            first, *others = head.decode("latin-1").split("\r\n")
            pairs = (line.split(": ", 1) for line in others)
            request = Request(first, {name.lower(): value for name, value in pairs})
            self.factory.answer(self, request)

    def connectionLost(self, reason: Any = None) -> None:
        self.factory.open -= 1
        if self.timer is not None and self.timer.active():
            self.timer.cancel()

    def later(self, delay_s: float, call: Callable[..., object], *args: object) -> None:
        """One call to come, unless the connection ends before."""
        transport: Any = self.transport
        reactor = getattr(transport, "reactor", None) or transport.transport.reactor
        self.timer = reactor.callLater(delay_s, call, *args)

    def head(self, status: int, **headers: object) -> None:
        """Writes a status line and headers; ``content_length`` is Content-Length."""
        lines = [f"HTTP/1.1 {status} X"]
        lines += [f"{name.replace('_', '-').title()}: {value}" for name, value in headers.items()]
        self.write("\r\n".join((*lines, "", "")).encode())

    def write(self, data: bytes) -> None:
        transport: Any = self.transport
        transport.write(data)

    def close(self) -> None:
        transport: Any = self.transport
        transport.loseConnection()

    def reset(self) -> None:
        transport: Any = self.transport
        transport.abortConnection()


class PackageServer(Factory):
    """Offers one package.

    Attributes:
        body, etag, modified: the package as it is now.
        manners: for the next requests; the last one stays.
        requests: all that came.
        open: connections.
    """

    protocol = Peer
    noisy = False

    def __init__(self, body: bytes, *manners: Manner) -> None:
        self.body = body
        self.etag = '"v1"'
        self.modified = ""
        self.manners: list[Manner] = list(manners) or [well]
        self.requests: list[Request] = []
        self.open = 0
        self.wanted: Callable[[Request], object] = lambda _request: None

    def answer(self, peer: Peer, request: Request) -> None:
        self.requests.append(request)
        manner = self.manners.pop(0) if len(self.manners) > 1 else self.manners[0]
        self.wanted(request)
        manner(peer, request)

    @property
    def ranges(self) -> list[str]:
        """The Range of every request, empty for none."""
        return [request.range for request in self.requests]

    def part(self, request: Request) -> tuple[int, dict[str, object], bytes]:
        """Status, headers and body, as RFC 9110 has them."""
        headers: dict[str, object] = {"date": "Sun, 06 Nov 1994 08:49:37 GMT"}
        if self.etag:
            headers["etag"] = self.etag
        if self.modified:
            headers["last_modified"] = self.modified
        begin, size = 0, len(self.body)
        same = request.headers.get("if-range") in (None, self.etag, self.modified)
        if request.range and same:
            begin = int(request.range.removeprefix("bytes=").removesuffix("-"))
            if begin >= size:
                return 416, {**headers, "content_range": f"bytes */{size}", "content_length": 0}, b""
            headers["content_range"] = f"bytes {begin}-{size - 1}/{size}"
        body = self.body[begin:]
        headers["content_length"] = len(body)
        return (206 if "content_range" in headers else 200), headers, body


# ------------------------------------------------------------------------------------------------ manners


def well(peer: Peer, request: Request) -> None:
    """As it should be."""
    status, headers, body = peer.factory.part(request)
    peer.head(status, **headers)
    peer.write(body)


def deaf_to_ranges(peer: Peer, request: Request) -> None:
    """Always all of it."""
    well(peer, Request(request.line, {}))


def cut(size: int, *, rudely: bool = False) -> Manner:
    """Breaks off after so many bytes of the body."""

    def manner(peer: Peer, request: Request) -> None:
        status, headers, body = peer.factory.part(request)
        peer.head(status, **headers)
        peer.write(body[:size])
        if rudely:  # a reset may overtake what was written
            peer.later(0.05, peer.reset)
        else:
            peer.close()

    return manner


def stall(size: int) -> Manner:
    """Falls silent after so many bytes of the body."""

    def manner(peer: Peer, request: Request) -> None:
        status, headers, body = peer.factory.part(request)
        peer.head(status, **headers)
        peer.write(body[:size])

    return manner


def mute(_peer: Peer, _request: Request) -> None:
    """Never answers."""


def drip(step_s: float) -> Manner:
    """A byte at a time."""

    def manner(peer: Peer, request: Request) -> None:
        status, headers, body = peer.factory.part(request)
        peer.head(status, **headers)

        def next_byte(sent: int) -> None:
            if sent < len(body):
                peer.write(body[sent:sent + 1])
                peer.later(step_s, next_byte, sent + 1)

        next_byte(0)

    return manner


def status(code: int, **headers: object) -> Manner:
    """Nothing but a status."""
    return lambda peer, _request: peer.head(code, **{"content_length": 0, **headers})


def redirect(to: str, code: int = 302) -> Manner:
    """Elsewhere; ``{n}`` in ``to`` counts requests."""
    return lambda peer, _request: peer.head(
        code, location=to.format(n=len(peer.factory.requests)), content_length=0)


def altered(**changed: object) -> Manner:
    """As it should be, but for some headers; None leaves one out."""

    def manner(peer: Peer, request: Request) -> None:
        status, headers, body = peer.factory.part(request)
        status = int(changed.get("status", status))  # type: ignore[call-overload]
        headers = {**headers, **{name: value for name, value in changed.items() if name != "status"}}
        peer.head(status, **{name: value for name, value in headers.items() if value is not None})
        peer.write(body)
        if "content_length" in changed:
            peer.close()

    return manner


def chunked(peer: Peer, request: Request) -> None:
    """Without a length, but with an end that can be told."""
    _status, headers, body = peer.factory.part(Request(request.line, {}))
    del headers["content_length"]
    peer.head(200, transfer_encoding="chunked", **headers)
    for begin in range(0, len(body), 70_000):
        piece = body[begin:begin + 70_000]
        peer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
    peer.write(b"0\r\n\r\n")


def endless_headers(peer: Peer, _request: Request) -> None:
    """Headers and headers."""
    peer.write(b"HTTP/1.1 200 OK\r\n")
    _pour(peer, b"X-A: " + b"b" * 995 + b"\r\n")


def endless_body(peer: Peer, _request: Request) -> None:
    """Neither a length nor an end."""
    peer.write(b'HTTP/1.1 200 OK\r\nETag: "v1"\r\n\r\n')
    _pour(peer, b"x" * 1000)


def raw(data: bytes) -> Manner:
    """Whatever; then it closes."""

    def manner(peer: Peer, _request: Request) -> None:
        peer.write(data)
        peer.close()

    return manner


def _pour(peer: Peer, line: bytes) -> None:
    transport: Any = peer.transport
    transport.registerProducer(_Endless(transport, line * 64), False)


class _Endless:
    """Writes for as long as it is let."""

    def __init__(self, transport: Any, data: bytes) -> None:
        self._transport = transport
        self._data = data

    def resumeProducing(self) -> None:
        self._transport.write(self._data)

    def stopProducing(self) -> None:
        pass


# -------------------------------------------------------------------------------------------------- proxy


class ProxyPeer(Peer):
    """One connection of a proxy: a tunnel to where it was told, whatever name was asked for."""

    factory: ProxyServer

    def connectionMade(self) -> None:
        super().connectionMade()
        self.other: Any = None

    def dataReceived(self, data: bytes) -> None:
        if self.other is not None:
            self.other.transport.write(data)
        else:
            super().dataReceived(data)

    def connectionLost(self, reason: Any = None) -> None:
        super().connectionLost(reason)
        if self.other is not None:
            self.other.transport.loseConnection()


class ProxyServer(PackageServer):
    """A proxy: CONNECT leads to ``port`` of loopback, and absolute URLs are answered from ``body`` itself."""

    protocol = ProxyPeer

    def __init__(self, reactor: Any, port: int, body: bytes = b"", *manners: Manner) -> None:
        super().__init__(body, *(manners or (connect,)))
        self.reactor = reactor
        self.port = port


class _Far(Protocol):
    def __init__(self, near: ProxyPeer) -> None:
        self.near = near

    def connectionMade(self) -> None:
        self.near.other = self
        self.near.write(b"HTTP/1.1 200 Connection established\r\nX-Proxy: yes\r\n\r\n")

    def dataReceived(self, data: bytes) -> None:
        self.near.write(data)

    def connectionLost(self, reason: Any = None) -> None:
        self.near.close()


def connect(peer: Peer, _request: Request) -> None:
    """Opens the tunnel."""
    proxy: Any = peer.factory
    near: Any = peer
    factory = Factory.forProtocol(lambda: _Far(near))
    factory.noisy = False
    TCP4ClientEndpoint(proxy.reactor, "127.0.0.1", proxy.port).connect(factory)
