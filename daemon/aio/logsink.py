"""Where a program's log goes: one line per event, JSON or text, to stderr or a file.

Text that goes to systemd's journal has priorities and no times: the journal stamps each line itself.

Twisted's own chatter (ports that open and close) counts as debug. A line that cannot be written is
counted, never raised: a full disk must not end the work. Whoever looks at stderr hears of it.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

import msgspec
from twisted.logger import ILogObserver, LogLevel, formatEvent
from twisted.python.failure import Failure
from zope.interface import implementer

from daemon.errors import StorageError
from daemon.model.moment import rfc3339

TELL_EVERY_S = 60.0  # at most so often stderr hears that lines are lost
MAX_TEXT = 4000  # characters of one field; a traceback is cut at its head, its end says more

RANKS = {"debug": 0, "info": 1, "warn": 2, "error": 3}
PRIORITIES = {"debug": b"<7>", "info": b"<6>", "warn": b"<4>", "error": b"<3>"}  # sd-daemon(3)
# What Twisted's older events carry beside their fields.
_DROPPED = frozenset(
    {"message", "time", "system", "format", "isError", "why", "failure", "timestamp", "level"}
)


def level_of(event: Mapping[str, Any]) -> str:
    """debug, info, warn or error; what Twisted logs as info of its own doings is debug."""
    level = event.get("log_level")
    namespace = str(event.get("log_namespace", ""))
    if level is LogLevel.info and (namespace == "log_legacy" or namespace.startswith("twisted.")):
        return "debug"
    name = getattr(level, "name", "info")
    return name if name in RANKS else "error"


def _clean(text: str) -> str:
    """Text that UTF-8 can hold, of bounded length."""
    return text[-MAX_TEXT:].encode("utf-8", "replace").decode("utf-8")


def _message(event: Mapping[str, Any]) -> str:
    """The message of an event."""
    return _clean(formatEvent(cast(Any, event)))


def _traceback(event: Mapping[str, Any]) -> str:
    """The traceback of a logged failure, empty without one."""
    failure = event.get("log_failure")
    return _clean(failure.getTraceback()) if isinstance(failure, Failure) else ""


def _fields(event: Mapping[str, Any]) -> dict[str, Any]:
    """The plain fields of an event."""
    fields: dict[str, Any] = {}
    for name, value in event.items():
        if name.startswith("log_") or name in _DROPPED:
            continue
        if isinstance(value, bool | float | None) or (isinstance(value, int) and abs(value) < 2**63):
            fields[name] = value
        elif isinstance(value, str):
            fields[name] = _clean(value)
        elif isinstance(value, bytes):
            fields[name] = _clean(value.decode("latin-1"))
    traceback = _traceback(event)
    if traceback:
        fields["traceback"] = traceback
    return fields


def json_line(event: Mapping[str, Any]) -> bytes:
    """``{"timestamp","level","message",...fields}`` and a newline."""
    head = {
        "timestamp": rfc3339(event.get("log_time", 0.0)),
        "level": level_of(event),
        "message": _message(event),
    }
    return msgspec.json.encode({**head, **_fields(event)}) + b"\n"


def text_line(event: Mapping[str, Any]) -> bytes:
    """Time, level and message; a traceback follows, indented."""
    line = f"{rfc3339(event.get('log_time', 0.0))} {level_of(event):5} {_message(event)}"
    traceback = _traceback(event)
    if traceback:
        line += f"\n{traceback.rstrip()}"
    return line.replace("\n", "\n    ").encode("utf-8", "replace") + b"\n"


def journal_line(event: Mapping[str, Any]) -> bytes:
    """The message with its priority (sd-daemon(3)); each line of it is an entry of its own to the journal."""
    text = _message(event)
    if traceback := _traceback(event):
        text += f"\n{traceback.rstrip()}"
    prefix = PRIORITIES[level_of(event)]
    lines = text.encode("utf-8", "replace").split(b"\n")
    return b"".join(prefix + line + b"\n" for line in lines)


def open_log_stream(path: str, key: str, *, make_folder: bool = False) -> BinaryIO:
    """The file, appended to and made readable for its group; stderr when the path is empty.

    Args:
        path: of the file.
        key: the configuration key that names it, for the message.
        make_folder: makes its directory where only that is missing; more missing is a slip of the pen, or a
            disk that is not mounted.

    Raises:
        StorageError: the file cannot be opened.
    """
    if not path:
        return os.fdopen(sys.__stderr__.fileno() if sys.__stderr__ else 2, "wb", buffering=0, closefd=False)
    try:
        folder = Path(path).absolute().parent
        if make_folder and not folder.exists() and folder.parent.exists():
            folder.mkdir(0o750, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise StorageError(
            f"{key} {path}: {error.strerror}; make its directory, writable, or choose another file"
        ) from error
    return os.fdopen(handle, "wb", buffering=0)


class FileNumbered(Protocol):
    """What has a descriptor."""

    def fileno(self) -> int:
        """The descriptor."""
        ...


class LogStream(FileNumbered, Protocol):
    """Where lines go."""

    def write(self, line: bytes, /) -> int:
        """Takes a line."""
        ...

    def isatty(self) -> bool:
        """Whether a person reads it."""
        ...

    def close(self) -> None:
        """Ends it."""
        ...


def is_terminal(stream: LogStream) -> bool:
    """Whether a person reads the stream."""
    return stream.isatty()


def is_journal(stream: FileNumbered, journal: str) -> bool:
    """Whether a stream is the one that systemd connected to its journal (systemd.exec(5)).

    Args:
        stream: what is written to.
        journal: ``$JOURNAL_STREAM``, device and inode; it is inherited by those whose stderr is another.
    """
    if not journal:
        return False
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return journal == f"{found.st_dev}:{found.st_ino}"


def fault_line(line: str, stream: FileNumbered, journal: str) -> str:
    """A fault for whoever looks at stderr; to the journal with its priority, for without one it is "info".

    Args:
        line: of text.
        stream: where it will be written.
        journal: ``$JOURNAL_STREAM``.
    """
    return f"{PRIORITIES['error'].decode()}{line}" if is_journal(stream, journal) else line


@implementer(ILogObserver)
class LogSink:
    """The log observer of a program; events come from any of its threads.

    Args:
        level: debug, info, warn or error: the least that is written.
        json: JSON lines rather than text.
        stream: where lines go; made by :func:`open_log_stream`, or one that rotates.
        pinned: the level was given on the command line, which wins over the configuration.
        journal: ``$JOURNAL_STREAM``; text to the stream it names is written as the journal likes it.

    Attributes:
        lost_total: lines that could not be written.
    """

    def __init__(
        self, level: str, json: bool, stream: LogStream, *, pinned: bool = False, journal: str = ""
    ) -> None:
        self.lost_total = 0
        self._untold = 0  # lines lost since the last one that was written
        self._torn = False  # the last line that was written has no end
        self._tell_at_s = 0.0  # monotonic; not before that stderr hears of lost lines again
        self._lock = threading.RLock()
        self._pinned = pinned
        self._journal = journal
        self._stream = stream
        self.apply(level, json, stream)

    @property
    def stream(self) -> LogStream:
        """Where lines go now."""
        return self._stream

    def set_level(self, level: str) -> None:
        """Another level from the next line on, unless the command line said which."""
        if not self._pinned:
            self._least = RANKS[level]

    def apply(self, level: str, json: bool, stream: LogStream) -> None:
        """Another level, format and stream from the next line on; the old stream is closed."""
        with self._lock:
            old, self._stream = self._stream, stream
            self._least = RANKS[level]
            text = journal_line if is_journal(stream, self._journal) else text_line
            self._line = json_line if json else text
            if old is not stream:
                old.close()

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Writes one event."""
        if RANKS[level_of(event)] < self._least:
            return
        try:
            line = self._line(event)
        except (ValueError, TypeError, OverflowError, msgspec.MsgspecError):
            self.lost_total += 1
            return
        with self._lock:
            try:
                self._write(self._gap() + line if self._untold else line)
                self._untold = 0
            except (OSError, ValueError) as error:
                self.lost_total += 1
                self._untold += 1
                self._lament(error)

    def _lament(self, error: OSError | ValueError) -> None:
        """The log cannot say that it cannot be written."""
        now_s = time.monotonic()
        if now_s < self._tell_at_s:
            return
        self._tell_at_s = now_s + TELL_EVERY_S
        cause = (error.strerror if isinstance(error, OSError) else None) or str(error)
        with suppress(OSError, ValueError):  # nobody is there to hear it
            self.tell_stderr(f"the log cannot be written, its lines are lost and counted: {cause}")

    def _gap(self) -> bytes:
        """Says what is missing, where a reader would look for it."""
        return (b"\n" if self._torn else b"") + self._line({
            "log_time": time.time(), "log_level": LogLevel.warn, "count": self._untold,
            "log_format":
                "{count} lines of this log could not be written and are lost; see that its disk has room",
        })

    def _write(self, line: bytes) -> None:
        """Raises OSError when not all of it was taken: a full disk takes a part, and says nothing."""
        taken = self._stream.write(line) or 0  # None: a pipe that does not block is full
        if taken < len(line):
            self._torn = line[taken - 1 : taken] != b"\n" if taken else self._torn
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._torn = False

    def tell_stderr(self, line: str) -> None:
        """Shows a line on stderr where the log goes elsewhere: whoever started us by hand must see it."""
        if self._stream.fileno() != 2 and sys.__stderr__ is not None:
            # sys.stderr itself is the log by now.
            print(fault_line(line, sys.__stderr__, self._journal), file=sys.__stderr__, flush=True)

    def close(self) -> None:
        """Closes the stream."""
        self._stream.close()
