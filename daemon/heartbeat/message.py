"""What a heartbeat says: the JSON of docs/protocols.md, decoded and checked.

The socket asks for ``pid`` alone; ``POST /heartbeat`` asks for everything but version and timestamp. On
both, values of the wrong type or out of range are refused, a timestamp that is missing or unreadable is
replaced by our clock, and an absurd ``cpu`` is cut down to 100 x cores. Nothing here looks at peers or
agents.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from daemon.heartbeat.stats import Reason
from daemon.interfaces import WallClock
from daemon.model.heartbeat import Heartbeat

PID_MAX = 2**31 - 1  # pid_t
MEMORY_MAX = 2**63 - 1  # bytes; more than any address space
TEXT_MAX = 256  # characters of a version, a status, an agent id

Pid = Annotated[int, Meta(gt=0, le=PID_MAX)]
Percent = Annotated[float, Meta(ge=0)]
MemoryBytes = Annotated[int, Meta(ge=0, le=MEMORY_MAX)]
Text = Annotated[str, Meta(max_length=TEXT_MAX)]
Name = Annotated[str, Meta(min_length=1, max_length=TEXT_MAX)]
Instant = Annotated[datetime, Meta(tz=True)]  # RFC 3339; Go's nanoseconds are rounded to microseconds


class Said(msgspec.Struct, gc=False):
    """A heartbeat as the Unix socket brings it; null means not said."""

    pid: Pid
    version: Text = ""
    status: Text = ""
    cpu: Percent | None = None
    memory: MemoryBytes | None = None
    agent_id: Text | None = None
    timestamp: Instant | None = None


class Posted(msgspec.Struct, gc=False):
    """A heartbeat as ``POST /heartbeat`` brings it."""

    agent_id: Name
    pid: Pid
    status: Name
    cpu: Percent
    memory: MemoryBytes
    version: Text = ""
    timestamp: Instant | None = None


class _SaidAnytime(Said):
    timestamp: Any = None


class _PostedAnytime(Posted):
    timestamp: Any = None


T = TypeVar("T", Said, Posted)


class BadMessageError(Exception):
    """A text that is no heartbeat: a bad line, -32602, or status 400."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class BeatReader:
    """Reads heartbeats.

    Args:
        wall: our clock, for those without a readable timestamp.
        cores: CPUs of this host, >= 1; the most an honest process can use is 100 percent of each.
    """

    def __init__(self, wall: WallClock, cores: int) -> None:
        self.wall = wall
        self.cpu_max = 100.0 * cores
        self._said = msgspec.json.Decoder(Said)
        self._said_anytime: msgspec.json.Decoder[Said] = msgspec.json.Decoder(_SaidAnytime)
        self._posted = msgspec.json.Decoder(Posted)
        self._posted_anytime: msgspec.json.Decoder[Posted] = msgspec.json.Decoder(_PostedAnytime)

    def read(self, text: bytes) -> Said:
        """One heartbeat of the socket.

        Raises:
            BadMessageError: it is none.
        """
        return _decode(text, self._said, self._said_anytime)

    def read_posted(self, text: bytes) -> Posted:
        """One heartbeat of ``POST /heartbeat``.

        Raises:
            BadMessageError: it is none.
        """
        return _decode(text, self._posted, self._posted_anytime)

    def read_lines(self, lines: bytes) -> list[Said] | None:
        """Whole lines of bare heartbeats, at the speed of C; None means: look at each of them.

        The decoder does not mind where lines end, so that has to be proven: no JSON string holds a
        line end, and between two lines of ``}\\n{`` no object can be unfinished.
        """
        if (
            lines[:1] != b"{"
            or lines[-2:] != b"}\n"
            or lines.count(b"}\n{") != lines.count(b"\n") - 1
            or b'"jsonrpc"' in lines
        ):
            return None
        try:
            return self._said.decode_lines(lines)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None

    def heartbeat(self, wire: Said | Posted) -> Heartbeat:
        """The value everybody else works with."""
        cpu = wire.cpu
        return Heartbeat(
            pid=wire.pid,
            timestamp=self.instant(wire.timestamp),
            version=wire.version,
            status=wire.status,
            cpu=self.cpu_max if cpu is not None and cpu > self.cpu_max else cpu,
            memory=wire.memory,
        )

    def instant(self, said: datetime | None) -> float:
        """Unix seconds; our clock's for none and for times before 1970, such as Go's zero time."""
        at = -1.0 if said is None else said.timestamp()
        return at if at >= 0 else self.wall()


def _decode(text: bytes, decoder: msgspec.json.Decoder[T], anytime: msgspec.json.Decoder[T]) -> T:
    try:
        try:
            return decoder.decode(text)
        except msgspec.ValidationError:
            wire = anytime.decode(text)  # the timestamp may be all that is wrong
            wire.timestamp = None
            return wire
    except msgspec.ValidationError as error:
        raise BadMessageError(Reason.INVALID, str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadMessageError(Reason.MALFORMED, str(error)) from error
    except RecursionError as error:
        raise BadMessageError(Reason.MALFORMED, "nested too deeply") from error

