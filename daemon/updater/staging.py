"""The folder of each update: ``download_dir/{id}``, 0700, gone when the update is over. Blocks."""

from __future__ import annotations

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
        """Where an update keeps what it brought."""
        return self._directory() / update_id

    def there(self, update_id: str) -> bool:
        """Whether its folder exists."""
        return self.folder(update_id).is_dir()

    def make(self, update_id: str) -> Path:
        """Makes the folder, for our eyes only.

        Raises:
            StorageError: it cannot be made, or its parent lets others replace it.
        """
        folder = self.folder(update_id)
        try:
            folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check_parent(folder.parent)
            folder.mkdir(mode=0o700, exist_ok=True)
            if not stat.S_ISDIR(folder.lstat().st_mode):
                raise NotADirectoryError(f"{folder} is a link")
            folder.chmod(0o700)
        except OSError as error:
            raise storage_error("make", folder, error) from error
        return folder

    def remove(self, update_id: str) -> None:
        """Removes the folder with all that is in it; nothing happens when there is none.

        Raises:
            StorageError: something of it stays.
        """
        folder = self.folder(update_id)
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
                self.remove(name)
                removed.append(name)
        return tuple(removed)


def looks_like_an_id(name: str) -> bool:
    """``{YYYYmmddHHMMSS}-{8 hex digits}``."""
    stamp, dash, token = name.partition("-")
    return bool(
        dash and len(stamp) == 14 and stamp.isascii() and stamp.isdigit()
        and len(token) == 8 and all(c in "0123456789abcdef" for c in token)
    )


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
