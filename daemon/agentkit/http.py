"""The agent's own page: ``GET /health``, ``POST /reload``, ``GET /metrics``.

Three fixed routes on ``twisted.web.http`` alone: its resource tree would cost more memory than the rest of
the agent. No route takes a body, so none is kept: up to 16 KiB are read and dropped, more is answered with
413. The page has no token. ``/reload`` takes nothing from its client (the file is the operator's), yet it is
for this host alone: other hosts, and web pages (they send Origin), are refused.
"""

from __future__ import annotations

import ipaddress
from email.utils import formatdate
from io import BytesIO
from typing import Any, Protocol

import msgspec
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import http

from daemon.agentkit.views import HealthView, MetricsView, ReloadView, wants_prometheus
from daemon.aio.backoff import backoff_delay
from daemon.aio.reactor import Clock, DelayedCall
from daemon.errors import ListenError
from daemon.interfaces import WallClock

log = Logger()

MAX_BODY_BYTES = 16 * 1024
HANG_UP_BYTES = 1024 * 1024  # a body that large is not read to its end
IDLE_S = 30.0
RETRY_BASE_S = 1.0
RETRY_MAX_S = 60.0

_JSON = b"application/json"
_PROMETHEUS = b"text/plain; version=0.0.4; charset=utf-8"
_ROUTES = {b"/health": (b"GET", b"HEAD"), b"/metrics": (b"GET", b"HEAD"), b"/reload": (b"POST",)}


class Page(Protocol):
    """What the page shows and does; the agent."""

    def health(self) -> HealthView:
        """For ``/health``."""
        ...

    def metrics(self) -> MetricsView:
        """For ``/metrics`` as JSON."""
        ...

    def metrics_text(self) -> str:
        """For ``/metrics`` in the Prometheus text format."""
        ...

    def reload(self) -> Deferred[ReloadView]:
        """For ``/reload``; never fails."""
        ...


class TcpReactor(Clock, Protocol):
    """Timers and TCP ports (IReactorTCP)."""

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        """Listens; returns an IListeningPort."""
        ...


def may_reload(peer_host: str | None, origin: str | None) -> bool:
    """Whether a client may ask for a reload: from this host, and not from a web page."""
    if origin is not None or peer_host is None:
        return False
    try:
        address = ipaddress.ip_address(peer_host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


class AgentRequest(http.Request):
    """One request."""

    def __init__(self, channel: Any, page: Page, wall: WallClock) -> None:
        super().__init__(channel)
        self._page = page
        self._wall = wall
        self._body_bytes = 0
        self._refused = False

    def gotLength(self, length: int | None) -> None:
        """The headers are in; ``length`` is None for a chunked body."""
        self.content = BytesIO()
        if length is not None and length > HANG_UP_BYTES:
            self._hang_up()

    def handleContentChunk(self, data: bytes) -> None:
        """A part of the body: counted and dropped."""
        self._body_bytes += len(data)
        if self._body_bytes > HANG_UP_BYTES:
            self._hang_up()

    def _hang_up(self) -> None:
        if not self._refused:
            self._refused = True
            transport: Any = self.channel.transport
            transport.write(
                b"HTTP/1.1 413 Request Entity Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            )
            self.channel.loseConnection()

    def process(self) -> None:
        """Answers; called once the body is over."""
        if self._refused:
            return
        methods = _ROUTES.get(self.path)
        if self._body_bytes > MAX_BODY_BYTES:
            self._complain(413, f"no body of more than {MAX_BODY_BYTES} bytes, please")
        elif methods is None:
            self._complain(404, "there are /health, /metrics and /reload")
        elif self.method not in methods:
            self.responseHeaders.setRawHeaders(b"Allow", [b", ".join(methods)])
            self._complain(405, f"use {methods[0].decode()} here")
        elif self.path == b"/health":
            health = self._page.health()
            self._answer(200 if health.healthy else 503, _JSON, msgspec.json.encode(health))
        elif self.path == b"/metrics":
            self._metrics()
        else:
            self._reload()

    def _metrics(self) -> None:
        self.responseHeaders.setRawHeaders(b"Vary", [b"Accept"])
        if wants_prometheus(self.getHeader("Accept") or ""):
            self._answer(200, _PROMETHEUS, self._page.metrics_text().encode())
        else:
            self._answer(200, _JSON, msgspec.json.encode(self._page.metrics()))

    def _reload(self) -> None:
        peer = getattr(self.client, "host", None)
        if not may_reload(peer, self.getHeader("Origin")):
            self._complain(403, "a reload is asked for from this host only, and not by a web page")
            return
        left: list[Failure] = []
        self.notifyFinish().addErrback(left.append)  # the client went: the reload goes on without it

        def reloaded(view: ReloadView) -> None:
            if not left:
                self._answer(200 if view.success else 500, _JSON, msgspec.json.encode(view))

        self._page.reload().addCallback(reloaded).addErrback(
            lambda failure: log.failure("the answer to a reload failed", failure=failure)
        )

    def _complain(self, code: int, message: str) -> None:
        view = ReloadView(success=False, message=message, reloaded_at=None)
        self._answer(code, _JSON, msgspec.json.encode(view))

    def _answer(self, code: int, content_type: bytes, body: bytes) -> None:
        request: Any = self  # the older methods of Request carry no types
        request.setResponseCode(code)
        request.setHeader(b"Date", formatdate(self._wall(), usegmt=True).encode("ascii"))
        request.setHeader(b"Content-Type", content_type)
        request.setHeader(b"Content-Length", b"%d" % len(body))
        request.setHeader(b"Cache-Control", b"no-store")
        request.write(body)
        request.finish()


class AgentSite(http.HTTPFactory):
    """Makes the connections of the page; without an access log and its timer of once a second.

    Args:
        reactor: keeps the idle timeout.
        wall: for the Date header.
        page: what is shown.
    """

    noisy = False

    def __init__(self, reactor: Clock, wall: WallClock, page: Page) -> None:
        super().__init__(timeout=IDLE_S, reactor=reactor)  # type: ignore[arg-type]  # IReactorTime in all but name
        self._page = page
        self._wall = wall

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """One connection."""
        channel: Any = super().buildProtocol(addr)
        channel.requestFactory = lambda inner, _queued=None: AgentRequest(inner, self._page, self._wall)
        return channel

    def startFactory(self) -> None:
        """No access log."""

    def stopFactory(self) -> None:
        """No access log."""

    def log(self, request: http.Request) -> None:
        """One debug line per request."""
        log.debug("{method} {path} answered {code}", method=request.method, path=request.path[:200],
                  code=request.code)


def listen(reactor: TcpReactor, host: str, port: int, site: AgentSite) -> Any:
    """Listens.

    Returns:
        the IListeningPort.

    Raises:
        ListenError: the port is taken or the address is not ours.
    """
    try:
        return reactor.listenTCP(port, site, interface=host)
    except CannotListenError as error:
        # The cause is an OSError, or plain text where the address itself is refused.
        cause = getattr(error.socketError, "strerror", None) or str(error.socketError)
        raise ListenError(
            f"cannot listen on {host}:{port} ({cause}); choose another http.port (AGENT_HTTP_PORT)",
            host=host, port=port,
        ) from error


class HttpListener:
    """Keeps the page on its port; a port that is taken is tried again, the heartbeats do not wait for it.

    Args:
        reactor: listens and waits.
        site: what is served.
        host: IP address to listen on.
        port: TCP port; 0 means off.
    """

    def __init__(self, reactor: TcpReactor, site: AgentSite, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self._reactor = reactor
        self._site = site
        self._listening: Any = None
        self._retry: DelayedCall | None = None
        self._attempt = 0

    @property
    def address(self) -> IAddress | None:
        """Where the page is now, or None."""
        return None if self._listening is None else self._listening.getHost()

    def start(self) -> None:
        """Listens now or, after one line in the log, as soon as the port is free."""
        if self.port == 0:
            return
        self._retry = None
        try:
            self._listening = listen(self._reactor, self.host, self.port, self._site)
        except ListenError as error:
            delay_s = backoff_delay(
                self._attempt, base_delay=RETRY_BASE_S, max_delay=RETRY_MAX_S, multiplier=2.0
            )
            level = log.warn if self._attempt == 0 else log.debug
            level("{error}; heartbeats go on without the page, the port is tried again in {delay_s:.0f} s",
                  error=str(error), error_code=error.code.value, delay_s=delay_s)
            self._attempt += 1
            self._retry = self._reactor.callLater(delay_s, self.start)
        else:
            self._attempt = 0
            log.info("the page is on http://{host}:{port}/", host=self.host, port=self.port)

    def move(self, host: str, port: int) -> None:
        """Serves on another address from now on; connections that stand are answered to their end.

        Raises:
            ListenError: the new address cannot be had; the old one stays.
        """
        if (host, port) == (self.host, self.port):
            return
        fresh = listen(self._reactor, host, port, self._site) if port else None
        self._leave()
        self.host, self.port = host, port
        self._listening = fresh
        self._attempt = 0

    def _leave(self) -> Deferred[None] | None:
        if self._retry is not None and self._retry.active():
            self._retry.cancel()
        self._retry = None
        listening, self._listening = self._listening, None
        if listening is None:
            return None
        left: Deferred[None] = maybeDeferred(listening.stopListening)
        return left.addErrback(lambda failure: log.failure("the port did not close", failure=failure))

    async def stop(self) -> None:
        """Closes the port."""
        left = self._leave()
        if left is not None:
            await left
