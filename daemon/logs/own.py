"""A program's own log file: rotated by its only writer, so a rename loses nothing."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from twisted.logger import Logger

from daemon import faults
from daemon.aio.logsink import open_log_stream
from daemon.aio.reactor import ThreadReactor
from daemon.aio.threads import Threads
from daemon.errors import StorageError
from daemon.logs.compressing import compress
from daemon.logs.layout import clear_leftovers, make_first, rotated_files

MAX_BYTES = 50 * 2**20
MAX_FILES = 5
RETRY_BYTES = 2**20  # more until a rotation that failed is tried again

Later = Callable[[Callable[[], None]], None]

log = Logger()


class RotatingStream:
    """A binary stream for :class:`daemon.aio.logsink.LogSink`. Lines may come from any thread.

    Whatever the disk refuses, the line in hand is written where it can be, or refused with an OSError, so
    that it is counted. A file that somebody removed is made again; one that cannot be rotated grows on; where
    there is no new file to be had, the old one keeps its name.

    Args:
        path: the file; its folder may hold other files, and is made where only that is missing.
        key: the configuration key that names it, for the message.
        max_bytes: of the live file.
        max_files: rotated files kept.

    Raises:
        StorageError: it cannot be opened.

    Attributes:
        rotations_total: since it was opened.
        failures_total: rotations that the disk refused.
    """

    def __init__(
        self, path: Path, key: str, *, max_bytes: int = MAX_BYTES, max_files: int = MAX_FILES
    ) -> None:
        self.rotations_total = 0
        self.failures_total = 0
        self._path = path
        self._key = key
        self._max_bytes = max_bytes
        self._max_files = max_files
        self._limit = max_bytes
        self._later: Later = lambda work: None
        self._tell: Callable[[str], None] = lambda text: None
        self._told = False
        self._lock = threading.RLock()
        self._stream: BinaryIO = open_log_stream(str(path), key, make_folder=True)

    @property
    def _place(self) -> Path:
        """Where the file really is: of a symbolic link, its target is rotated."""
        return Path(os.path.realpath(self._path))

    def attend(self, later: Later, tell: Callable[[str], None]) -> None:
        """From now on there is somebody to compress, and to tell.

        Args:
            later: runs what takes long on a thread; called from any.
            tell: hears once that rotation fails, until it succeeds; called from any thread, in the middle of
                a line, so it must not log at once.
        """
        self._later, self._tell = later, tell
        if self._left_over():
            later(self.compress)

    def _left_over(self) -> bool:
        """Whether a daemon that died, or had no threads yet, left something plain or half compressed."""
        place = self._place
        try:
            half = any(place.parent.glob(f".{place.name}.*.gz.tmp"))
            return half or any(not each.compressed for each in rotated_files(place.parent, place.name))
        except OSError:
            return True  # compressing says what is wrong

    def write(self, line: bytes) -> int:
        """Appends a line; before one that would exceed the bound the file is rotated.

        Returns:
            bytes taken; a disk that becomes full takes a part.

        Raises:
            OSError: the disk refuses the line.
        """
        with self._lock:
            facts = os.fstat(self._stream.fileno())
            if stat.S_ISREG(facts.st_mode):
                if not facts.st_nlink:  # somebody removed it: nobody would ever read this line there
                    self._make_again()
                elif facts.st_size and facts.st_size + len(line) > self._limit:
                    self._rotate(facts)
            return self._stream.write(line)

    def reopen(self) -> None:
        """Opens the file by its name again: somebody else (logrotate) may have moved it away.

        Raises:
            StorageError: it cannot be opened; the old one stays.
        """
        with self._lock:
            stream = open_log_stream(str(self._path), self._key)
            old, self._stream = self._stream, stream
            self._limit = self._max_bytes
            with suppress(OSError):  # a disk that tells only now what it did not take earlier
                old.close()

    def _make_again(self) -> None:
        try:
            self.reopen()
        except StorageError as error:
            cause = error.__cause__
            raise OSError(cause.errno if isinstance(cause, OSError) else 0, str(error)) from error

    def _rotate(self, facts: os.stat_result) -> None:
        try:
            rotated = self._cut(facts)
        except (OSError, StorageError) as error:
            self.failures_total += 1
            self._limit = facts.st_size + RETRY_BYTES
            if not self._told:
                self._told = True
                self._tell(self._complaint(error))
            return
        self._told = False
        if rotated:
            self.rotations_total += 1
            self._later(self.compress)

    def _cut(self, facts: os.stat_result) -> bool:
        """A new file in the place of the old one; whether the old one became a rotated one."""
        place = self._place
        try:
            there = place.stat()
        except FileNotFoundError:
            there = None
        if there is None or (there.st_dev, there.st_ino) != (facts.st_dev, facts.st_ino):
            self.reopen()  # somebody else moved it away and did not say so
            return False
        for each in rotated_files(place.parent, place.name)[self._max_files - 1 :]:
            each.path.unlink(missing_ok=True)
        # Not brought to the platter: that may take long, and would spare no line when the host crashes.
        first = make_first(place.parent, place, place.name, durable=False)
        try:
            faults.hit("logs.own")
            self.reopen()
        except (OSError, StorageError):
            if not place.exists():
                first.rename(place)
            raise
        return True

    def _complaint(self, error: OSError | StorageError) -> str:
        cause = error.strerror if isinstance(error, OSError) else error.message
        return (
            f"D1004 {self._key} {self._path} cannot be rotated: {cause}; it grows on, and rotation is tried "
            "again after every MiB; see that its directory can be written and its disk has room"
        )

    def compress(self) -> None:
        """Compresses what is not; blocks, called on a thread, one call after another.

        Raises:
            OSError: the disk refuses; what is not compressed stays as it is.
        """
        place = self._place
        with self._lock:  # a rotation in between would give their names to other files
            clear_leftovers(place.parent, place.name)
        for each in rotated_files(place.parent, place.name):
            if not each.compressed and each.inode != self._inode():
                made = compress(each.path, each.inode)
                if made is not None:
                    self._replace(place, each.inode, made)

    def _inode(self) -> int:
        """Of the file lines go to. It has a rotated one's name when no new one was to be had."""
        with self._lock:
            return os.fstat(self._stream.fileno()).st_ino

    def _replace(self, place: Path, inode: int, made: Path) -> None:
        """The compressed file in the place of the plain one, which may have moved up meanwhile."""
        with self._lock:
            for each in rotated_files(place.parent, place.name):
                if each.inode == inode and not each.compressed and inode != self._inode():
                    os.utime(made, (each.modified_at, each.modified_at))
                    made.rename(each.path.with_name(each.path.name + ".gz"))
                    each.path.unlink()
                    return
            made.unlink(missing_ok=True)  # a bound has taken it

    def fileno(self) -> int:
        """The descriptor of the live file."""
        return self._stream.fileno()

    def isatty(self) -> bool:
        """A file is no terminal."""
        return False

    def close(self) -> None:
        """Closes it."""
        with self._lock, suppress(OSError):
            self._stream.close()


def attend(stream: RotatingStream, reactor: ThreadReactor, threads: Threads) -> None:
    """From now on what was rotated is compressed on a thread, and a rotation that fails is logged."""

    def compress(work: Callable[[], None]) -> None:
        done = threads.run("log-gzip", 0, work)
        done.addErrback(lambda failure: log.warn(
            "the program's own rotated log stays uncompressed: {error}", error=failure.getErrorMessage()
        ))

    # Both come from the middle of a line, of whatever thread: a turn later.
    stream.attend(
        lambda work: reactor.callFromThread(compress, work),
        lambda text: reactor.callFromThread(lambda: log.warn("{text}", text=text, error_code="D1004")),
    )
