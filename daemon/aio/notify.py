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
IN_CLOSE_WRITE = 0x8
IN_MOVED_FROM = 0x40
IN_MOVED_TO = 0x80
IN_CREATE = 0x100
IN_DELETE = 0x200
IN_DELETE_SELF = 0x400
IN_MOVE_SELF = 0x800
IN_UNMOUNT = 0x2000
IN_Q_OVERFLOW = 0x4000
IN_IGNORED = 0x8000
IN_ONLYDIR = 0x0100_0000
IN_MASK_ADD = 0x2000_0000

GONE = IN_DELETE_SELF | IN_MOVE_SELF | IN_UNMOUNT | IN_Q_OVERFLOW
ONCE = IN_MODIFY | GONE
ENTRIES = IN_CLOSE_WRITE | IN_MOVED_FROM | IN_MOVED_TO | IN_CREATE | IN_DELETE | GONE
TELLABLE = 0xFFF  # the events one may ask for; the others come by themselves
READ_BYTES = 64 * 1024
_HEAD = struct.Struct("=iIII")  # inotify(7): wd, mask, cookie, length of the name

TakeBack = Callable[[], None]


class Notifier(Protocol):
    """The seam; the real one is :class:`InotifyNotifier`."""

    def once(self, path: Path, call: Callable[[], None]) -> TakeBack:
        """Calls once when the file is next written to, truncated, deleted or renamed; then the watch is gone.

        Of a directory only its own end or renaming is told, not what happens in it.

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


class _Caller:
    """Somebody who waits for events of one inode."""

    __slots__ = ("call", "live", "mask", "once")

    def __init__(self, mask: int, call: Callable[[str], None], *, once: bool) -> None:
        self.mask = mask
        self.call = call
        self.once = once
        self.live = True


class InotifyNotifier:
    """inotify on the reactor; its descriptor is opened with the first watch.

    Args:
        reactor: watches the descriptor.
    """

    def __init__(self, reactor: DescriptorReactor) -> None:
        self._reactor = reactor
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = -1
        # A wd belongs to an inode: all who watch it share one, with the events of each.
        self._callers: dict[int, list[_Caller]] = {}

    def once(self, path: Path, call: Callable[[], None]) -> TakeBack:
        """See Notifier."""
        mask = GONE if path.is_dir() else ONCE  # a directory's IN_MODIFY tells of every write in it
        return self._watch(path, mask, _Caller(mask, lambda _name: call(), once=True))

    def entries(self, path: Path, call: Callable[[str], None]) -> TakeBack:
        """See Notifier."""
        return self._watch(path, ENTRIES | IN_ONLYDIR, _Caller(ENTRIES, call, once=False))

    def stop(self) -> None:
        """Gives every watch back."""
        for caller in (caller for callers in self._callers.values() for caller in callers):
            caller.live = False
        self._callers.clear()
        if self._fd >= 0:
            self._reactor.removeReader(self)
            os.close(self._fd)
            self._fd = -1

    @property
    def watches(self) -> int:
        """Files and directories under watch."""
        return len(self._callers)

    def _watch(self, path: Path, mask: int, caller: _Caller) -> TakeBack:
        if self._fd < 0:
            fd = self._libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
            if fd < 0:
                raise _os_error(path)
            self._fd = fd
            self._reactor.addReader(self)
        asked = (mask & (TELLABLE | IN_ONLYDIR)) | IN_MASK_ADD
        wd: int = self._libc.inotify_add_watch(self._fd, os.fsencode(path), ctypes.c_uint32(asked))
        if wd < 0:
            raise _os_error(path)
        self._callers.setdefault(wd, []).append(caller)

        def take_back() -> None:
            if caller.live:
                caller.live = False
                self._leave(wd, [caller])

        return take_back

    def _leave(self, wd: int, leaving: list[_Caller]) -> None:
        """These watch no longer; the last one's watch is given back."""
        left = [caller for caller in self._callers.get(wd, ()) if caller not in leaving]
        if left:
            self._callers[wd] = left
        elif self._callers.pop(wd, None) is not None:
            self._libc.inotify_rm_watch(self._fd, wd)  # fails when it is gone already: as wanted

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
            for each in tuple(self._callers):
                self._tell(each, IN_Q_OVERFLOW, "")
        elif mask & IN_IGNORED:
            for caller in self._callers.pop(wd, ()):
                caller.live = False
        else:
            self._tell(wd, mask, name)

    def _tell(self, wd: int, mask: int, name: str) -> None:
        told = [caller for caller in self._callers.get(wd, ()) if caller.mask & mask]
        # Before anybody is called: whoever is may set the next watch on that inode.
        once = [caller for caller in told if caller.once]
        if once:
            self._leave(wd, once)
        fd = self._fd
        for caller in told:
            if not caller.live or self._fd != fd:  # taken back, or all of it stopped, by one called before it
                continue
            caller.live = not caller.once
            try:
                caller.call(name)
            except Exception:  # noqa: BLE001 - logged; one watcher's fault is not the next one's
                log.failure("a watcher of files failed")


def _os_error(path: Path) -> OSError:
    number = ctypes.get_errno()
    hint = os.strerror(number)
    if number in (errno.ENOSPC, errno.EMFILE):
        hint = "no inotify watch is left; raise fs.inotify.max_user_watches or max_user_instances"
    return OSError(number, hint, str(path))
