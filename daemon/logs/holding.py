"""Holds the writers of a log for a moment, where the filesystem leaves no other way to lose nothing."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from twisted.logger import Logger

from daemon.model.agent import Identity
from daemon.procfs.identity import identify, verify
from daemon.procfs.pidfd import open_pidfd, send_signal
from daemon.procfs.stat import PROC, read_proc_file

log = Logger()

PATIENCE_S = 1.0  # until every thread has stopped; a write under way ends first
_POLL_S = 0.001


class NotHeldError(Exception):
    """A writer did not stop in time; nothing was cut."""


def identities(pids: Iterable[int]) -> tuple[Identity, ...]:
    """Who those processes are now; what is gone is left out."""
    return tuple(found for pid in pids if (found := identify(pid)) is not None)


@contextmanager
def held(writers: Iterable[Identity]) -> Iterator[None]:
    """The writers stand still inside; they always go on afterwards.

    Raises:
        NotHeldError: one did not stop within a second, or may not be signalled.
    """
    pidfds: dict[int, int] = {}
    try:
        for identity in writers:
            pidfd = open_pidfd(identity.pid)
            if pidfd is None:
                continue
            pidfds[identity.pid] = pidfd
            if verify(identity) is None:  # its pid is another's by now
                os.close(pidfds.pop(identity.pid))
                continue
            try:
                send_signal(pidfd, signal.SIGSTOP)
            except PermissionError as error:
                raise NotHeldError(f"process {identity.pid} may not be signalled by this user") from error
        until = time.monotonic() + PATIENCE_S
        for pid in pidfds:
            while not stands_still(pid):
                if time.monotonic() > until:
                    raise NotHeldError(f"process {pid} did not stop within {PATIENCE_S:g} s")
                time.sleep(_POLL_S)
        yield
    finally:
        for pidfd in pidfds.values():
            try:
                send_signal(pidfd, signal.SIGCONT)
            except OSError as error:
                log.error("a process stays stopped: {error}; kill -CONT it", error=str(error))
            os.close(pidfd)


def let_go(writers: Iterable[Identity]) -> None:
    """Lets those go on whom a daemon that died left stopped."""
    for identity in writers:
        pidfd = open_pidfd(identity.pid)
        if pidfd is None:
            continue
        try:
            if verify(identity) is not None:
                send_signal(pidfd, signal.SIGCONT)
        except OSError as error:
            log.error("process {pid} stays stopped: {error}; kill -CONT it",
                      pid=identity.pid, error=str(error))
        finally:
            os.close(pidfd)


def stands_still(pid: int) -> bool:
    """Whether every thread of a process is stopped, or it is gone."""
    try:
        threads = os.listdir(f"{PROC}/{pid}/task")  # noqa: PTH208 - names, not paths
    except OSError:
        return True
    for thread in threads:
        text = read_proc_file(f"{PROC}/{pid}/task/{thread}/stat", 256)
        if text and text[text.rfind(b")") + 2 : text.rfind(b")") + 3] not in b"TtZX":
            return False
    return True
