"""The daemon's HTTP API over its control socket, with the standard library; every fault is one for people."""

from __future__ import annotations

import errno
import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn
from urllib.parse import quote, urlencode

from daemon.cli.faults import CliFault, Exit, Refused, Unreachable
from daemon.cli.where import Where
from daemon.cli.words import printable

ANSWER_S = 30.0
OPERATION_S = 120.0  # the daemon answers operations within 90 s, finished or not
STREAM_SILENCE_S = 45.0  # event streams say something every 15 s
BODY_MAX = 64 * 2**20
_CHUNK = 64 * 1024
_NOT_OURS = "is it the control socket of hostdaemon? hostctl --socket PATH names another"


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float | None) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """See http.client; to a Unix socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Client:
    """One daemon. A connection for each request: they are cheap, and none can be stale.

    Args:
        where: its control socket.
        answer_s: patience with an ordinary answer, seconds.
    """

    def __init__(self, where: Where, answer_s: float = ANSWER_S) -> None:
        self.where = where
        self._answer_s = answer_s

    def get(self, path: str, **query: object) -> dict[str, Any]:
        """The answer of a GET, a JSON object.

        Raises:
            CliFault: unreachable, refused, or not understood.
        """
        return self.ask("GET", path, query)[1]

    def post(
        self, path: str, body: Mapping[str, Any] | None = None, *, timeout_s: float = OPERATION_S,
        **query: object,
    ) -> dict[str, Any]:
        """The answer of a POST; as :meth:`get`."""
        return self.ask("POST", path, query, body, timeout_s)[1]

    def ask(
        self, method: str, path: str, query: Mapping[str, object], body: Mapping[str, Any] | None = None,
        timeout_s: float | None = None,
    ) -> tuple[int, dict[str, Any]]:
        """Status and JSON object of any request; as :meth:`get`."""
        connection, response = self._open(
            method, _target(path, query), body, {}, self._answer_s if timeout_s is None else timeout_s
        )
        try:
            data = self._whole(response)
        finally:
            connection.close()
        return response.status, self._understood(response, data)

    def text(self, path: str, **query: object) -> bytes:
        """The body of a GET that is no JSON; as :meth:`get`."""
        connection, response = self._open("GET", _target(path, query), None, {}, self._answer_s)
        try:
            data = self._whole(response)
        finally:
            connection.close()
        if response.status != 200:
            self._understood(response, data)
        return data

    def stream(
        self, path: str, headers: Mapping[str, str] | None = None, *, silence_s: float | None = None,
        **query: object,
    ) -> Iterator[bytes]:
        """A body as it comes, in pieces; ends when the daemon ends it. The request is made by this call.

        Args:
            path, query: as in :meth:`get`.
            headers: of the request.
            silence_s: nothing for that long is a daemon that hangs; None: it may be silent for ever.

        Raises:
            CliFault: as :meth:`get`. While the pieces come, ``Unreachable``: the daemon died in the middle.
        """
        connection, response = self._open("GET", _target(path, query), None, headers or {}, self._answer_s)
        try:
            if response.status != 200:
                self._understood(response, self._whole(response))
        except CliFault:
            connection.close()
            raise
        if connection.sock is not None:
            connection.sock.settimeout(silence_s)
        return self._pieces(connection, response)

    def _pieces(self, connection: _UnixConnection, response: http.client.HTTPResponse) -> Iterator[bytes]:
        try:
            while True:
                try:
                    piece = response.read1(_CHUNK)
                except (OSError, http.client.HTTPException, ValueError) as error:
                    self._unreachable(error)
                if not piece:
                    return
                yield piece
        finally:
            connection.close()

    def _open(
        self, method: str, target: str, body: Mapping[str, Any] | None, headers: Mapping[str, str],
        timeout_s: float,
    ) -> tuple[_UnixConnection, http.client.HTTPResponse]:
        connection = _UnixConnection(self.where.path, timeout_s)
        data = None if body is None else json.dumps(body).encode()
        sent = dict(headers) if data is None else {**headers, "Content-Type": "application/json"}
        try:
            try:
                connection.request(method, target, data, sent)
            except (BrokenPipeError, ConnectionResetError):
                if data is None:
                    raise  # of a large body the daemon may have answered before it had all of it: read why
            return connection, connection.getresponse()
        except (OSError, http.client.HTTPException, ValueError) as error:
            connection.close()
            self._unreachable(error)

    def _whole(self, response: http.client.HTTPResponse) -> bytes:
        try:
            data = response.read(BODY_MAX + 1)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._unreachable(error)
        if len(data) > BODY_MAX:
            raise CliFault(f"the answer has more than {BODY_MAX // 2**20} MiB", hint=_NOT_OURS)
        return data

    def _understood(self, response: http.client.HTTPResponse, data: bytes) -> dict[str, Any]:
        try:
            body = json.loads(data)
        except (ValueError, RecursionError):
            body = None
        if isinstance(body, dict) and response.status < 300:
            return body
        if isinstance(body, dict) and response.status < 600:
            hint = ""
            if response.status == 503:
                hint = "it is stopping or busy; try again in a few seconds"
            elif response.status == 500 and body.get("code") is None:
                hint = "the daemon's log says more (daemon.log_file, or journalctl -u hostdaemon)"
            raise Refused(response.status, body, hint=hint)
        begin = printable(data[:60].decode("utf-8", "replace"))
        raise CliFault(
            f"{self.where.path} answers what no hostdaemon does (HTTP {response.status}: {begin!r})",
            hint=_NOT_OURS,
        )

    def _unreachable(self, error: Exception) -> NoReturn:
        raise explained(error, self.where) from error


def _target(path: str, query: Mapping[str, object]) -> str:
    texts = {key: _text(value) for key, value in query.items() if value is not None}
    return path + ("?" + urlencode(texts, errors="surrogateescape") if texts else "")


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def segment(text: str) -> str:
    """A part of a path, such as an agent's id, whatever was typed."""
    return quote(text, safe="", errors="surrogateescape")


def explained(error: Exception, where: Where) -> CliFault:
    """Why the daemon cannot be asked, and what to do about it; pure."""
    path, told = where.path, f"(named by {where.told_by})"
    start = "start it (systemctl start hostdaemon, or twistd -n hostdaemon --config FILE)"
    other = "or name the right one: hostctl --socket PATH or --config FILE"
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return Unreachable(
            f"no daemon runs here: there is no {path} {told}", hint=f"{start}, {other}", away=True
        )
    if isinstance(error, ConnectionRefusedError):
        return Unreachable(
            f"no daemon runs here: nobody listens on {path} {told}; agents run on without it",
            hint=f"{start}, {other}", away=True,
        )
    if isinstance(error, PermissionError):
        return Unreachable(
            f"you may not use {path} {told}: only root, the daemon's user and daemon.control_group may",
            hint="sudo hostctl ..., or have yourself added to daemon.control_group", away=False,
        )
    if isinstance(error, TimeoutError):
        return Unreachable(
            f"the daemon behind {path} does not answer; it is stopped (SIGSTOP), or busy beyond measure",
            hint="look at it: ps -o pid,stat,wchan:20,args -C twistd; agents run on without it", away=True,
        )
    if isinstance(error, http.client.RemoteDisconnected | BrokenPipeError | ConnectionResetError):
        return Unreachable(
            f"the daemon behind {path} closed the connection without an answer: it has just ended, has too "
            "many connections, or does not take you (root, the daemon's user and daemon.control_group alone)",
            hint="try again; as another user: sudo hostctl ...", away=True,
        )
    if isinstance(error, http.client.IncompleteRead):
        return Unreachable(
            f"the daemon behind {path} went away in the middle of its answer; agents run on without it",
            hint="hostctl status, in a moment", away=True,
        )
    if isinstance(error, OSError) and error.errno is not None and error.errno != errno.EPROTOTYPE:
        reason = error.strerror or str(error)
        return Unreachable(f"cannot reach {path} {told}: {reason}", hint=f"{start}, {other}", away=False)
    if isinstance(error, OSError | UnicodeError):  # a path too long for a socket, a NUL in it
        return Unreachable(f"{path!r} {told} cannot be a control socket: {error}", hint=other[3:], away=False)
    return CliFault(
        f"{path} {told} does not speak HTTP as a hostdaemon does ({type(error).__name__})", hint=_NOT_OURS,
        status=Exit.UNREACHABLE,
    )
