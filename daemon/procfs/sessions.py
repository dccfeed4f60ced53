"""Which processes are in which session, by one pass over ``/proc/*/stat`` (proc(5))."""

from __future__ import annotations

import os
from collections.abc import Mapping

from daemon.procfs.stat import KTHREADD, PROC, read_proc_file

_HEAD_BYTES = 128  # the name is at most 64 bytes, and the five numbers wanted follow it


def scan_sessions() -> Mapping[int, tuple[int, ...]]:
    """The live processes of each session, without zombies and kernel threads. Blocks: some 4 us a process."""
    found: dict[int, list[int]] = {}
    for name in os.listdir(PROC):  # noqa: PTH208 - names, not paths
        if not name.isdigit():
            continue
        text = read_proc_file(f"{PROC}/{name}/stat", _HEAD_BYTES)
        if not text:
            continue
        session = session_of(text)
        if session:
            found.setdefault(session, []).append(int(name))
    return {session: tuple(sorted(pids)) for session, pids in found.items()}


def session_of(head: bytes) -> int:
    """The session in the head of a stat line; 0 for a zombie, a kernel thread, or what is no such line."""
    fields = head[head.rfind(b")") + 2 :].split(None, 4)
    if len(fields) < 5 or fields[0] in b"ZXx":
        return 0
    try:
        return 0 if int(fields[1]) == KTHREADD else int(fields[3])
    except ValueError:
        return 0
