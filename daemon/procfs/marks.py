"""The mark: environment variables by which a process shows which agent it belongs to.

They pass to every child, also to one that left the session by setsid(2), and outlive the daemon.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from daemon.procfs.stat import PROC, read_proc_file

AGENT_ID = "HOSTDAEMON_AGENT_ID"
SOCKET = "HOSTDAEMON_SOCKET"
MARK = "HOSTDAEMON_MARK"
RUN = "HOSTDAEMON_RUN"
ENVIRON_MAX = 256 * 1024  # bytes of an environment we look at

_MARK_KEY = MARK.encode() + b"="
_RUN_KEY = RUN.encode() + b"="


@dataclass(frozen=True, slots=True)
class Mark:
    """What a process carries.

    Attributes:
        token: the agent's token: 128 bits, made once per agent and work_dir.
        run: which spawn of that agent it comes from.
    """

    token: str
    run: str


def parse_mark(environ: bytes) -> Mark | None:
    """The mark in the text of ``/proc/PID/environ`` (NUL-separated, proc(5)); None without one.

    Where a name stands twice, the last one wins, as with exec: our variables are appended last.
    """
    if _MARK_KEY not in environ:
        return None
    token = run = ""
    for entry in environ.split(b"\0"):
        if entry.startswith(_MARK_KEY):
            token = entry[len(_MARK_KEY) :].decode("ascii", "replace")
        elif entry.startswith(_RUN_KEY):
            run = entry[len(_RUN_KEY) :].decode("ascii", "replace")
    return Mark(token, run) if token else None


def wiped(environ: bytes) -> bool:
    """Whether a process painted over its environment (redis, nginx and postgres write their title there)."""
    return b"=" not in environ


def read_environ(pid: int) -> bytes | None:
    """The environment a process was started with; None when it is gone or not ours to read."""
    return read_proc_file(f"{PROC}/{pid}/environ", ENVIRON_MAX)


def read_mark(pid: int) -> Mark | None:
    """The mark of a live process, or None."""
    environ = read_environ(pid)
    return None if environ is None else parse_mark(environ)


def writes_to(pid: int, device: int, inode: int) -> bool:
    """Whether a process has both stdout and stderr on that very file."""
    for fd in ("1", "2"):
        try:
            found = os.stat(f"{PROC}/{pid}/fd/{fd}")  # noqa: PTH116 - a magic link, not a path
        except OSError:
            return False
        if (found.st_dev, found.st_ino) != (device, inode):
            return False
    return True
