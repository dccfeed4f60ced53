"""The folder of each update: ``download_dir/{id}``, 0700, gone when the update is over. Blocks.

Its journal says where it is: a reload may give ``download_dir`` another value meanwhile.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable, Collection
from pathlib import Path

from daemon.durable.explain import storage_error
from daemon.errors import StorageError

PACKAGE = "package"
FILES = "files"


class Staging:
    """All of them.

    Args:
        directory: ``update.download_dir`` as it is now.
    """

    def __init__(self, directory: Callable[[], Path]) -> None:
        self._directory = directory

    def folder(self, update_id: str) -> Path:
        """Where a new update keeps what it brings."""
        return self._directory() / update_id

    def there(self, folder: Path) -> bool:
        """Whether an update's folder exists."""
        return folder.is_dir()

    def make(self, folder: Path) -> None:
        """Makes an update's folder, for our eyes only, or sees to it that it is so.

        Raises:
            StorageError: it cannot be made, is somebody else's, or its parent lets others replace it.
        """
        _check_name(folder)
        try:
            folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check_parent(folder.parent)
            folder.mkdir(mode=0o700, exist_ok=True)
            found = folder.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
                raise NotADirectoryError(errno.ENOTDIR, "a link, or somebody else's", str(folder))
            folder.chmod(0o700)
        except OSError as error:
            raise storage_error("make", folder, error) from error

    def remove(self, folder: Path) -> None:
        """Removes an update's folder with all that is in it; nothing happens when there is none.

        Raises:
            StorageError: something of it stays.
        """
        _check_name(folder)
        try:
            if folder.is_symlink():
                folder.unlink()
            elif folder.exists():
                shutil.rmtree(folder)
        except OSError as error:
            raise storage_error("remove", folder, error) from error

    def sweep(self, under_way: Collection[str]) -> tuple[str, ...]:
        """Removes what updates that are over left; the names of what went. Only what looks like ours."""
        removed = []
        try:
            names = os.listdir(self._directory())  # noqa: PTH208 - names
        except OSError:
            return ()
        for name in names:
            if looks_like_an_id(name) and name not in under_way:
                self.remove(self.folder(name))
                removed.append(name)
        return tuple(removed)


def looks_like_an_id(name: str) -> bool:
    """``{YYYYmmddHHMMSS}-{8 hex digits}``."""
    stamp, dash, token = name.partition("-")
    return bool(
        dash and len(stamp) == 14 and stamp.isascii() and stamp.isdigit()
        and len(token) == 8 and all(c in "0123456789abcdef" for c in token)
    )


def _check_name(folder: Path) -> None:
    """A journal says where an update's folder is, and a journal may say anything.

    Raises:
        StorageError: that is none.
    """
    if not folder.is_absolute() or not looks_like_an_id(folder.name):
        raise StorageError(f"{folder} is no folder of an update; left alone", errno=0, path=str(folder))


def _check_parent(directory: Path) -> None:
    """Who may write there could put another folder in the place of ours.

    Raises:
        StorageError: somebody else may.
    """
    found = directory.stat()
    if found.st_uid not in (os.geteuid(), 0) or (found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX):
        raise StorageError(
            f"{directory} belongs to somebody else or may be written by others; chmod go-w it, or choose "
            "another update.download_dir", errno=0, path=str(directory),
        )
