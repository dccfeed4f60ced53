"""The daemon's own log file: rotated by its only writer, so a rename loses nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from daemon.aio.logsink import open_log_stream
from daemon.logs.compressing import compress
from daemon.logs.layout import clear_leftovers, make_first, rotated_files

MAX_BYTES = 50 * 2**20
MAX_FILES = 5
RETRY_BYTES = 2**20  # more until a rotation that failed is tried again

Later = Callable[[Callable[[], None]], None]


class RotatingStream:
    """A binary stream for :class:`daemon.aio.logsink.LogSink`.

    Args:
        path: the file; its folder may hold other files.
        key: the configuration key that names it, for the message.
        max_bytes: of the live file.
        max_files: rotated files kept.

    Raises:
        StorageError: it cannot be opened.

    Attributes:
        later: runs what takes long elsewhere; until the threads are there nothing is compressed.
        rotations_total: since it was opened.
        failures_total: rotations that the disk refused; the file grows on.
    """

    def __init__(
        self, path: Path, key: str, *, max_bytes: int = MAX_BYTES, max_files: int = MAX_FILES
    ) -> None:
        self.later: Later | None = None
        self.rotations_total = 0
        self.failures_total = 0
        self._path = path
        self._key = key
        self._max_bytes = max_bytes
        self._max_files = max_files
        self._stream: BinaryIO = open_log_stream(str(path), key)
        self._size = os.fstat(self._stream.fileno()).st_size
        self._limit = max_bytes

    def write(self, line: bytes) -> int:
        """Appends a line; before one that would exceed the bound the file is rotated.

        Raises:
            OSError: the disk refuses the line.
        """
        if self._size and self._size + len(line) > self._limit:
            self._rotate()
        written = self._stream.write(line)
        self._size += len(line)
        return written

    def reopen(self) -> None:
        """Opens the file by its name again: somebody else (logrotate) may have moved it away.

        Raises:
            StorageError: it cannot be opened; the old one stays.
        """
        stream = open_log_stream(str(self._path), self._key)
        old, self._stream = self._stream, stream
        old.close()
        self._size = os.fstat(stream.fileno()).st_size
        self._limit = self._max_bytes

    def _rotate(self) -> None:
        try:
            files = rotated_files(self._path.parent, self._path.name)
            for each in files[self._max_files - 1 :]:
                each.path.unlink(missing_ok=True)
            make_first(self._path.parent, self._path, self._path.name)
            self.reopen()
        except Exception:  # noqa: BLE001 - counted; the log cannot log its own trouble, and must go on
            self.failures_total += 1
            self._limit = self._size + RETRY_BYTES
            return
        self.rotations_total += 1
        if self.later is not None:
            self.later(self.compress)

    def compress(self) -> None:
        """Compresses what is not; blocks, called on a thread.

        Raises:
            OSError: the disk refuses.
        """
        clear_leftovers(self._path.parent, self._path.name)
        for each in rotated_files(self._path.parent, self._path.name):
            if not each.compressed:
                made = compress(each.path, each.inode)
                if made is not None:
                    os.utime(made, (each.modified_at, each.modified_at))
                    made.rename(each.path.with_name(each.path.name + ".gz"))
                    each.path.unlink()

    def fileno(self) -> int:
        """The descriptor of the live file."""
        return self._stream.fileno()

    def isatty(self) -> bool:
        """A file is no terminal."""
        return False

    def close(self) -> None:
        """Closes it."""
        with suppress(OSError):
            self._stream.close()
