"""Making room for a Unix socket: what may be removed from its path, and what may not."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path

from daemon.errors import ListenError

PATH_MAX_BYTES = 104  # sun_path holds 108 on Linux and 104 elsewhere (unix(7)), its NUL included
SHARED_MODE = 0o666  # for sockets where SO_PEERCRED decides who may speak, not the file's rights


def make_room(path: str) -> None:
    """Removes a stale socket from ``path``; returns only when a socket can be bound there.

    Raises:
        ListenError: the path is too long, its directory is missing, somebody listens there, or what is
            there is no socket.
    """
    length = len(os.fsencode(path))
    if not path or "\0" in path:
        raise ListenError(f"{path!r} is no path for a socket; write another socket_path", path=path)
    if length >= PATH_MAX_BYTES:
        raise ListenError(
            f"the socket path {path} has {length} bytes, and a socket's must stay under {PATH_MAX_BYTES}; "
            "choose a shorter work_dir or socket_path", path=path,
        )
    try:
        mode = Path(path).lstat().st_mode
    except FileNotFoundError:
        if not Path(path).parent.is_dir():
            raise ListenError(f"the directory of the socket {path} does not exist; create it",
                              path=path) from None
        return
    except OSError as error:
        raise ListenError(f"the socket path {path} cannot be looked at: {error.strerror}",
                          path=path) from error
    if not stat.S_ISSOCK(mode):
        raise ListenError(f"{path} exists and is not a socket; move it away or choose another socket_path",
                          path=path)
    if _somebody_answers(path):
        raise ListenError(f"another daemon listens on {path}; stop it or choose another socket_path",
                          path=path)
    try:
        Path(path).unlink(missing_ok=True)
    except OSError as error:
        raise ListenError(f"the stale socket {path} cannot be removed: {error.strerror}; remove it",
                          path=path) from error


def inode_of(path: str) -> tuple[int, int] | None:
    """Which file is at ``path`` now, or None."""
    try:
        found = Path(path).lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _somebody_answers(path: str) -> bool:
    """Whether a process listens there. Never blocks: a full backlog answers EAGAIN at once."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        number = probe.connect_ex(path)
    # EACCES or EPROTOTYPE: somebody else's, or of another kind; not ours to remove.
    return number not in (errno.ECONNREFUSED, errno.ENOENT)
