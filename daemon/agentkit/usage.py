"""What this process itself uses: CPU percent of one core and resident bytes.

Reads ``/proc/self/statm`` (proc(5)) and the process's CPU clock; psutil would cost a megabyte of the
memory that is being measured.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from daemon.aio.reactor import Clock

MIN_WINDOW_S = 1.0  # over less, the percentage says more about the moment than about the agent

_STATM = Path("/proc/self/statm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """One reading.

    Attributes:
        cpu_percent: of one core since the reading before; above 100 with several busy threads.
        rss_bytes: resident set.
        cpu_seconds_total: user and system time since the process began.
    """

    cpu_percent: float = 0.0
    rss_bytes: int = 0
    cpu_seconds_total: float = 0.0


def cpu_percent(cpu_s: float, elapsed_s: float) -> float:
    """CPU seconds over elapsed seconds, as percent of one core; 0 where no time has passed."""
    if elapsed_s <= 0 or cpu_s <= 0:
        return 0.0
    return 100.0 * cpu_s / elapsed_s


def parse_statm(text: str, page_bytes: int) -> int:
    """Resident bytes from ``/proc/PID/statm``: its second field counts pages (proc(5)).

    Raises:
        ValueError: it does not look like one.
    """
    fields = text.split()
    if len(fields) < 2 or not (fields[1].isascii() and fields[1].isdigit()):
        raise ValueError(f"not a statm line: {text[:80]!r}")
    return int(fields[1]) * page_bytes


def read_statm() -> str:
    """The text of ``/proc/self/statm``.

    Raises:
        OSError: no /proc here.
    """
    return _STATM.read_text(encoding="ascii")


class OwnUsage:
    """Measures the process it is in.

    Args:
        clock: monotonic time; the first window begins now.
        cpu_seconds: the process's CPU time so far.
        statm: the text of ``/proc/self/statm``.
        page_bytes: size of a memory page.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        cpu_seconds: Callable[[], float] = time.process_time,
        statm: Callable[[], str] = read_statm,
        page_bytes: int = os.sysconf("SC_PAGE_SIZE"),
    ) -> None:
        self._clock = clock
        self._cpu_seconds = cpu_seconds
        self._statm = statm
        self._page_bytes = page_bytes
        self._window_at = clock.seconds()
        self._window_cpu_s = cpu_seconds()
        self._last = Usage(cpu_seconds_total=self._window_cpu_s)

    @property
    def last(self) -> Usage:
        """The reading before, without taking a new one."""
        return self._last

    def sample(self) -> Usage:
        """A new reading; what cannot be read, or would span under a second, keeps its last value."""
        now = self._clock.seconds()
        cpu_s = self._cpu_seconds()
        percent = self._last.cpu_percent
        if now - self._window_at >= MIN_WINDOW_S:
            percent = cpu_percent(cpu_s - self._window_cpu_s, now - self._window_at)
            self._window_at, self._window_cpu_s = now, cpu_s
        try:
            rss_bytes = parse_statm(self._statm(), self._page_bytes)
        except (OSError, ValueError):
            rss_bytes = self._last.rss_bytes
        self._last = Usage(cpu_percent=percent, rss_bytes=rss_bytes, cpu_seconds_total=cpu_s)
        return self._last
