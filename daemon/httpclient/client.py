"""Asks for the status of an answer; bodies are not read.

One deadline holds for all of a request, and a request is over when its connection is gone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.protocol import Protocol
from twisted.web.iweb import IBodyProducer
from zope.interface import implementer

from daemon.aio.reactor import Clock
from daemon.aio.threads import Threads
from daemon.httpclient.connection import HEADERS_MAX, Endpoints, Line
from daemon.httpclient.deadline import Overdue, by_deadline
from daemon.httpclient.errors import HttpError
from daemon.httpclient.target import USER_AGENT, split_target
from daemon.httpclient.wording import explain

RETRY_AFTER_MAX_S = 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpAnswer:
    """What came back.

    Attributes:
        retry_after_s: seconds that a Retry-After header asked for, None without one (a date is not read).
    """

    status: int
    retry_after_s: float | None = None


class HttpClient:
    """Asks others. Every request has a connection of its own: probes are rare, and a kept one would hide a
    listener that is gone.

    Args:
        reactor: connects, keeps deadlines.
        threads: resolves names.
    """

    def __init__(self, reactor: Clock, threads: Threads) -> None:
        self._reactor = reactor
        self._threads = threads

    async def status(self, url: str, timeout_s: float) -> int:
        """The status of a GET; a redirection is not followed.

        Raises:
            HttpError: no answer within ``timeout_s`` seconds.
        """
        return (await self._request(b"GET", url, None, "", timeout_s)).status

    async def post(self, url: str, body: bytes, content_type: str, timeout_s: float) -> HttpAnswer:
        """POSTs a body.

        Raises:
            HttpError: no answer within ``timeout_s`` seconds.
        """
        return await self._request(b"POST", url, body, content_type, timeout_s)

    async def _request(
        self, method: bytes, url: str, body: bytes | None, content_type: str, timeout_s: float
    ) -> HttpAnswer:
        line = Line()
        try:
            return await by_deadline(
                self._reactor, timeout_s, self._ask(line, method, url, body, content_type, timeout_s)
            )
        except Overdue as error:
            what = "answer" if line.guard is not None else "connection"
            raise HttpError(f"no {what} within {timeout_s:g} s") from error

    async def _ask(
        self, line: Line, method: bytes, url: str, body: bytes | None, content_type: str, timeout_s: float
    ) -> HttpAnswer:
        # Here, not at the top: a daemon without probes and webhooks does without them.
        from twisted.web.client import Agent
        from twisted.web.http_headers import Headers

        target, credentials = split_target(url)
        headers = {"User-Agent": [USER_AGENT], "Accept": ["*/*"]}
        if content_type:
            headers["Content-Type"] = [content_type]
        if credentials:
            headers["Authorization"] = [credentials]
        producer = cast(Any, None if body is None else _Body(body))
        factory = Endpoints(self._reactor, self._threads, timeout_s, line)
        agent = Agent.usingEndpointFactory(cast(Any, self._reactor), cast(Any, factory))
        try:
            response: Any = await agent.request(method, target, Headers(headers), producer)
        except (CancelledError, HttpError):
            raise
        except Exception as error:  # whatever a connection fails with is the result
            if line.guard is not None and line.guard.flooded:
                raise HttpError(f"no end of its headers within {HEADERS_MAX} bytes") from error
            raise HttpError(explain(error, timeout_s)) from error
        response.deliverBody(Protocol())
        if line.guard is not None:
            await line.guard.hang_up(politely=body is None and not line.encrypted)
        return HttpAnswer(status=response.code, retry_after_s=_retry_after(response.headers))


@implementer(IBodyProducer)
class _Body:
    """A body that is in memory already: written within the request."""

    def __init__(self, body: bytes) -> None:
        self.length = len(body)
        self._body = body

    def startProducing(self, consumer: Any) -> Deferred[None]:
        """See IBodyProducer."""
        consumer.write(self._body)
        return succeed(None)

    def pauseProducing(self) -> None:
        """All of it is written already."""

    def resumeProducing(self) -> None:
        """All of it is written already."""

    def stopProducing(self) -> None:
        """All of it is written already."""


def _retry_after(headers: Any) -> float | None:
    values = headers.getRawHeaders("Retry-After") or []
    text = values[-1].strip() if values else ""
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        return None
    return min(float(text), RETRY_AFTER_MAX_S)
