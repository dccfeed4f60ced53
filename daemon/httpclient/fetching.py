"""A GET whose body goes into a sink, piece by piece: packages of updates.

Every URL on the way, the first one and those of redirections, is looked at by the caller and asked for in the
caller's spelling. The proxy and the bundle of authorities are those of the host: http_proxy and its like, and
OpenSSL's default paths with SSL_CERT_FILE.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urljoin, urlsplit

from twisted.internet.defer import CancelledError

from daemon.aio.dial import Dial
from daemon.aio.reactor import Clock
from daemon.aio.threads import Threads
from daemon.httpclient.connection import HEADERS_MAX, Endpoints, Guarded, Line
from daemon.httpclient.deadline import Overdue, by_deadline
from daemon.httpclient.errors import HttpError
from daemon.httpclient.proxy import Proxy, proxy_for
from daemon.httpclient.silence import Silence
from daemon.httpclient.sink import Answer, Sink
from daemon.httpclient.target import USER_AGENT, split_target
from daemon.httpclient.tunnel import Tunnel
from daemon.httpclient.wording import distrusted, explain

_REDIRECTIONS = frozenset({301, 302, 303, 307, 308})
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchLimits:
    """How long, and how far.

    Attributes:
        timeout_s: seconds for everything, redirections and the body included.
        connect_s: for a name to resolve, for each address to answer, for a proxy to open a tunnel.
        stall_s: without a byte, once connected. Time in which the sink works does not count.
        redirects: at most.
    """

    timeout_s: float
    connect_s: float = 30.0
    stall_s: float = 60.0
    redirects: int = 5


class Fetcher:
    """Fetches; every request has a connection of its own.

    Args:
        reactor: connects, keeps deadlines.
        threads: resolves names.
        environ: of the process, for the proxy; read at each request.
    """

    def __init__(self, reactor: Clock, threads: Threads, environ: Mapping[str, str]) -> None:
        self._reactor = reactor
        self._threads = threads
        self._environ = environ

    async def fetch(
        self, url: str, sink: Sink, *, headers: Mapping[str, str], check: Callable[[str], str],
        limits: FetchLimits,
    ) -> Answer:
        """GETs ``url``, follows redirections, and brings what it leads to into ``sink``.

        When it ends, in whatever way, its connection is closed and the sink is called no more. Cancelling
        ends it at once.

        Args:
            headers: sent with every request.
            check: called with every URL before it is asked for; returns the URL to ask for in its place, or
                raises HttpError.

        Returns:
            the answer that ``sink.begin`` saw.

        Raises:
            HttpError: no answer, or not all of it; ``final`` where another attempt would not help.
            whatever the sink raised.
        """
        try:
            return await by_deadline(
                self._reactor, limits.timeout_s, self._follow(url, sink, headers, check, limits)
            )
        except Overdue as error:
            raise HttpError(f"not done within {limits.timeout_s:g} s") from error

    async def _follow(
        self, url: str, sink: Sink, headers: Mapping[str, str], check: Callable[[str], str],
        limits: FetchLimits,
    ) -> Answer:
        asked = check(url)
        _target, authorization = split_target(asked)
        for _ in range(limits.redirects + 1):
            request = _Request(self._reactor, self._threads, proxy_for(asked, self._environ), limits)
            answer = await request.go(asked, authorization, sink, headers)
            if not _leads_on(answer):
                return answer
            following = check(_next(asked, answer))
            if _origin(asked)[0] == "https" and _origin(following)[0] != "https":
                raise HttpError("a redirection leads from https to http", final=True)
            _target, own = split_target(following)
            # A password is for the host it was given for (RFC 9110, 15.4).
            authorization = own or (authorization if _origin(following) == _origin(asked) else "")
            asked = following
        raise HttpError(f"it redirects more than {limits.redirects} times", final=True)


class _Request:
    """One request and its connection."""

    def __init__(self, reactor: Clock, threads: Threads, proxy: Proxy | None, limits: FetchLimits) -> None:
        self._reactor = reactor
        self._threads = threads
        self._proxy = proxy
        self._limits = limits
        self._silence = Silence(reactor, limits.stall_s, self._stalled)
        self._silent = False
        self._line = Line(self._silence.heard)

    async def go(self, url: str, authorization: str, sink: Sink, headers: Mapping[str, str]) -> Answer:
        """See :meth:`Fetcher.fetch`; an answer that leads on is not shown to the sink."""
        try:
            return await self._go(url, authorization, sink, headers)
        except (CancelledError, HttpError) as error:
            if self._silent:
                raise HttpError(f"no byte for {self._limits.stall_s:g} s") from error
            raise
        finally:
            self._silence.end()
            if self._line.guard is not None:
                await self._line.guard.hang_up(politely=False)

    async def _go(self, url: str, authorization: str, sink: Sink, headers: Mapping[str, str]) -> Answer:
        # Here, not at the top: a daemon that fetches nothing does without them.
        from twisted.web.iweb import UNKNOWN_LENGTH

        from daemon.httpclient.body import Body

        response = await self._response(url, authorization, headers)
        assert self._line.guard is not None  # an answer came on it
        self._line.guard.lift()
        length = None if response.length is UNKNOWN_LENGTH else int(response.length)
        answer = Answer(status=response.code, headers=_headers(response), length=length)
        if _leads_on(answer):
            return answer
        coding = answer.headers.get("content-encoding", "identity").strip().lower()
        if answer.status in (200, 206) and coding not in ("", "identity"):
            raise HttpError(f"it answers with Content-Encoding {coding[:40]}, unasked", final=True)
        self._silence.hold()
        wanted = await sink.begin(answer)
        self._silence.release()
        if wanted:
            body = Body(sink, self._silence)
            response.deliverBody(body)
            await body.done
        return answer

    async def _response(self, url: str, authorization: str, headers: Mapping[str, str]) -> Any:
        from twisted.web.client import Agent, ProxyAgent
        from twisted.web.http_headers import Headers

        target, _authorization = split_target(url)
        raw = {"User-Agent": [USER_AGENT], "Accept": ["*/*"], "Accept-Encoding": ["identity"]}
        raw.update({name: [value] for name, value in headers.items()})
        if authorization:
            raw["Authorization"] = [authorization]
        reactor: Any = self._reactor
        agent: Any
        if self._proxy is not None and urlsplit(url).scheme == "http":
            if self._proxy.authorization:
                raw["Proxy-Authorization"] = [self._proxy.authorization]
            agent = ProxyAgent(cast(Any, Guarded(self._dial_proxy(self._proxy), self._line)), reactor)
        else:
            endpoints = Endpoints(
                self._reactor, self._threads, self._limits.connect_s, self._line,
                None if self._proxy is None else self._tunnel,
            )
            agent = Agent.usingEndpointFactory(reactor, cast(Any, endpoints))
        try:
            return await agent.request(b"GET", target, Headers(raw))
        except (CancelledError, HttpError):
            raise
        except Exception as error:  # whatever a connection fails with is the result
            if self._line.guard is not None and self._line.guard.flooded:
                raise HttpError(f"no end of its headers within {HEADERS_MAX} bytes") from error
            raise HttpError(explain(error, self._limits.connect_s), final=distrusted(error)) from error

    def _dial_proxy(self, proxy: Proxy) -> Dial:
        return Dial(self._reactor, self._threads, proxy.host, proxy.port, self._limits.connect_s)

    def _tunnel(self, host: str, port: int) -> Tunnel:
        assert self._proxy is not None
        dial = self._dial_proxy(self._proxy)
        return Tunnel(self._reactor, dial, self._proxy, host, port, self._limits.connect_s)

    def _stalled(self) -> None:
        self._silent = True
        if self._line.guard is not None:
            self._line.guard.abort()


def _headers(response: Any) -> dict[str, str]:
    return {
        name.decode("latin-1").lower(): ", ".join(value.decode("latin-1") for value in values)
        for name, values in response.headers.getAllRawHeaders()
    }


def _leads_on(answer: Answer) -> bool:
    return answer.status in _REDIRECTIONS and "location" in answer.headers


def _next(asked: str, answer: Answer) -> str:
    try:
        return urljoin(asked, answer.headers["location"])
    except ValueError as error:
        raise HttpError("it redirects to something that is no URL", final=True) from error


def _origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port: what a password is for."""
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").rstrip("."), parts.port or _PORTS.get(parts.scheme, 0)
