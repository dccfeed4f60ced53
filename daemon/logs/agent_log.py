"""One agent's log as a whole: rotated, bounded, compressed and read. Everything blocks, on whatever thread.

Positions count the bytes of the log since this daemon began, rotated ones included, so that a reader's
place stays its place whatever is rotated meanwhile.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from daemon import faults
from daemon.config.schema import LogsConfig
from daemon.durable.atomic import fsync_directory
from daemon.logs.holding import NotHeldError
from daemon.logs.layout import LIVE, Rotated, opened, rotated_files
from daemon.logs.reading import (
    CHUNK,
    LINE_MAX,
    Wanted,
    read_compressed,
    take_backwards,
    take_compressed,
)
from daemon.logs.rotation import LogRotation, Outcome

SEGMENTS_KEPT = 64
PATIENCE_S = 5.0  # with another thread's call on the same log


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Which positions a file rotated by this daemon holds."""

    start: int
    end: int
    inode: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One look at the live file.

    Attributes:
        size: bytes, 0 where there is none.
        inode: 0 where there is none.
        truncated: somebody else made it shorter, or put another file in its place, since the look before.
    """

    size: int
    inode: int
    truncated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """What the bounds took, and left.

    Attributes:
        files, bytes: taken.
        plain: rotated files left that are not compressed.
    """

    files: int = 0
    bytes: int = 0
    plain: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What a reader gets.

    Attributes:
        data: whole lines, or an unfinished one that has become too long to wait for.
        position: where to go on.
        lost: bytes that a bound had taken before they were read.
    """

    data: bytes
    position: int
    lost: int = 0


News = Outcome | Look
"""A rotation that is done, or a look that found the file truncated."""

NOTHING_YET = Look(size=0, inode=0)


class AgentLog:
    """The log of one agent.

    Args:
        folder: ``work_dir/logs/{id}``.
        writers: the pids that may write to it now.
    """

    __slots__ = ("_base", "_lock", "_news", "_rotation", "_seen", "_segments", "folder")

    def __init__(self, folder: Path, writers: Callable[[], Sequence[int]]) -> None:
        self.folder = folder
        self._rotation = LogRotation(folder, writers)
        self._base = 0  # the position of the live file's first byte
        self._segments: tuple[Segment, ...] = ()
        self._seen = NOTHING_YET
        self._lock = threading.RLock()
        self._news: list[News] = []

    @property
    def live(self) -> Path:
        """The file agents write to."""
        return self._rotation.live

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One thread at a time; one that hangs in the disk does not hang the others."""
        if not self._lock.acquire(timeout=PATIENCE_S):
            raise OSError(errno.EBUSY, "another call on this log has not come back")
        try:
            yield
        finally:
            self._lock.release()

    @property
    def skip(self) -> int:
        """Bytes at the head of the live file that are in the newest rotated one already."""
        return self._rotation.skip

    def close(self) -> None:
        """Gives descriptors back, unless a call hangs in the disk with them. Never blocks."""
        if self._lock.acquire(blocking=False):
            try:
                self._rotation.close()
            finally:
                self._lock.release()

    def take_news(self) -> list[News]:
        """What happened to the log since this was asked before, each thing once, whichever call it happened
        in: one that nobody waits for any longer, a reader's, or the run that meant it. Never blocks.
        """
        taken = []
        while self._news:
            taken.append(self._news.pop(0))  # one step for the interpreter: an append beside it is not lost
        return taken

    def recover(self) -> Look:
        """Mends what a daemon that died left.

        Returns:
            what is there now.

        Raises:
            OSError: the disk refuses.
        """
        with self._alone():
            if not self.folder.is_dir():
                return NOTHING_YET
            try:
                self._rotation.recover()
            finally:
                self._take(self._rotation.take_finished())
            return self._look()

    # ----------------------------------------------------------------- rotation

    def look(self) -> Look | None:
        """How large the live file is, once a rotation that broke off is mended; None while another call is in
        this log, which may take its time.

        Raises:
            OSError: it cannot be looked at or mended, or the disk refuses to remember that it was truncated.
        """
        if not self._lock.acquire(blocking=False):
            return None
        try:
            return self._look()
        finally:
            self._lock.release()

    def _look(self) -> Look:
        if self._rotation.broken_off:
            try:
                self._rotation.mend()
            finally:
                self._take(self._rotation.take_finished())
        seen = self._seen
        try:
            with opened(f"{self.folder}/{LIVE}") as fd:  # text: making a path costs more than the look
                facts = os.fstat(fd)
                handed = self._rotation.changed_hands(fd)
                # What happened while nobody looked is no news.
                truncated = bool(seen.inode) and (
                    handed or facts.st_ino != seen.inode or facts.st_size < seen.size
                )
                if truncated:
                    self._rotation.forget(fd)
                elif (facts.st_size, facts.st_ino) == (seen.size, seen.inode):
                    return seen
                found = Look(size=facts.st_size, inode=facts.st_ino, truncated=truncated)
        except FileNotFoundError:
            found = Look(size=0, inode=0, truncated=bool(seen.inode))
        self._seen = found
        if found.truncated:
            self._base += seen.size
            self._news.append(found)
            self._seen = replace(found, truncated=False)
        return found

    def rotate(self, limits: LogsConfig) -> Outcome | None:
        """Cuts the live file; None where nothing can be cut yet.

        Raises:
            OSError, NotHeldError: see :meth:`LogRotation.rotate`.
        """
        with self._alone():
            try:
                outcome = self._rotation.rotate(limits.max_size)
            except (OSError, NotHeldError):
                self._take(self._rotation.take_finished())
                raise
            self._take(outcome)
            return outcome

    def _take(self, outcome: Outcome | None) -> None:
        """Positions stay what they are."""
        if outcome is None:
            return
        if outcome.inode:
            self._forget_segment(outcome.inode)  # of a file that was removed: its number is used again
            new = Segment(start=self._base + outcome.begin, end=self._base + outcome.end, inode=outcome.inode)
            self._segments = (*self._segments[-SEGMENTS_KEPT + 1 :], new)
        self._base += outcome.taken
        self._seen = replace(self._seen, size=max(0, self._seen.size - outcome.taken))
        self._news.append(outcome)

    def _forget_segment(self, inode: int) -> None:
        self._segments = tuple(segment for segment in self._segments if segment.inode != inode)

    # ------------------------------------------------------------------- bounds

    def enforce(self, limits: LogsConfig, now_at: float) -> Removed:
        """Removes the oldest rotated files beyond the bounds.

        Raises:
            OSError: one cannot be removed.
        """
        with self._alone():
            if not self.folder.is_dir():
                return Removed()
            files = rotated_files(self.folder)
            total = sum(each.size for each in files) + self._seen.size
            taken = freed = 0
            kept = len(files)
            for each in reversed(files):
                too_old = limits.max_age > 0 and now_at - each.modified_at > limits.max_age
                if kept <= limits.max_files and total <= limits.max_total and not too_old:
                    break
                each.path.unlink(missing_ok=True)
                self._forget_segment(each.inode)
                kept -= 1
                total -= each.size
                taken, freed = taken + 1, freed + each.size
            plain = sum(not each.compressed for each in files[:kept])
            return Removed(files=taken, bytes=freed, plain=plain)

    def uncompressed(self) -> list[Rotated]:
        """The rotated files that are not compressed, the oldest first.

        Raises:
            OSError: the folder cannot be read.
        """
        if not self.folder.is_dir():
            return []
        return [each for each in reversed(rotated_files(self.folder)) if not each.compressed]

    def compressed(self, inode: int, made: Path) -> None:
        """Puts a compressed file in the place of the plain one with that inode, wherever it has moved to.

        Raises:
            OSError: the disk refuses.
        """
        with self._alone():
            for each in rotated_files(self.folder):
                if each.inode == inode and not each.compressed:
                    os.utime(made, (each.modified_at, each.modified_at))  # max_age counts from the rotation
                    new = made.stat().st_ino
                    made.rename(each.path.with_name(each.path.name + ".gz"))
                    fsync_directory(self.folder)
                    faults.hit("logs.compressed")
                    each.path.unlink()
                    self._segments = tuple(
                        replace(s, inode=new) if s.inode == inode else s
                        for s in self._segments if s.inode != new
                    )
                    return
            made.unlink(missing_ok=True)  # a bound has taken it meanwhile

    # ------------------------------------------------------------------ reading

    def tail(self, lines: int, grep: bytes) -> tuple[bytes, ...]:
        """The last lines that hold ``grep``, oldest first, over all files.

        Raises:
            OSError: a file cannot be read.
        """
        with self._alone():
            wanted = Wanted(lines, grep)
            self._look()
            with suppress(FileNotFoundError), opened(self.live) as fd:
                take_backwards(fd, self._rotation.skip, os.fstat(fd).st_size, wanted)
            self._take_rotated(wanted, lines)
            return wanted.lines()

    def _take_rotated(self, wanted: Wanted, lines: int) -> None:
        if not self.folder.is_dir():
            return
        for each in rotated_files(self.folder):
            if wanted.full:
                return
            if each.compressed:
                take_compressed(each.path, wanted, lines)
            else:
                with opened(each.path) as fd:
                    take_backwards(fd, 0, os.fstat(fd).st_size, wanted)

    def begin(self, lines: int, grep: bytes) -> tuple[tuple[bytes, ...], int]:
        """The last whole lines, and the position behind them: where a follower goes on.

        Raises:
            OSError: a file cannot be read.
        """
        with self._alone():
            wanted = Wanted(lines, grep)
            self._look()
            position = self._base + self._rotation.skip
            with suppress(FileNotFoundError), opened(self.live) as fd:
                end = last_whole(fd, self._rotation.skip, os.fstat(fd).st_size)
                take_backwards(fd, self._rotation.skip, end, wanted)
                position = self._base + end
            self._take_rotated(wanted, lines)
            return wanted.lines(), position

    def read(self, position: int, *, impatient: bool = False) -> Piece:
        """What follows a position: whole lines, none when there is nothing new.

        Args:
            position: of an earlier piece.
            impatient: an unfinished line has waited long enough; it is handed over as it is.

        Raises:
            OSError: a file cannot be read.
        """
        with self._alone():
            self._look()
            live = self._base + self._rotation.skip
            if position >= live:
                with suppress(FileNotFoundError), opened(self.live) as fd:
                    begin = position - self._base
                    size = os.fstat(fd).st_size
                    data = os.pread(fd, min(CHUNK, size - begin), begin) if size > begin else b""
                    return _whole_lines(data, position, impatient)
                return Piece(data=b"", position=position)
            for segment in self._segments:
                if segment.start <= position < segment.end:
                    data = self._read_segment(segment, position)
                    if data:
                        last = position + len(data) >= segment.end
                        return _whole_lines(data, position, impatient or last)
            there = {each.inode for each in rotated_files(self.folder)} if self.folder.is_dir() else set()
            following = min(
                (s.start for s in self._segments if s.start > position and s.inode in there), default=live
            )
            return Piece(data=b"", position=following, lost=following - position)

    def _read_segment(self, segment: Segment, position: int) -> bytes:
        for each in rotated_files(self.folder):
            if each.inode == segment.inode:
                begin, length = position - segment.start, min(CHUNK, segment.end - position)
                if each.compressed:
                    return read_compressed(each.path, begin, length)
                with opened(each.path) as fd:
                    return os.pread(fd, length, begin)
        return b""


def _whole_lines(data: bytes, position: int, impatient: bool) -> Piece:
    end = data.rfind(b"\n") + 1
    if not end and (impatient or len(data) > LINE_MAX):
        end = len(data)
    return Piece(data=data[:end], position=position + end)


def last_whole(fd: int, begin: int, end: int) -> int:
    """The offset behind the last newline in [begin, end); ``begin`` where there is none."""
    at = end
    while at > begin:
        length = min(CHUNK, at - begin)
        found = os.pread(fd, length, at - length).rfind(b"\n")
        if found >= 0:
            return at - length + found + 1
        at -= length
    return begin
