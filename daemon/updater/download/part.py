"""A package on its way: ``package.part``, and beside it ``package.etag`` by which a later daemon goes on.

Everything here blocks: on a lane. What was received may be continued when it belongs to the same URL, the
server can tell that it still has the same thing (a validator), and the host has not booted since: what a
power failure leaves of a file that was not synced is anybody's guess. A daemon that was killed loses nothing.
"""

from __future__ import annotations

import hashlib
import os
import stat
from contextlib import suppress
from pathlib import Path

import msgspec

from daemon import faults
from daemon.durable.atomic import fsync_directory, read_bounded, write_atomic
from daemon.durable.explain import storage_error
from daemon.errors import StorageError

PACKAGE = "package"
PART = "package.part"
ETAG = "package.etag"
ETAG_MAX = 16 * 1024  # bytes of the file; a validator is one line of a header
SYNC_BYTES = 16 * 2**20  # written between two syncs: one of half a gigabyte would hold up everybody's


class _Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What ``package.etag`` holds: which thing the part is of."""

    url_sha256: str
    boot_id: str
    validator: str
    total: int | None


class PartFile:
    """One download's file. The reactor may read the attributes while no call is under way.

    Args:
        folder: the staging folder of the update, 0700; it must exist.
        url: what is fetched.
        boot_id: of this boot.

    Attributes:
        size: bytes that are there.
        validator: by which the server knows what they are of; empty: they cannot be continued.
        total: bytes of all of it; None for not known.
        complete: the whole package is there already, under its own name.
    """

    def __init__(self, folder: Path, url: str, boot_id: str) -> None:
        self.size = 0
        self.validator = ""
        self.total: int | None = None
        self.complete = False
        self._folder = folder
        self._path = folder / PART
        self._url_sha256 = hashlib.sha256(url.encode()).hexdigest()
        self._boot_id = boot_id
        self._fd = -1
        self._unsynced = 0

    def open(self) -> None:
        """Finds what an earlier attempt left.

        Raises:
            StorageError: D1004.
        """
        package = self._folder / PACKAGE
        try:
            with suppress(FileNotFoundError):
                found = package.lstat()
                self.complete, self.size = stat.S_ISREG(found.st_mode), found.st_size
            if self.complete:
                return
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            self._fd = os.open(self._path, flags, 0o600)
            found = os.fstat(self._fd)
        except OSError as error:
            raise storage_error("open", self._path, error) from error
        if not stat.S_ISREG(found.st_mode):
            raise StorageError(f"cannot open {self._path}: it is not a regular file; move it away",
                               errno=0, path=str(self._path))
        self.size = found.st_size
        kept = self._kept()
        if kept is None or not self.size or (kept.total is not None and self.size > kept.total):
            self.restart("", None)
        else:
            self.validator, self.total = kept.validator, kept.total

    def restart(self, validator: str, total: int | None) -> None:
        """Begins with nothing.

        Args:
            validator: of what will be written; empty for none.
            total: its bytes, where they are known.

        Raises:
            StorageError: D1004.
        """
        etag = self._folder / ETAG
        try:
            # In this order: bytes of one thing must never stand beside the validator of another.
            os.ftruncate(self._fd, 0)
            self.size = self._unsynced = 0
            self.validator, self.total = validator, total
            if not validator:
                etag.unlink(missing_ok=True)
        except OSError as error:
            raise storage_error("write", self._path, error) from error
        if validator:
            kept = _Kept(url_sha256=self._url_sha256, boot_id=self._boot_id, validator=validator, total=total)
            write_atomic(etag, msgspec.json.encode(kept), fsync=False)  # it is for this boot alone

    def append(self, piece: bytes) -> None:
        """Writes more.

        Raises:
            StorageError: D1004, the full disk among others; what is there stays.
        """
        try:
            view = memoryview(piece)
            while view:
                faults.hit("download.write")
                wrote = os.pwrite(self._fd, view, self.size)
                self.size += wrote
                self._unsynced += wrote
                view = view[wrote:]
            if self._unsynced >= SYNC_BYTES:
                os.fdatasync(self._fd)
                self._unsynced = 0
        except OSError as error:
            raise storage_error("write", self._path, error) from error

    def finish(self) -> None:
        """It is whole: brings it to the platter and gives it its name.

        Raises:
            StorageError: D1004.
        """
        try:
            faults.hit("download.fsync")
            os.fsync(self._fd)
            faults.hit("download.rename")
            self._path.replace(self._folder / PACKAGE)
            (self._folder / ETAG).unlink(missing_ok=True)
            fsync_directory(self._folder)
        except OSError as error:
            raise storage_error("write", self._folder / PACKAGE, error) from error
        self.complete = True

    def close(self) -> None:
        """Lets go of the file; what is there stays."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def _kept(self) -> _Kept | None:
        """What the part is of; None where it is of something else, or nobody knows."""
        try:
            kept = msgspec.json.decode(read_bounded(self._folder / ETAG, ETAG_MAX), type=_Kept)
        except (FileNotFoundError, msgspec.DecodeError):
            return None
        known = (kept.url_sha256, kept.boot_id) == (self._url_sha256, self._boot_id)
        return kept if known and kept.validator else None
