"""An agent's log: ``work_dir/logs/{id}/agent.log``, both streams, opened for the agent to append to.

The file, not a pipe, is the agent's stdout: nothing breaks for it when the daemon dies.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from daemon.config.secrets import text_shown
from daemon.errors import AgentStartError

TAIL_BYTES = 16 * 1024
TAIL_LINES = 20
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def log_path(logs_dir: Path, agent_id: str) -> Path:
    """Where an agent's log is."""
    return logs_dir / agent_id / "agent.log"


def open_log(path: Path) -> int:
    """Opens the log for a new process; the caller closes the descriptor after the spawn.

    Raises:
        AgentStartError: it cannot be opened, or is not a regular file (a symlink is refused).
    """
    try:
        try:
            fd = os.open(path, _FLAGS, 0o640)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.parent.chmod(0o750)  # whatever the umask: a daemonised twistd has 077
            fd = os.open(path, _FLAGS, 0o640)
            os.fchmod(fd, 0o640)
    except OSError as error:
        hint = "it must be a plain file we may write"
        if error.errno in (errno.EMFILE, errno.ENFILE):
            hint = "raise the limit of open files (ulimit -n, LimitNOFILE=)"
        raise AgentStartError(f"log {path} cannot be opened: {error.strerror}; {hint}") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise AgentStartError(f"log {path} is not a plain file; remove it")
    os.set_blocking(fd, True)
    return fd


def log_size(path: Path) -> int:
    """Its size in bytes, 0 when there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def tail(path: Path, upto: int, lines: int = TAIL_LINES) -> tuple[str, ...]:
    """The last lines before byte ``upto``; what is not text is shown with replacement marks. Blocks.

    They go into events, to the Manager and into the evidence of updates: what looks like a secret is taken
    out.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return ()
    try:
        begin = max(0, upto - TAIL_BYTES)
        data = os.pread(fd, upto - begin, begin)
    except OSError:
        return ()
    finally:
        os.close(fd)
    text = text_shown(data.decode("utf-8", "replace")).splitlines()
    return tuple(text[-lines:])
