"""What a session uses: CPU, memory, I/O, descriptors and threads of all its processes (proc(5)).

``/proc/PID/stat`` never blocks and costs some 8 us; everything here is read in place, without a thread.

CPU percent is the growth of the sum of utime, stime, cutime and cstime (fields 14 to 17) over all members
since the sample before, by the time between; :func:`grown_ticks` is the formula.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from daemon.model.agent import Identity
from daemon.model.usage import Usage
from daemon.procfs.age import boot_ticks
from daemon.procfs.stat import PROC, STAT_MAX, read_proc_file

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
CORES = os.cpu_count() or 1
_IO_MAX = 1024

Members = Callable[[int], Sequence[int]]
Counted = Mapping[int, tuple[int, int]]  # pid to start time and CPU time, both in clock ticks


class LightUsage(NamedTuple):
    """What health looks at.

    Attributes:
        cpu_percent: of one core since the sample before; None for the first one.
        rss_bytes: resident bytes.
    """

    cpu_percent: float | None
    rss_bytes: int


class Process(NamedTuple):  # a quarter of the cost of a frozen dataclass, for every process each minute
    """What ``/proc/PID/stat`` tells of one process's use of the host; times in clock ticks."""

    pid: int
    session: int
    start_ticks: int
    cpu_ticks: int
    rss_pages: int
    vms_bytes: int
    threads: int


def read_process(pid: int) -> Process | None:
    """The numbers of one process that lives; None when it is gone or a zombie."""
    text = read_proc_file(f"{PROC}/{pid}/stat", STAT_MAX)
    return None if text is None else parse_process(pid, text)


def parse_process(pid: int, text: bytes) -> Process | None:
    """Those numbers out of a stat line; None for a zombie, and for what is no such line."""
    fields = text[text.rfind(b")") + 2 :].split(None, 22)
    if len(fields) < 22 or fields[0] in b"ZXx":
        return None
    try:
        return Process(
            pid, int(fields[3]), int(fields[19]),
            int(fields[11]) + int(fields[12]) + int(fields[13]) + int(fields[14]),
            int(fields[21]), int(fields[20]), int(fields[17]),
        )
    except ValueError:
        return None


def grown_ticks(before: Counted, now: Counted, before_ticks: int) -> int:
    """CPU ticks a session used between two samples of it, never below zero.

    - A member of both samples counts with what its time grew by.
    - One seen for the first time that began after the sample before counts with all its time; one that began
      earlier was overlooked then, and counts from now on: no spike.
    - The time a member that vanished had when it was last seen is taken off: the parent that reaped it has
      that and what it used since in its cutime and cstime. Reaped outside the session, or by nobody, the
      time is lost.

    Args:
        before: the sample before.
        now: this one. A pid with another start time is another process.
        before_ticks: when the sample before was taken, in the unit of start times.
    """
    grown = 0
    for pid, (start, ticks) in now.items():
        known = before.get(pid)
        if known is not None and known[0] == start:
            grown += ticks - known[1]
        elif start >= before_ticks:
            grown += ticks
    for pid, (start, ticks) in before.items():
        same = now.get(pid)
        if same is None or same[0] != start:
            grown -= ticks
    return max(0, grown)


def read_io(pid: int) -> tuple[int, int] | None:
    """Bytes read from and written to storage; None when it is gone or not ours to read."""
    text = read_proc_file(f"{PROC}/{pid}/io", _IO_MAX)
    return parse_io(text) if text else None


def parse_io(text: bytes) -> tuple[int, int] | None:
    """``read_bytes`` and ``write_bytes`` of ``/proc/PID/io``; None when they are not there."""
    at = text.find(b"\nread_bytes: ")
    fields = text[at:].split() if at >= 0 else []
    if len(fields) < 4 or fields[2] != b"write_bytes:" or not (fields[1] + fields[3]).isdigit():
        return None
    return int(fields[1]), int(fields[3])


def count_files(pid: int) -> int | None:
    """Open descriptors; None when it is gone or not ours to see."""
    path = f"{PROC}/{pid}/fd"
    try:
        # Since Linux 6.2 the size of the directory is their number; before that it is 0.
        return os.stat(path).st_size or len(os.listdir(path))  # noqa: PTH116, PTH208 - one of many, each minute
    except OSError:
        return None


class SessionMeter:
    """Measures one process and everything in the session it leads; kept for the life of that process.

    Each meter has a baseline of its own, so whoever samples at an interval of his own makes one.

    Args:
        leader: a meter of another process is another meter.
        members: the pids that are in a session now, as far as known.
    """

    __slots__ = ("_before", "_before_s", "_before_ticks", "_cpu_ticks", "_leader", "_members")

    def __init__(self, leader: Identity, members: Members) -> None:
        self._leader = leader
        self._members = members
        self._before: Counted = {}
        self._before_s: float | None = None
        self._before_ticks = 0
        self._cpu_ticks = 0  # all there was at the first sample, and the growth since

    def light(self, now_s: float) -> LightUsage | None:
        """CPU and memory alone.

        Args:
            now_s: monotonic seconds.

        Returns:
            None when the leader is gone, or its pid is another's.
        """
        found = self._read()
        if found is None:
            return None
        cpu = self._cpu_percent(found, now_s)
        return LightUsage(cpu_percent=cpu, rss_bytes=sum(p.rss_pages for p in found) * PAGE_BYTES)

    def full(self, now_s: float) -> Usage | None:
        """Everything; see :meth:`light`. What may not be read of any member (another user's) is None."""
        found = self._read()
        if found is None:
            return None
        cpu = self._cpu_percent(found, now_s)
        moved = [io for p in found if (io := read_io(p.pid)) is not None]
        files = [count for p in found if (count := count_files(p.pid)) is not None]
        return Usage(
            cpu_percent=cpu,
            rss_bytes=sum(p.rss_pages for p in found) * PAGE_BYTES,
            vms_bytes=sum(p.vms_bytes for p in found),
            read_bytes=sum(io[0] for io in moved) if moved else None,
            write_bytes=sum(io[1] for io in moved) if moved else None,
            open_files=sum(files) if files else None,
            threads=sum(p.threads for p in found),
            processes=len(found),
            cpu_seconds=self._cpu_ticks / TICKS_PER_S,
        )

    def _read(self) -> list[Process] | None:
        leader = read_process(self._leader.pid)
        if leader is None or leader.start_ticks != self._leader.start_ticks:
            return None
        found = [leader]
        for pid in self._members(leader.pid):
            if pid == leader.pid:
                continue
            process = read_process(pid)
            # What is known of the session may be a minute old, and the pid a stranger's by now.
            if process is not None and process.session == leader.pid:
                found.append(process)
        return found

    def _cpu_percent(self, found: list[Process], now_s: float) -> float | None:
        now = {p.pid: (p.start_ticks, p.cpu_ticks) for p in found}
        before, before_s, before_ticks = self._before, self._before_s, self._before_ticks
        self._before, self._before_s, self._before_ticks = now, now_s, boot_ticks()
        if before_s is None:
            self._cpu_ticks = sum(p.cpu_ticks for p in found)
            return None
        grown = grown_ticks(before, now, before_ticks)
        self._cpu_ticks += grown
        if now_s <= before_s:
            return None
        used_s = grown / TICKS_PER_S
        # A reaped child that no sample saw brings its whole life at once; a host has no more than its cores.
        return min(used_s / (now_s - before_s), CORES) * 100.0
