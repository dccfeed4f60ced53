"""What the kernel tells of files, so that nothing has to be polled: inotify(7) on the reactor.

Twisted's own ``INotify`` gives up all its watches when one watched file is deleted, which is the
everyday case here; hence these few system calls of our own.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from twisted.logger import Logger
from twisted.python.failure import Failure

from daemon.aio.reactor import DescriptorReactor

log = Logger()

IN_MODIFY = 0x2
IN_ATTRIB = 0x4
IN_CLOSE_WRITE = 0x8
IN_MOVED_FROM = 0x40
IN_MOVED_TO = 0x80
IN_CREATE = 0x100
IN_DELETE = 0x200
IN_DELETE_SELF = 0x400
IN_MOVE_SELF = 0x800
IN_Q_OVERFLOW = 0x4000
IN_IGNORED = 0x8000
IN_ONLYDIR = 0x0100_0000
IN_ONESHOT = 0x8000_0000

ONCE = IN_MODIFY | IN_DELETE_SELF | IN_MOVE_SELF
ENTRIES = IN_CLOSE_WRITE | IN_MOVED_FROM | IN_MOVED_TO | IN_CREATE | IN_DELETE | IN_DELETE_SELF | IN_MOVE_SELF
READ_BYTES = 64 * 1024
_HEAD = struct.Struct("=iIII")  # inotify(7): wd, mask, cookie, length of the name

TakeBack = Callable[[], None]


class Notifier(Protocol):
    """The seam; the real one is :class:`InotifyNotifier`."""

    def once(self, path: Path, call: Callable[[], None]) -> TakeBack:
        """Calls once when the file is next written to, truncated, deleted or renamed; then the watch is gone.

        Returns:
            takes the watch back; harmless after the call.

        Raises:
            OSError: no such file, or no watch is to be had (fs.inotify.max_user_watches).
        """
        ...

    def entries(self, path: Path, call: Callable[[str], None]) -> TakeBack:
        """Calls for every entry of a directory that is made, written, renamed or deleted, with its name.

        The name is empty when the directory itself went, or when events were lost: look at everything then.

        Raises:
            OSError: no such directory, or no watch is to be had.
        """
        ...


class InotifyNotifier:
    """inotify on the reactor; its descriptor is opened with the first watch.

    Args:
        reactor: watches the descriptor.
    """

    def __init__(self, reactor: DescriptorReactor) -> None:
        self._reactor = reactor
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = -1
        # A wd belongs to an inode: several watchers of one file share it.
        self._calls: dict[int, dict[object, Callable[[str], None]]] = {}
        self._once: set[int] = set()

    def once(self, path: Path, call: Callable[[], None]) -> TakeBack:
        """See Notifier."""
        wd = self._add(path, ONCE)
        self._once.add(wd)
        return self._keep(wd, lambda _name: call())

    def entries(self, path: Path, call: Callable[[str], None]) -> TakeBack:
        """See Notifier."""
        return self._keep(self._add(path, ENTRIES | IN_ONLYDIR), call)

    def stop(self) -> None:
        """Gives every watch back."""
        self._calls.clear()
        self._once.clear()
        if self._fd >= 0:
            self._reactor.removeReader(self)
            os.close(self._fd)
            self._fd = -1

    @property
    def watches(self) -> int:
        """Watches held."""
        return len(self._calls)

    def _add(self, path: Path, mask: int) -> int:
        if self._fd < 0:
            fd = self._libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
            if fd < 0:
                raise _os_error(path)
            self._fd = fd
            self._reactor.addReader(self)
        wd: int = self._libc.inotify_add_watch(self._fd, os.fsencode(path), ctypes.c_uint32(mask))
        if wd < 0:
            raise _os_error(path)
        return wd

    def _keep(self, wd: int, call: Callable[[str], None]) -> TakeBack:
        token = object()
        self._calls.setdefault(wd, {})[token] = call

        def take_back() -> None:
            calls = self._calls.get(wd)
            if calls is None or calls.pop(token, None) is None or calls:
                return
            self._drop(wd)
            if self._fd >= 0:
                self._libc.inotify_rm_watch(self._fd, wd)  # fails when it is gone already: as wanted

        return take_back

    def _drop(self, wd: int) -> dict[object, Callable[[str], None]]:
        self._once.discard(wd)
        return self._calls.pop(wd, {})

    # IReadDescriptor
    def fileno(self) -> int:
        """The descriptor the reactor watches."""
        return self._fd

    def logPrefix(self) -> str:
        """Names us in the reactor's messages."""
        return "inotify"

    def connectionLost(self, reason: Failure) -> None:
        """The reactor gave the descriptor up."""

    def doRead(self) -> None:
        """Events are there."""
        try:
            data = os.read(self._fd, READ_BYTES)
        except BlockingIOError:
            return
        at = 0
        while at + _HEAD.size <= len(data):
            wd, mask, _cookie, length = _HEAD.unpack_from(data, at)
            at += _HEAD.size
            name = os.fsdecode(data[at : at + length].rstrip(b"\0"))
            at += length
            self._event(wd, mask, name)

    def _event(self, wd: int, mask: int, name: str) -> None:
        if mask & IN_Q_OVERFLOW:
            for each in tuple(self._calls):
                self._tell(each, "")
        elif mask & IN_IGNORED:
            self._drop(wd)
        else:
            self._tell(wd, name)

    def _tell(self, wd: int, name: str) -> None:
        # A one-shot watch ends with its event: whoever is called may already set the next one on that inode.
        calls = self._drop(wd) if wd in self._once else self._calls.get(wd, {})
        for call in tuple(calls.values()):
            try:
                call(name)
            except Exception:  # noqa: BLE001 - logged; one watcher's fault is not the next one's
                log.failure("a watcher of files failed")


def _os_error(path: Path) -> OSError:
    number = ctypes.get_errno()
    hint = os.strerror(number)
    if number in (errno.ENOSPC, errno.EMFILE):
        hint = "no inotify watch is left; raise fs.inotify.max_user_watches or max_user_instances"
    return OSError(number, hint, str(path))
