"""A bounded append journal: lines over a row of segment files.

An append is one ``write`` to an ``O_APPEND`` descriptor, so every appended line survives a ``kill -9`` of
the process; :meth:`Journal.sync` makes it survive a power failure too. The oldest segment goes when the
bound is reached. One thread appends; ``sync`` and the readers may run on others at the same time, for
they share nothing with it but the files.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from daemon import faults
from daemon.durable.atomic import fsync_directory
from daemon.durable.explain import DISK_FULL, storage_error
from daemon.durable.segment import (
    MAX_LINE_BYTES,
    OVERHEAD_BYTES,
    Segment,
    encode_line,
    list_segments,
    read_segment,
    scan_segment,
    segment_name,
)
from daemon.errors import StorageError

_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True, order=True, kw_only=True)
class Position:
    """A place in the journal: the segment's first sequence number and a byte offset in it."""

    segment: int = 0
    offset: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A line read.

    Attributes:
        line: the payload.
        end: the position behind it; reading from there gives the next line.
    """

    line: bytes
    end: Position


class Journal:
    """Opens (and mends) the journal of a directory, which is made when it is missing.

    A torn last line is cut. A disk that is full at this moment is no fault: the appends fail until
    there is room.

    Args:
        directory: holds nothing but this journal's segments.
        segment_bytes: a segment is closed before it would grow past this; also bounds a line.
        segments: how many segments are kept, at least 2.

    Raises:
        StorageError: the directory or its newest segment cannot be used.

    Attributes:
        corrupt_total: unreadable lines found at opening, a torn last line among them.
        dropped_total: lines lost by the bound since opening.
    """

    def __init__(self, directory: Path, *, segment_bytes: int = 1024 * 1024, segments: int = 8) -> None:
        if segments < 2 or segment_bytes <= OVERHEAD_BYTES:
            raise ValueError("a journal needs at least 2 segments with room for a line")
        self.corrupt_total = 0
        self.dropped_total = 0
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._segments = segments
        self._fd: int | None = None
        self._first = 0  # of the segment appended to
        self._next = 1  # sequence number of the next line
        self._size = 0
        self._torn = False  # the file ends within a line that could not be cut
        self._gone = False  # somebody deleted the segment we append to
        self._closed = False
        self._lock = threading.Lock()  # guards the next two
        self._dirty: set[Path] = set()
        self._dirty_directory = False
        try:
            self._open()
        except OSError as error:
            raise storage_error("open the journal", directory, error) from error

    @property
    def directory(self) -> Path:
        """Where the segments are."""
        return self._directory

    @property
    def dirty(self) -> bool:
        """Whether there is something to sync."""
        return bool(self._dirty)

    @property
    def max_line_bytes(self) -> int:
        """The longest line that can be appended."""
        return min(MAX_LINE_BYTES, self._segment_bytes - OVERHEAD_BYTES)

    def _open(self) -> None:
        found = list_segments(self._directory)
        usable = [segment for segment in found if segment.regular]
        self._next = found[-1].first + 1 if found else 1
        for segment in usable:
            scan = scan_segment(segment.path)
            torn = scan.size_bytes > scan.good_bytes
            self.corrupt_total += scan.corrupt + torn
            if segment is usable[-1]:
                self._fd = os.open(segment.path, _FLAGS)
                if torn:
                    os.ftruncate(self._fd, scan.good_bytes)
                self._first = segment.first
                self._size = scan.good_bytes
                self._next = max(self._next, segment.first + scan.lines)
        if self._fd is None:
            try:
                self._start_segment()
            except OSError as error:
                if error.errno not in DISK_FULL:
                    raise
        else:
            self._prune(self._segments)

    def append(self, line: bytes) -> None:
        """Adds a line; when this returns, a ``kill -9`` cannot lose it. Never waits for the disk's platter.

        Args:
            line: any bytes but a newline, ``max_line_bytes`` at most.

        Raises:
            ValueError: the line is not one line, or too long.
            StorageError: the disk refuses, and the line is not in the journal; later appends try again.
        """
        if b"\n" in line or len(line) > self.max_line_bytes:
            raise ValueError(f"not a line of at most {self.max_line_bytes} bytes")
        if self._closed:
            raise StorageError(f"the journal {self._directory} is closed", errno=0, path=str(self._directory))
        record = encode_line(line)
        try:
            fd = self._fd
            if fd is None or self._gone or (self._size and self._size + len(record) > self._segment_bytes):
                faults.hit("journal.rotate")
                fd = self._start_segment()
            faults.hit("journal.append")
            self._write(fd, record)
        except OSError as error:
            raise storage_error("append to the journal", self._directory, error) from error

    def _write(self, fd: int, record: bytes) -> None:
        # A torn part that could not be cut ends here: with a newline it is one corrupt line.
        data = b"\n" + record if self._torn else record
        written = os.write(fd, data)
        try:
            # A short write means that the disk is full or a limit is reached; asking again tells which.
            while written < len(data):
                written += os.write(fd, data[written:])
        except OSError:
            try:
                os.ftruncate(fd, self._size)
            except OSError:
                self._size += written
                self._torn = True
            raise
        self._size += len(data)
        self._next += 1 + self._torn
        self._torn = False
        with self._lock:
            self._dirty.add(self._directory / segment_name(self._first))

    def _start_segment(self) -> int:
        """Makes the next segment the one appended to; room for it is made first, so the bound holds."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._prune(self._segments - 1)
        first = max(self._next, self._first + 1)
        fd = os.open(self._directory / segment_name(first), _FLAGS | os.O_CREAT | os.O_EXCL, 0o600)
        if self._fd is not None:
            os.close(self._fd)
        self._fd = fd
        self._first = self._next = first
        self._size = 0
        self._torn = self._gone = False
        with self._lock:
            self._dirty_directory = True
        return fd

    def _prune(self, keep: int) -> None:
        found = [segment for segment in list_segments(self._directory) if segment.regular]
        while len(found) > keep:
            oldest = found.pop(0)
            oldest.path.unlink(missing_ok=True)
            end = found[0].first if found else self._next
            self.dropped_total += max(0, end - oldest.first)

    def sync(self) -> None:
        """Makes everything appended so far survive a power failure. Blocks: call it off the reactor.

        Raises:
            StorageError: the disk refuses; the journal stays dirty.
        """
        with self._lock:
            dirty, self._dirty = self._dirty, set()
            directory, self._dirty_directory = self._dirty_directory, False
        try:
            faults.hit("journal.sync")
            for path in sorted(dirty):
                self._sync_segment(path)
            if directory:
                fsync_directory(self._directory)
        except OSError as error:
            with self._lock:
                self._dirty |= dirty
                self._dirty_directory |= directory
            raise storage_error("sync the journal", self._directory, error) from error

    def _sync_segment(self, path: Path) -> None:
        # By name and not through the writer's descriptor: that one may be closed by a rotation meanwhile.
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            # The bound took it, or somebody deleted it: then the next append starts a new segment.
            self._gone = self._gone or path.name == segment_name(self._first)
            return
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def read_from(self, position: Position | None = None) -> Iterator[Entry]:
        """The good lines from a position on (None: the oldest), up to the newest at the time of reading.

        Appends may go on meanwhile. Where the position's segment is gone, reading goes on with the
        oldest one after it. Blocks: iterate it off the reactor.

        Raises:
            StorageError: a segment cannot be read.
        """
        at = position or Position()
        try:
            while True:
                # Listed before reading: an older segment of this list has got its last line already.
                found = [segment for segment in self._regular() if segment.first >= at.segment]
                if not found:
                    return
                current = found[0]
                if current.first != at.segment:
                    at = Position(segment=current.first)
                for end, line in read_segment(current.path, at.offset):
                    at = Position(segment=current.first, offset=end)
                    yield Entry(line=line, end=at)
                if len(found) > 1:
                    at = Position(segment=found[1].first)
                elif self._regular()[-1:] == (current,):
                    return
        except OSError as error:
            raise storage_error("read the journal", self._directory, error) from error

    def starts(self) -> tuple[Position, ...]:
        """Where each segment begins, oldest first, for a reader that looks for a place.

        Raises:
            StorageError: the directory cannot be read.
        """
        try:
            return tuple(Position(segment=segment.first) for segment in self._regular())
        except OSError as error:
            raise storage_error("read the journal", self._directory, error) from error

    def tail(self, count: int) -> tuple[bytes, ...]:
        """The newest ``count`` good lines, oldest first.

        Raises:
            StorageError: a segment cannot be read.
        """
        lines: deque[bytes] = deque()
        try:
            for segment in reversed(self._regular()):
                kept = deque((line for _end, line in read_segment(segment.path, 0)), maxlen=count)
                lines.extendleft(islice(reversed(kept), count - len(lines)))
                if len(lines) >= count:
                    break
        except OSError as error:
            raise storage_error("read the journal", self._directory, error) from error
        return tuple(lines)

    def _regular(self) -> tuple[Segment, ...]:
        return tuple(segment for segment in list_segments(self._directory) if segment.regular)

    def close(self) -> None:
        """Gives the descriptor back; nothing can be appended any more, reading still works."""
        self._closed = True
        fd, self._fd = self._fd, None
        if fd is not None:
            with suppress(OSError):
                os.close(fd)
