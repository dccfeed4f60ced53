"""Files that are either the old or the new version, whatever happens in between.

Called for every state file. Everything here blocks: off the reactor, or at start. A crash may leave a
temporary file beside the target, which :func:`remove_stale_temporaries` takes away at the next start.
"""

from __future__ import annotations

import os
import re
import stat
from contextlib import suppress
from pathlib import Path

from daemon import faults
from daemon.durable.explain import storage_error
from daemon.errors import StorageError

_TOKEN_BYTES = 6  # two writers of one path never share a temporary file
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{12}\.tmp")


def write_atomic(path: Path, data: bytes, *, mode: int = 0o600, fsync: bool = True) -> None:
    """Replaces the content of ``path``; readers and crashes see the old file or the new one, never a part.

    A symbolic link at ``path`` is replaced, not followed.

    Args:
        path: the file; its directory must exist.
        data: the whole new content.
        mode: permission bits of the new file, whatever the umask.
        fsync: False only where a loss at a power failure does not matter.

    Raises:
        StorageError: nothing was replaced, or (failing fsync of the directory) not durably so;
            ``details["errno"]`` has the kernel's number.
    """
    temporary = path.with_name(f".{path.name}.{os.urandom(_TOKEN_BYTES).hex()}.tmp")
    left_over = False
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        left_over = True
        try:
            faults.hit("atomic.write")
            _write_all(fd, data)
            os.fchmod(fd, mode)
            faults.hit("atomic.fsync")
            if fsync:
                os.fsync(fd)
        finally:
            os.close(fd)
        faults.hit("atomic.rename")
        os.rename(temporary, path)  # noqa: PTH104 - the three system calls of the idiom side by side
        left_over = False
        if fsync:
            fsync_directory(path.parent)
    except OSError as error:
        raise storage_error("write", path, error) from error
    finally:
        if left_over:
            with suppress(OSError):  # the disk is in trouble already; the next start tries again
                temporary.unlink()


def read_bounded(path: Path, limit: int) -> bytes:
    """Reads a regular file of at most ``limit`` bytes; never hangs on a FIFO, never follows a link.

    Raises:
        FileNotFoundError: there is no such file, an expected outcome.
        StorageError: it cannot be read, is no regular file, or is larger than ``limit``.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise storage_error("read", path, error) from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise StorageError(f"cannot read {path}: it is not a regular file; move it away",
                               errno=0, path=str(path))
        parts: list[bytes] = []
        left = limit + 1
        while left > 0 and (part := os.read(fd, left)):
            parts.append(part)
            left -= len(part)
    except OSError as error:
        raise storage_error("read", path, error) from error
    finally:
        os.close(fd)
    if left <= 0:
        raise StorageError(f"cannot read {path}: it is larger than {limit} bytes; move it away",
                           errno=0, path=str(path))
    return b"".join(parts)


def set_aside(path: Path) -> Path:
    """Renames a file that cannot be understood to ``{name}.corrupt``, so that it can be looked at later.

    The copy set aside before that one is kept as ``{name}.corrupt.1``; older ones go.

    Returns:
        where the file is now.

    Raises:
        StorageError: it cannot be renamed.
    """
    aside = path.with_name(path.name + ".corrupt")
    older = path.with_name(path.name + ".corrupt.1")
    try:
        with suppress(FileNotFoundError):
            aside.replace(older)
        path.replace(aside)
    except OSError as error:
        raise storage_error("set aside", path, error) from error
    return aside


def remove_stale_temporaries(directory: Path) -> int:
    """Removes what writers that were killed left in ``directory``; only at start, before any writer.

    Returns:
        how many were removed; 0 when the directory does not exist.

    Raises:
        StorageError: the directory cannot be read or written.
    """
    removed = 0
    try:
        for entry in list(directory.iterdir()):
            if _TEMPORARY.fullmatch(entry.name) and stat.S_ISREG(entry.lstat().st_mode):
                entry.unlink()
                removed += 1
    except FileNotFoundError:
        return removed
    except OSError as error:
        raise storage_error("clear temporary files in", directory, error) from error
    return removed


def fsync_directory(directory: Path) -> None:
    """Makes renames and new names in ``directory`` survive a power failure (fsync(2)).

    Raises:
        OSError: for the caller to translate.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view):]
