"""Which processes are in which session, by a pass over ``/proc`` (proc(5))."""

from __future__ import annotations

import os
from collections.abc import Mapping

from daemon.procfs.stat import KTHREADD, PROC, read_proc_file

_HEAD_BYTES = 128  # the name is at most 64 bytes, and the five numbers wanted follow it
WHOLE_EVERY = 20  # passes; every so often what is remembered is read anew


class SessionScan:
    """The live processes of each session, without kernel threads; called again and again.

    Only processes that were not there at the pass before are read: nobody enters a session but by birth, and
    who leaves one (setsid(2)) leads his own. So what is remembered of a process can at worst name a session
    it has left, or a zombie; whoever reads the member's own stat sees that. A pid that went to another one is
    told by the inode of its directory in /proc, which lasts as long as the process does; where the kernel has
    forgotten the inode meanwhile, the process is read once more.

    Args:
        whole_every: passes after which every process is read anew.
    """

    def __init__(self, whole_every: int = WHOLE_EVERY) -> None:
        self._whole_every = whole_every
        self._passes = 0
        self._known: dict[int, tuple[int, int]] = {}  # pid to inode and session
        self.reads_total = 0

    def __call__(self) -> Mapping[int, tuple[int, ...]]:
        """One pass. Blocks: half a microsecond for a process known before, some 5 us for a new one."""
        before = {} if self._passes % self._whole_every == 0 else self._known
        self._passes += 1
        known: dict[int, tuple[int, int]] = {}
        found: dict[int, list[int]] = {}
        with os.scandir(PROC) as entries:
            for entry in entries:
                if not entry.name.isdigit():
                    continue
                pid, inode = int(entry.name), entry.inode()
                seen = before.get(pid)
                if seen is None or seen[0] != inode:
                    session = self._read(entry.name)
                    if session is None:
                        continue
                    seen = (inode, session)
                known[pid] = seen
                if seen[1]:
                    found.setdefault(seen[1], []).append(pid)
        self._known = known
        return {session: tuple(sorted(pids)) for session, pids in found.items()}

    def _read(self, name: str) -> int | None:
        self.reads_total += 1
        text = read_proc_file(f"{PROC}/{name}/stat", _HEAD_BYTES)
        return session_of(text) if text else None


def session_of(head: bytes) -> int:
    """The session in the head of a stat line; 0 for a zombie, a kernel thread, or what is no such line."""
    fields = head[head.rfind(b")") + 2 :].split(None, 4)
    if len(fields) < 5 or fields[0] in b"ZXx":
        return 0
    try:
        return 0 if int(fields[1]) == KTHREADD else int(fields[3])
    except ValueError:
        return 0
