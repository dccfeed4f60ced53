"""``/proc/PID/stat`` (proc(5)): the facts by which a process is told from every other."""

from __future__ import annotations

import os
from dataclasses import dataclass

PROC = "/proc"
STAT_MAX = 4096  # bytes; the line is some 350 bytes long
KTHREADD = 2  # the parent of all kernel threads


@dataclass(frozen=True, slots=True)
class ProcStat:
    """The fields of ``/proc/PID/stat`` we use; numbers in the comments are proc(5)'s.

    Attributes:
        start_ticks: field 22, clock ticks since boot at which the process began.
        exit_code: field 52, in the form of waitpid(2); only told to those who may ptrace it.
    """

    pid: int  # 1
    comm: str  # 2
    state: str  # 3, one letter; Z and X are dead
    ppid: int  # 4
    pgrp: int  # 5
    session: int  # 6
    utime_ticks: int  # 14
    stime_ticks: int  # 15
    num_threads: int  # 20
    start_ticks: int  # 22
    vsize_bytes: int  # 23
    rss_pages: int  # 24
    exit_code: int  # 52

    @property
    def dead(self) -> bool:
        """A zombie, or on its way out: it holds its pid and does nothing any more."""
        return self.state in "ZXx"

    @property
    def kernel_thread(self) -> bool:
        """Whether this is a thread of the kernel rather than somebody's process."""
        return self.ppid == KTHREADD or self.pid == KTHREADD


def parse_stat(text: bytes) -> ProcStat:
    """Reads one stat line.

    The name may hold spaces and parentheses, so the fields begin after the *last* ``)``.

    Raises:
        ValueError: it is not a stat line.
    """
    left = text.find(b"(")
    right = text.rfind(b")")
    if left < 1 or right < left:
        raise ValueError("not a line of /proc/PID/stat")
    rest = text[right + 2 :].split()
    if len(rest) < 22:
        raise ValueError("a line of /proc/PID/stat is cut short")
    return ProcStat(
        pid=int(text[:left]),
        comm=text[left + 1 : right].decode("utf-8", "replace"),
        state=rest[0].decode("ascii", "replace"),
        ppid=int(rest[1]),
        pgrp=int(rest[2]),
        session=int(rest[3]),
        utime_ticks=int(rest[11]),
        stime_ticks=int(rest[12]),
        num_threads=int(rest[17]),
        start_ticks=int(rest[19]),
        vsize_bytes=int(rest[20]),
        rss_pages=int(rest[21]),
        exit_code=int(rest[49]) if len(rest) > 49 else 0,
    )


def read_proc_file(path: str, limit: int) -> bytes | None:
    """The first ``limit`` bytes of a file below /proc, or None: gone, or not ours to read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    try:
        return os.read(fd, limit)
    except (ProcessLookupError, PermissionError):
        return None
    finally:
        os.close(fd)


def read_stat(pid: int) -> ProcStat | None:
    """The stat of a process, or None when there is no such process any more."""
    text = read_proc_file(f"{PROC}/{pid}/stat", STAT_MAX)
    if not text:
        return None
    try:
        return parse_stat(text)
    except ValueError:
        return None
