"""The daemon's own log entries of warn and above, kept for the Manager: a bounded ring.

It is an observer of the log beside the one that writes it. What the link itself logs stays out: a failure to
report must not be the next thing to report.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from twisted.logger import ILogObserver
from zope.interface import implementer

from daemon.aio.logsink import RANKS, json_line, level_of
from daemon.interfaces import WallClock
from daemon.rpc.link_wire import LogEntry

RING_ENTRIES = 500
RING_BYTES = 1024 * 1024  # of text; an entry may have 84 kB of it
FIELDS_MAX = 20
TEXT_MAX = 4000

_OWN = tuple(
    f"daemon.rpc.{name}"
    for name in ("calls", "channel", "event_reports", "link_", "log_tap", "manager_link", "report_queue",
                 "reports", "state_syncer", "wake")
)
_HEAD = ("timestamp", "level", "message")


@implementer(ILogObserver)
class LogTap:
    """The observer. May be called from any thread.

    Args:
        wall: names this start in the entries' ids.
        ring, ring_bytes: entries, and characters of their texts, that wait at most.

    Attributes:
        on_news: called, in the thread that logs, when an entry comes after none waited.
        dropped_total: entries the ring took or that could not be read.
    """

    def __init__(
        self, wall: WallClock, *, ring: int = RING_ENTRIES, ring_bytes: int = RING_BYTES
    ) -> None:
        self.on_news: Callable[[], None] = lambda: None
        self.dropped_total = 0
        self._epoch = max(1, int(wall()))
        self._ring = ring
        self._ring_bytes = ring_bytes
        self._entries: deque[tuple[LogEntry, int]] = deque()  # with their sizes
        self._size = 0
        self._number = 0
        self._lock = threading.Lock()

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Keeps an entry. Never raises: the log must go on."""
        if RANKS[level_of(event)] < RANKS["warn"] or str(event.get("log_namespace", "")).startswith(_OWN):
            return
        try:
            found = msgspec.json.decode(json_line(event))
        except (ValueError, TypeError, OverflowError, msgspec.MsgspecError):
            found = None
        with self._lock:
            self._number += 1
            if found is None:
                self.dropped_total += 1
                return
            fields = [(str(name), _said(value)) for name, value in found.items() if name not in _HEAD]
            news = not self._entries
            entry = LogEntry(
                id=f"{self._epoch}-{self._number}", at=float(event.get("log_time", 0.0)),
                level=found["level"], message=found["message"][:TEXT_MAX],
                fields=dict(fields[:FIELDS_MAX]),
            )
            size = len(entry.message) + sum(len(name) + len(value) for name, value in entry.fields.items())
            self._entries.append((entry, size))
            self._size += size
            while len(self._entries) > self._ring or self._size > self._ring_bytes:
                self._take()
                self.dropped_total += 1
        if news:
            self.on_news()

    def waiting(self, limit: int) -> tuple[LogEntry, ...]:
        """The oldest entries."""
        with self._lock:
            return tuple(self._entries[n][0] for n in range(min(limit, len(self._entries))))

    def done(self, entries: tuple[LogEntry, ...]) -> None:
        """These were reported; the ring may have taken some of them meanwhile, which were not lost then."""
        reported = {entry.id for entry in entries}
        with self._lock:
            before = len(self._entries)
            while self._entries and self._entries[0][0].id in reported:
                self._take()
            self.dropped_total -= len(entries) - (before - len(self._entries))

    def _take(self) -> None:
        """The oldest entry goes; with the lock held."""
        _entry, size = self._entries.popleft()
        self._size -= size


def _said(value: Any) -> str:
    return (value if isinstance(value, str) else msgspec.json.encode(value).decode())[:TEXT_MAX]
