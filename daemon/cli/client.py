"""The daemon's HTTP API over its control socket; every fault is one for people."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from daemon.cli.faults import CliFault, Exit, Refused, Unreachable
from daemon.cli.where import Where
from daemon.cli.wire import Exchange, Fault, WireError, quoted
from daemon.cli.words import printable

ANSWER_S = 30.0
OPERATION_S = 120.0  # the daemon answers operations within 90 s, finished or not
STREAM_SILENCE_S = 45.0  # event streams say something every 15 s
BODY_MAX = 64 * 2**20
_NOT_OURS = "is it the control socket of hostdaemon? hostctl --socket PATH names another"


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
        patience = self._answer_s if timeout_s is None else timeout_s
        status, data = self._whole(self._open(method, _target(path, query), body, {}, patience))
        return status, self._understood(status, data)

    def text(self, path: str, **query: object) -> bytes:
        """The body of a GET that is no JSON; as :meth:`get`."""
        status, data = self._whole(self._open("GET", _target(path, query), None, {}, self._answer_s))
        if status != 200:
            self._understood(status, data)
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
        exchange = self._open("GET", _target(path, query), None, headers or {}, self._answer_s)
        if exchange.status != 200:
            self._understood(*self._whole(exchange))
        exchange.patience(silence_s)
        return self._pieces(exchange)

    def _pieces(self, exchange: Exchange) -> Iterator[bytes]:
        try:
            while piece := exchange.piece():
                yield piece
        except (OSError, WireError) as error:
            raise explained(error, self.where) from error
        finally:
            exchange.close()

    def _open(
        self, method: str, target: str, body: Mapping[str, Any] | None, headers: Mapping[str, str],
        timeout_s: float,
    ) -> Exchange:
        data = None if body is None else json.dumps(body).encode()
        try:
            return Exchange(self.where.path, method, target, headers, data, timeout_s)
        except (OSError, WireError, ValueError) as error:  # ValueError: a NUL in the path
            raise explained(error, self.where) from error

    def _whole(self, exchange: Exchange) -> tuple[int, bytes]:
        """Status and body."""
        parts: list[bytes] = []
        room = BODY_MAX
        for piece in self._pieces(exchange):
            parts.append(piece)
            room -= len(piece)
            if room < 0:
                raise CliFault(f"the answer has more than {BODY_MAX // 2**20} MiB", hint=_NOT_OURS)
        return exchange.status, b"".join(parts)

    def _understood(self, status: int, data: bytes) -> dict[str, Any]:
        try:
            body = json.loads(data)
        except (ValueError, RecursionError):
            body = None
        if isinstance(body, dict) and status < 300:
            return body
        if isinstance(body, dict):
            hint = ""
            if status == 503:
                hint = "it is stopping or busy; try again in a few seconds"
            elif status == 405 or "is not a route of this daemon" in str(body.get("detail")):
                hint = "it is older or newer than this hostctl: hostctl node and hostctl --version"
            elif status == 500 and body.get("code") is None:
                hint = "the daemon's log says more (daemon.log_file, or journalctl -u hostdaemon)"
            raise Refused(status, body, hint=hint)
        begin = printable(data[:60].decode("utf-8", "replace"))
        raise CliFault(
            f"{self.where.path} answers what no hostdaemon does (HTTP {status}: {begin!r})", hint=_NOT_OURS
        )


def _target(path: str, query: Mapping[str, object]) -> str:
    written = [f"{quoted(key)}={quoted(_text(value))}" for key, value in query.items() if value is not None]
    return path + ("?" + "&".join(written) if written else "")


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def segment(text: str) -> str:
    """A part of a path, such as an agent's id, whatever was typed."""
    return quoted(text)


def explained(error: Exception, where: Where) -> CliFault:
    """Why the daemon cannot be asked, and what to do about it; pure."""
    path, told = where.path, f"(named by {where.told_by})"
    file = where.config or "FILE"
    start = f"start it (systemctl start hostdaemon, or twistd -n hostdaemon --config {file})"
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
    fault = error.fault if isinstance(error, WireError) else None
    if fault is Fault.SILENT or isinstance(error, BrokenPipeError | ConnectionResetError):
        return Unreachable(
            f"the daemon behind {path} closed the connection without an answer: it has just ended, has too "
            "many connections, or does not take you (root, the daemon's user and daemon.control_group alone)",
            hint="try again; as another user: sudo hostctl ...", away=True,
        )
    if fault is Fault.CUT:
        return Unreachable(
            f"the daemon behind {path} went away in the middle of its answer; agents run on without it",
            hint="hostctl status, in a moment", away=True,
        )
    if isinstance(error, OSError) and error.errno is not None:
        reason = error.strerror or str(error)
        return Unreachable(f"cannot reach {path} {told}: {reason}", hint=f"{start}, {other}", away=False)
    if isinstance(error, OSError | ValueError):  # a path too long for a socket, a NUL in it
        return Unreachable(f"{path!r} {told} cannot be a control socket: {error}", hint=other[3:], away=False)
    return CliFault(
        f"{path} {told} does not speak HTTP as a hostdaemon does", hint=_NOT_OURS, status=Exit.UNREACHABLE
    )
