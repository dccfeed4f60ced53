"""HTTP/1.1 over a Unix socket, as much of it as asking the daemon takes (RFC 9112): one request a connection.

Not http.client: its import (email, ssl) takes a quarter of ``hostctl status``, and operators wait for that.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator, Mapping
from enum import Enum

HEAD_MAX = 64 * 1024
LINE_MAX = 1024
PIECE = 64 * 1024
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: .*)?")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


class Fault(Enum):
    """What is wrong with an answer."""

    SILENT = "closed without an answer"
    CUT = "ended in the middle"
    FOREIGN = "is not HTTP"


class WireError(Exception):
    """The other side does not answer as HTTP wants it."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.value)
        self.fault = fault


def quoted(text: str) -> str:
    """Percent-encoded (RFC 3986), whatever was typed: a part of a path, or a name or value of a query."""
    data = text.encode("utf-8", "surrogateescape")
    return "".join(chr(byte) if byte in _UNRESERVED else f"%{byte:02X}" for byte in data)


class Exchange:
    """One request, and its answer as it comes.

    Args:
        path: of the socket.
        method, target: of the request; a target that is quoted.
        headers: beside those of the connection.
        body: None for none.
        timeout_s: patience with each step; None for ever.

    Attributes:
        status: of the answer.
        headers: of the answer, names in lower case.

    Raises:
        OSError: nobody can be connected to, or does not answer in time.
        WireError: no HTTP comes back.
    """

    def __init__(
        self, path: str, method: str, target: str, headers: Mapping[str, str], body: bytes | None,
        timeout_s: float | None,
    ) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._buffer = b""
        try:
            self._socket.settimeout(timeout_s)
            self._socket.connect(path)
            self._send(method, target, headers, body)
            self.status, self.headers = self._head()
        except BaseException:
            self._socket.close()
            raise
        self._pieces = self._body()

    def _send(self, method: str, target: str, headers: Mapping[str, str], body: bytes | None) -> None:
        sent = {"Host": "localhost", "Connection": "close", **headers}
        if body is not None:
            sent |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
        elif method != "GET":
            sent["Content-Length"] = "0"
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in sent.items()), "", ""]
        try:
            self._socket.sendall("\r\n".join(lines).encode("latin-1") + (body or b""))
        except (BrokenPipeError, ConnectionResetError):
            if body is None:
                raise
            # Of a large body the daemon may have answered before it had all of it: read why.

    def _head(self) -> tuple[int, dict[str, str]]:
        while True:
            while b"\r\n\r\n" not in self._buffer:
                if len(self._buffer) > HEAD_MAX:
                    raise WireError(Fault.FOREIGN)
                if not self._buffer.startswith(b"HTTP/1."[: len(self._buffer)]):
                    raise WireError(Fault.FOREIGN)
                if not self._more():
                    raise WireError(Fault.CUT if self._buffer else Fault.SILENT)
            head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
            first, *lines = head.split(b"\r\n")
            found = _STATUS.fullmatch(first)
            if found is None:
                raise WireError(Fault.FOREIGN)
            if found[1].startswith(b"1"):
                continue
            headers = {}
            for line in lines:
                name, _, value = line.decode("latin-1").partition(":")
                headers[name.strip().lower()] = value.strip()
            return int(found[1]), headers

    def _more(self) -> bool:
        try:
            piece = self._socket.recv(PIECE)
        except ConnectionResetError:
            piece = b""
        self._buffer += piece
        return bool(piece)

    def _body(self) -> Iterator[bytes]:
        if self.status in (204, 304):
            return
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            yield from self._chunks()
        elif "content-length" in self.headers:
            yield from self._exactly(_number(self.headers["content-length"], 10))
        else:
            while self._buffer or self._more():
                piece, self._buffer = self._buffer, b""
                yield piece

    def _chunks(self) -> Iterator[bytes]:
        while count := _number(self._line().partition(b";")[0].decode("latin-1"), 16):
            yield from self._exactly(count)
            if self._line():
                raise WireError(Fault.FOREIGN)
        while self._line():  # trailers
            continue

    def _exactly(self, count: int) -> Iterator[bytes]:
        while count:
            if not self._buffer and not self._more():
                raise WireError(Fault.CUT)
            piece, self._buffer = self._buffer[:count], self._buffer[count:]
            count -= len(piece)
            yield piece

    def _line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            if len(self._buffer) > LINE_MAX:
                raise WireError(Fault.FOREIGN)
            if not self._more():
                raise WireError(Fault.CUT)
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line

    def patience(self, seconds: float | None) -> None:
        """How long the next pieces may take; None for ever."""
        self._socket.settimeout(seconds)

    def piece(self) -> bytes:
        """The next piece of the body; empty at its end. Raises as the constructor does."""
        return next(self._pieces, b"")

    def close(self) -> None:
        """Ends the connection."""
        self._socket.close()


def _number(text: str, base: int) -> int:
    digits = "0123456789abcdef"[:base]
    text = text.strip().lower()
    if not 0 < len(text) <= 16 or text.strip(digits):
        raise WireError(Fault.FOREIGN)
    return int(text, base)
