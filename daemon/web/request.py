"""A bounded request: bodies over the limit are dropped as they come, never stored."""

from __future__ import annotations

from io import BytesIO
from typing import Any

from twisted.web.http import HTTPChannel
from twisted.web.server import Request

BODY_MAX = 64 * 1024  # bytes; what a route takes may be less
DRAIN_MAX = 4 * 1024 * 1024  # bytes of an over-long body we read to be able to answer


class BoundedRequest(Request):
    """A request whose body is at most :data:`BODY_MAX` bytes, or what its site grants it.

    An over-long one is read and dropped up to :data:`DRAIN_MAX`, so that its sender hears 413 instead of
    a broken pipe; beyond that the connection is closed.

    Attributes:
        body_max: bytes that its body may have.
        too_large: the body was over the limit; ``content`` is empty then.
        crowded: its limit would be another one, were there not too many large bodies already.
        drain_max: bytes of an over-long body that are read.
        peer: who asks, as the gate found out.
    """

    def __init__(self, channel: HTTPChannel, *args: Any, **kwargs: Any) -> None:
        super().__init__(channel, *args, **kwargs)
        self.body_max = BODY_MAX
        self.too_large = False
        self.crowded = False
        self.drain_max = DRAIN_MAX
        self.peer = ""
        self._body_bytes = 0

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """The whole request is there.

        No route reads forms, and Twisted would parse the type of every body with the email package: a
        quarter of what a heartbeat costs.
        """
        self.requestHeaders.removeHeader(b"content-type")
        super().requestReceived(command, path, version)

    def gotLength(self, length: int | None) -> None:
        """The header said how long the body is; None for a chunked one."""
        super().gotLength(0)  # a BytesIO, never a temporary file
        self.content = BytesIO()
        channel: Any = self.channel  # its request line and headers have come, the body has not
        if length is None or length > BODY_MAX:
            self.body_max = channel.site.body_room(channel._command, channel._path, self)
        if length is not None and length > self.body_max:
            self.too_large = True

    def handleContentChunk(self, data: bytes) -> None:
        """A piece of the body."""
        self._body_bytes += len(data)
        if self._body_bytes > self.body_max:
            self.too_large = True
        if not self.too_large:
            super().handleContentChunk(data)
        elif self._body_bytes > self.drain_max:
            self.content = BytesIO()
            self.loseConnection()

    def body(self) -> bytes:
        """The whole body, once: nobody needs tens of megabytes twice."""
        content, self.content = self.content, BytesIO()
        return content.read() if content is not None else b""


def header_text(request: Request, name: bytes) -> str:
    """A header as text, empty when it was not sent; bytes that are no UTF-8 become replacement marks."""
    value: bytes | None = request.getHeader(name)
    return "" if value is None else value.decode("utf-8", "replace")
