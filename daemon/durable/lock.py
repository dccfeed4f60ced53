"""One daemon per ``work_dir``: an flock(2) on ``work_dir/lock``.

The lock belongs to the open file, not to the process: it ends with the last descriptor, so a crash
frees it at once, and an ``execv`` of the daemon into its next version may carry it over.
"""

from __future__ import annotations

import fcntl
import os
import stat
from contextlib import suppress
from pathlib import Path

from daemon.durable.explain import storage_error
from daemon.errors import StorageError

_NAME = "lock"
_PID_BYTES = 32  # more than any pid has digits


class DirectoryLock:
    """The lock of one directory.

    Args:
        directory: the ``work_dir``; the lock is its file ``lock``, which is never deleted.
        inheritable: whether the descriptor survives an ``execv``.

    Attributes:
        path: the lock file.
    """

    def __init__(self, directory: Path, *, inheritable: bool = False) -> None:
        self.path = directory / _NAME
        self._inheritable = inheritable
        self._fd: int | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._fd is not None

    @property
    def fd(self) -> int | None:
        """The descriptor that holds the lock, to hand over an ``execv``; None when not held."""
        return self._fd

    def acquire(self, inherited_fd: int | None = None) -> None:
        """Takes the lock, or fails at once; it never waits. Does nothing when it is held already.

        Args:
            inherited_fd: the descriptor a previous version left open for us. One that is not this
                lock is left alone and the lock is taken in the ordinary way.

        Raises:
            StorageError: another process holds it, or the file cannot be used.
        """
        if self._fd is not None:
            return
        try:
            fd = self._usable(inherited_fd)
            if fd is None:
                fd = self._open()
            try:
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    raise StorageError(f"{self.path} is not a regular file; move it away",
                                       errno=0, path=str(self.path))
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.set_inheritable(fd, self._inheritable)
            except BlockingIOError as error:
                holder = self._holder(fd)
                os.close(fd)
                raise StorageError(
                    f"another hostdaemon (pid {holder}) holds {self.path}; "
                    "stop it or choose another work_dir",
                    errno=error.errno or 0, path=str(self.path), pid=holder,
                ) from error
            except BaseException:
                os.close(fd)
                raise
        except OSError as error:
            raise storage_error("lock", self.path, error) from error
        self._fd = fd
        self._write_pid(fd)

    def note_pid(self) -> None:
        """Writes our pid anew: daemonising has changed it since the lock was taken."""
        if self._fd is not None:
            self._write_pid(self._fd)

    def set_inheritable(self, inheritable: bool) -> None:
        """Decides whether the descriptor survives an ``execv``; best called just before one."""
        self._inheritable = inheritable
        if self._fd is not None:
            os.set_inheritable(self._fd, inheritable)

    def release(self) -> None:
        """Gives the lock up, even where a child inherited the descriptor; does nothing when not held."""
        fd, self._fd = self._fd, None
        if fd is None:
            return
        with suppress(OSError):  # closing frees it as well
            fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)

    def _open(self) -> int:
        # O_RDWR: opening a FIFO that somebody put there does not hang.
        # 0600, also where an earlier version made it wider: flock(2) asks for a descriptor alone, and
        # whoever may open the file may hold the lock for ever.
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        if stat.S_ISREG(os.fstat(fd).st_mode):
            with suppress(OSError):  # not ours: then it was not for us to narrow
                os.fchmod(fd, 0o600)
        return fd

    def _usable(self, fd: int | None) -> int | None:
        """``fd`` when it is an open descriptor of the lock file as it stands."""
        if fd is None:
            return None
        try:
            given, here = os.fstat(fd), os.lstat(self.path)
        except OSError:
            return None
        return fd if (given.st_dev, given.st_ino) == (here.st_dev, here.st_ino) else None

    @staticmethod
    def _holder(fd: int) -> int | str:
        """The pid the holder wrote, for the message; ``unknown`` when it wrote none."""
        try:
            text = os.pread(fd, _PID_BYTES, 0).strip()
        except OSError:
            return "unknown"
        return int(text) if text.isdigit() else "unknown"

    @staticmethod
    def _write_pid(fd: int) -> None:
        with suppress(OSError):  # information only: a full disk must not stop the daemon
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
