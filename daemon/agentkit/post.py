"""Heartbeats over HTTP: one POST each, for agents that share no filesystem with the daemon.

Loaded only where ``heartbeat.url`` is set. A message is delivered when the daemon answers 2xx.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
from twisted.internet.defer import CancelledError, Deferred, TimeoutError, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import Agent, ResponseFailed
from twisted.web.http_headers import Headers
from twisted.web.iweb import UNKNOWN_LENGTH, IBodyProducer
from zope.interface import implementer

from daemon.agentkit.channel import CONNECT_TIMEOUT_S, NotDelivered

ANSWER_TIMEOUT_S = 10.0
MAX_ANSWER_BYTES = 4096  # the daemon's answer is a line; what is longer comes from somebody else
MAX_WAIT_S = 300.0  # the longest Retry-After that is honoured
_BUSY = 503


class _Answer(msgspec.Struct, frozen=True):
    """What the daemon says of a heartbeat; everything else in it is ignored."""

    message: str = ""


@implementer(IBodyProducer)
class _Body:
    """Bytes as a request body."""

    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        self.length = len(payload)

    def startProducing(self, consumer: Any) -> Deferred[None]:
        consumer.write(self._payload)
        return succeed(None)

    def pauseProducing(self) -> None:
        """All is written in one go."""

    def resumeProducing(self) -> None:
        """All is written in one go."""

    def stopProducing(self) -> None:
        """All is written in one go."""


class _Reader(Protocol):
    """Reads at most ``MAX_ANSWER_BYTES`` of a response and hangs up on more."""

    transport: Any  # zope's interfaces of it say nothing to a type checker

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self.done: Deferred[bytes] = Deferred(self._hang_up)

    def _hang_up(self, _deferred: object = None) -> None:
        if self.transport is not None:
            self.transport.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        if self._size <= MAX_ANSWER_BYTES:
            self._parts.append(data[: MAX_ANSWER_BYTES - self._size])
            self._size += len(data)
            if self._size > MAX_ANSWER_BYTES:
                self._hang_up()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.done.called:
            self.done.callback(b"".join(self._parts))


def retry_after_s(text: str | None) -> float | None:
    """Seconds of a Retry-After header (RFC 9110 section 10.2.3), at most 300; None for a date or nonsense."""
    if text is None or not re.fullmatch(r"\d{1,6}", text.strip(), re.ASCII):
        return None
    return min(float(text), MAX_WAIT_S)


def _said(body: bytes) -> str:
    """The ``message`` of the daemon's answer, made fit for a log line."""
    try:
        message = msgspec.json.decode(body, type=_Answer).message
    except msgspec.MsgspecError:
        return ""
    return "".join(char if char.isprintable() else "?" for char in message[:200])


def _plain(error: BaseException | None) -> str:
    """One line about why a request failed."""
    if isinstance(error, TimeoutError):
        return f"no answer within {ANSWER_TIMEOUT_S:g} s"
    if isinstance(error, CancelledError):
        return "given up"
    if isinstance(error, ResponseFailed) and error.reasons:
        error = error.reasons[0].value
    if isinstance(error, ConnectionDone):
        return "the connection was closed before the answer"
    return " ".join(str(error).split())[:200] or type(error).__name__


class HttpChannel:
    """A new request for each message.

    Args:
        reactor: connects and keeps the deadline.
        url: the daemon's ``/heartbeat``.
        agent: makes the requests; the default asks the system's trust store for https.
    """

    def __init__(self, reactor: Any, url: str, agent: Any = None) -> None:
        self.target = url
        self._reactor = reactor
        self._url = url.encode("ascii")
        self._agent: Any = agent or Agent(reactor, connectTimeout=CONNECT_TIMEOUT_S)
        self._under_way: Deferred[None] | None = None

    def deliver(self, payload: bytes) -> Deferred[None]:
        """See :class:`~daemon.agentkit.channel.Channel`."""
        result = Deferred.fromCoroutine(self._post(payload))
        # Agent wraps the cancellation in an error of its own, which addTimeout would not know again.
        result.addTimeout(
            ANSWER_TIMEOUT_S, self._reactor, onTimeoutCancel=lambda _value, _timeout: Failure(TimeoutError())
        )
        self._under_way = result

        def settled(outcome: Any) -> Any:
            self._under_way = None
            if isinstance(outcome, Failure) and not outcome.check(NotDelivered):
                raise NotDelivered(_plain(outcome.value)) from outcome.value
            return outcome

        return result.addBoth(settled)

    async def _post(self, payload: bytes) -> None:
        headers = Headers({b"Content-Type": [b"application/json"], b"User-Agent": [b"hostagent"]})
        response: Any = await self._agent.request(b"POST", self._url, headers, _Body(payload))
        body = b""
        if response.length == UNKNOWN_LENGTH or response.length > 0:
            reader = _Reader()
            response.deliverBody(reader)
            body = await reader.done
        if 200 <= response.code < 300:
            return
        said = _said(body)
        wait = response.headers.getRawHeaders(b"Retry-After", [b""])[0].decode("latin-1")
        raise NotDelivered(
            f"HTTP {response.code}{': ' if said else ''}{said}",
            wait_s=retry_after_s(wait) if response.code == _BUSY else None,
        )

    def close(self, within_s: float) -> Deferred[None]:
        """See :class:`~daemon.agentkit.channel.Channel`: an unanswered request is given up."""
        if self._under_way is not None:
            self._under_way.cancel()
        return succeed(None)
