"""The connections of requests: one each, bounded, and known to be gone when the request is over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from daemon.aio.dial import Dial
from daemon.aio.reactor import Clock
from daemon.aio.threads import Threads
from daemon.httpclient.errors import HttpError

# Bytes before the end of the headers; endless ones would cost a core until the deadline.
HEADERS_MAX = 64 * 1024


class Line:
    """The connection of one request.

    Args:
        heard: called when it stands, and whenever something came on it.

    Attributes:
        guard: its near end, None before it stands.
        encrypted: TLS is spoken on it.
    """

    def __init__(self, heard: Callable[[], None] = lambda: None) -> None:
        self.heard = heard
        self.guard: _Guard | None = None
        self.encrypted = False


class _Guard(ProtocolWrapper):
    """Stands before the protocol of one connection: bounds what comes in, knows when it is gone."""

    def __init__(self, factory: Any, wrapped: Any) -> None:
        super().__init__(factory, wrapped)
        self.flooded = False
        self._heard: Callable[[], None] = factory.line.heard
        self._bounded = True
        self._room = HEADERS_MAX
        self._gone: Deferred[None] = Deferred(lambda _gone: cast(Any, self.transport).abortConnection())

    def dataReceived(self, data: bytes) -> None:
        """Something came."""
        self._heard()
        if not self._bounded:
            super().dataReceived(data)
        elif self._room > 0:  # what comes with the end of the headers is no flood, however much it is
            self._room -= len(data)
            super().dataReceived(data)
        elif not self.flooded:
            self.flooded = True
            cast(Any, self.transport).abortConnection()

    def lift(self) -> None:
        """The headers are in, and whoever takes the body bounds it."""
        self._bounded = False

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """It is gone."""
        super().connectionLost(reason)
        if not self._gone.called:
            self._gone.callback(None)

    def abort(self) -> None:
        """Ends it from our side; whoever reads from it hears so."""
        cast(Any, self.transport).abortConnection()

    def hang_up(self, *, politely: bool) -> Deferred[None]:
        """Ends it; fires when it is gone.

        Args:
            politely: says goodbye. Over TLS, and with a body unread, that would wait for the other side.
        """
        if politely:
            cast(Any, self.transport).loseConnection()
        else:
            cast(Any, self.transport).abortConnection()
        return self._gone


class _GuardFactory(WrappingFactory):
    """Makes guards."""

    protocol = _Guard
    noisy = False

    def __init__(self, wrapped: Any, line: Line) -> None:
        super().__init__(wrapped)
        self.line = line


@implementer(IStreamClientEndpoint)
class Guarded:
    """An endpoint whose connections have a guard, told to ``line``."""

    def __init__(self, endpoint: Any, line: Line) -> None:
        self._endpoint = endpoint
        self._line = line

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """See IStreamClientEndpoint."""
        connecting: Deferred[IProtocol] = self._endpoint.connect(
            _GuardFactory(cast(Any, protocolFactory), self._line)
        )
        return connecting.addCallback(self._connected)

    def _connected(self, guard: Any) -> Any:
        self._line.guard = guard
        self._line.heard()
        return guard.wrappedProtocol


class Endpoints:
    """Chooses the endpoint of a request (IAgentEndpointFactory).

    Args:
        timeout_s: of the connection.
        tunnel: makes the endpoint below TLS in place of a direct one, from host and port.
    """

    def __init__(
        self, reactor: Clock, threads: Threads, timeout_s: float, line: Line,
        tunnel: Callable[[str, int], Any] | None = None,
    ) -> None:
        self._reactor = reactor
        self._threads = threads
        self._timeout_s = timeout_s
        self._line = line
        self._tunnel = tunnel

    def endpointForURI(self, uri: Any) -> Guarded:
        """See IAgentEndpointFactory.

        Raises:
            HttpError: https in a process without OpenSSL, or neither http nor https.
        """
        host = uri.host.decode("ascii").strip("[]")
        if uri.scheme == b"http":
            return Guarded(Dial(self._reactor, self._threads, host, uri.port, self._timeout_s), self._line)
        if uri.scheme != b"https":
            raise HttpError(f"{uri.scheme.decode('ascii')} is not http or https", final=True)
        try:
            from twisted.internet.endpoints import wrapClientTLS
            from twisted.internet.ssl import optionsForClientTLS
        except ImportError as error:
            raise HttpError(
                "OpenSSL is not loaded, for https was not configured when the daemon started; restart it",
                final=True,
            ) from error
        self._line.encrypted = True
        below: Any = (
            Dial(self._reactor, self._threads, host, uri.port, self._timeout_s) if self._tunnel is None
            else self._tunnel(host, uri.port)
        )
        return Guarded(wrapClientTLS(optionsForClientTLS(host), below), self._line)
