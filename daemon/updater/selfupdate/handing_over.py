"""How one version of the daemon becomes another one in the same process: an ``execve`` in place of the exit.

The pid stays, so agents stay children and a service manager notices nothing; the lock of ``work_dir`` is
carried over by its descriptor, so no second daemon can come in between.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from daemon.updater.selfupdate.launcher import interpreter

LOCK_FD = "HOSTDAEMON_LOCK_FD"
_STDERR = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """How this process was started, as far as another version has to be started likewise.

    Attributes:
        twistd: options of twistd itself.
        options: ours; every path in them is absolute.
        log_file: where the log goes; empty for stderr.
    """

    twistd: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    log_file: str = ""

    def argv(self, program: Path) -> tuple[str, ...]:
        """The command line for another start in the foreground: whoever was daemonised is so already.

        twistd's own pid file is off: after an exec it would find its own pid in it and refuse to start.
        """
        return (
            *interpreter(), str(program), *self.twistd, "-n", "--pidfile=", "hostdaemon", *self.options
        )


def environment(environ: Mapping[str, str], service_manager: Mapping[str, str]) -> dict[str, str]:
    """The environment for another start: ours, with what the service manager gave us and we took out."""
    return {name: value for name, value in environ.items() if name != LOCK_FD} | dict(service_manager)


def inherited_lock(environ: MutableMapping[str, str]) -> int | None:
    """The descriptor of the lock that the version before us left open; taken out of the environment."""
    text = environ.pop(LOCK_FD, "")
    return int(text) if text.isascii() and text.isdigit() and _STDERR < int(text) < 2**31 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class HandOver:
    """What is to be executed once everything is closed.

    Attributes:
        version: that takes over, for those who are told.
        argv, env: of it.
        before: called last, with everything saved and closed; blocks.
        abandoned: called instead, with the reason, when the daemon shall end after all; blocks.
        stderr: a file for what it says before its log is open, where our own stderr leads nowhere; empty for
            ours.
    """

    version: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    before: Callable[[], None]
    abandoned: Callable[[str], None]
    stderr: str = ""


class GivesWay(Protocol):
    """The daemon, as its update sees it."""

    def hand_over(self, hand_over: HandOver) -> bool:
        """Leaves as for a stop, agents untouched, and becomes the other program.

        Returns:
            False where it is stopping already, for an operator's stop goes first.
        """
        ...


def become(hand_over: HandOver, lock_fd: int | None) -> None:
    """Becomes the other program, with no descriptor but the first three and the lock. Does not return.

    Raises:
        OSError: it cannot be executed.
    """
    if hand_over.stderr:
        with suppress(OSError):  # then what it says is lost, as it would be anyway
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_NOFOLLOW
            fd = os.open(hand_over.stderr, flags, 0o600)
            os.dup2(fd, 1)
            os.dup2(fd, _STDERR)
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - of the kernel, not of a disk
        if int(name) > _STDERR:
            with suppress(OSError):  # the one of this listing itself
                os.set_inheritable(int(name), int(name) == lock_fd)
    # A handler does not survive an exec, and a SIGHUP would end the new version before it has its own.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    env = dict(hand_over.env) | ({LOCK_FD: str(lock_fd)} if lock_fd is not None else {})
    os.execve(hand_over.argv[0], hand_over.argv, env)


def leads_nowhere() -> bool:
    """Whether our stderr is ``/dev/null``, as a daemonised twistd's is."""
    with suppress(OSError):
        return os.path.samestat(os.fstat(_STDERR), os.stat(os.devnull))  # noqa: PTH116
    return True


def file_behind_stderr() -> str:
    """The file our stderr goes to; empty for a terminal, a pipe or a journal, which nobody can read back."""
    with suppress(OSError):
        path = Path("/proc/self/fd/2").readlink()
        return str(path) if path.is_file() else ""
    return ""


def let_go(path: str) -> None:
    """Our stderr leads nowhere again, where it was that file only until we are ready."""
    with suppress(OSError):
        if os.path.samestat(os.fstat(_STDERR), os.stat(path)):  # noqa: PTH116
            fd = os.open(os.devnull, os.O_RDWR)
            for each in (1, _STDERR):
                os.dup2(fd, each)
            os.close(fd)
