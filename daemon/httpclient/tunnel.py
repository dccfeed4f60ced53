"""A connection through an HTTP proxy by CONNECT (RFC 9110, 9.3.6); Twisted has none."""

from __future__ import annotations

import re
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

from daemon.aio.reactor import Clock
from daemon.httpclient.connection import HEADERS_MAX
from daemon.httpclient.deadline import Overdue, by_deadline
from daemon.httpclient.errors import HttpError
from daemon.httpclient.proxy import Proxy
from daemon.httpclient.target import USER_AGENT

_PASSING = frozenset({408, 429})  # statuses below 500 that may be others the next time
_STATUS = re.compile(rb"[1-9][0-9]{2}")


@implementer(IStreamClientEndpoint)
class Tunnel:
    """An endpoint behind a proxy.

    Args:
        clock: keeps the deadline.
        dial: the endpoint of the proxy.
        proxy: who we are to it.
        host, port: where the tunnel leads.
        timeout_s: for the proxy to answer.
    """

    def __init__(self, clock: Clock, dial: Any, proxy: Proxy, host: str, port: int, timeout_s: float) -> None:
        self._clock = clock
        self._dial = dial
        self._proxy = proxy
        self._authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._timeout_s = timeout_s

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """See IStreamClientEndpoint; fails with HttpError when the proxy refuses."""
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        to = self._authority
        head = [f"CONNECT {to} HTTP/1.1", f"Host: {to}", f"User-Agent: {USER_AGENT}"]
        if self._proxy.authorization:
            head.append(f"Proxy-Authorization: {self._proxy.authorization}")
        request = "\r\n".join((*head, "", "")).encode("ascii")
        proxy = f"the proxy {self._proxy.host}:{self._proxy.port}"
        through = Factory.forProtocol(lambda: _Through(request, factory, proxy))
        through.noisy = False
        line: Any = await self._dial.connect(cast(Any, through))
        try:
            return await by_deadline(self._clock, self._timeout_s, _opened(line))
        except Overdue as error:
            raise HttpError(f"{proxy} opened no tunnel within {self._timeout_s:g} s") from error


async def _opened(line: _Through) -> IProtocol:
    return await line.opened


class _Through(Protocol):
    """Asks for the tunnel, then hands everything on."""

    def __init__(self, request: bytes, factory: IProtocolFactory, proxy: str) -> None:
        self._request = request
        self._factory = factory
        self._proxy = proxy
        self._head = b""
        self._inner: Any = None
        self.opened: Deferred[IProtocol] = Deferred(self._cancelled)

    def connectionMade(self) -> None:
        """The proxy is there."""
        cast(Any, self.transport).write(self._request)

    def dataReceived(self, data: bytes) -> None:
        """Something came."""
        if self._inner is not None:
            self._inner.dataReceived(data)
            return
        if self.opened.called:
            return  # refused, and on its way out
        self._head += data
        head, end, rest = self._head.partition(b"\r\n\r\n")
        if end:
            self._answered(head, rest)
        elif len(self._head) > HEADERS_MAX:
            self._fail(HttpError(f"{self._proxy}: no end of its headers within {HEADERS_MAX} bytes"))

    def _answered(self, head: bytes, rest: bytes) -> None:
        words = head.split(b"\r\n", 1)[0].split(None, 2)
        if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or _STATUS.fullmatch(words[1]) is None:
            self._fail(HttpError(f"{self._proxy} does not answer in HTTP"))
            return
        status = int(words[1])
        if not 200 <= status <= 299:
            what = "wants a user and a password" if status == 407 else f"answered {status} to CONNECT"
            self._fail(HttpError(f"{self._proxy} {what}", final=status < 500 and status not in _PASSING))
            return
        transport = cast(Any, self.transport)
        self._inner = inner = cast(Any, self._factory).buildProtocol(transport.getPeer())
        inner.makeConnection(transport)
        self.opened.callback(inner)
        if rest:
            inner.dataReceived(rest)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """It is gone."""
        if self._inner is not None:
            self._inner.connectionLost(reason)
        elif not self.opened.called:
            self.opened.errback(reason)

    def _cancelled(self, _opened: Deferred[IProtocol]) -> None:
        cast(Any, self.transport).abortConnection()

    def _fail(self, error: HttpError) -> None:
        cast(Any, self.transport).abortConnection()
        self.opened.errback(error)
