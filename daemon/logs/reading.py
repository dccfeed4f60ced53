"""Lines of a log, from its end or from a position on; blocking, bounded in memory."""

from __future__ import annotations

import gzip
import os
import zlib
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from daemon.logs.layout import opened

CHUNK = 256 * 1024
LINE_MAX = 64 * 1024  # bytes of a line that are shown
TEXT_MAX = 8 * 1024 * 1024  # bytes of one answer
CUT = b" [cut]"


def shown(line: bytes) -> bytes:
    """A line as it is shown: of bounded length."""
    return line if len(line) <= LINE_MAX else line[:LINE_MAX] + CUT


class Wanted:
    """Collects the last lines that hold a text, newest first.

    Args:
        lines: how many, at most.
        grep: what they must hold; empty for any.
    """

    def __init__(self, lines: int, grep: bytes) -> None:
        self._most = lines
        self.grep = grep
        self._bytes = 0
        self._found: list[bytes] = []

    @property
    def full(self) -> bool:
        """Whether nothing more is wanted."""
        return len(self._found) >= self._most or self._bytes >= TEXT_MAX

    def take(self, line: bytes) -> None:
        """The next older line."""
        if self.grep in line and not self.full:
            line = shown(line)
            self._found.append(line)
            self._bytes += len(line) + 1

    def lines(self) -> tuple[bytes, ...]:
        """What was found, oldest first."""
        return tuple(reversed(self._found))


def take_backwards(fd: int, begin: int, end: int, wanted: Wanted) -> None:
    """Hands the lines of [begin, end) over, the last first; a text without its newline counts as a line."""
    at = end
    rest = b""
    first = True
    while at > begin and not wanted.full:
        length = min(CHUNK, at - begin)
        at -= length
        data = os.pread(fd, length, at) + rest
        if first and data.endswith(b"\n"):
            data = data[:-1]
        first = False
        head, *lines = data.split(b"\n")
        for line in reversed(lines):
            wanted.take(line)
        # A line longer than what is shown: its end is not kept, or a file without newlines would fill memory.
        rest = head if len(head) <= 2 * LINE_MAX else head[: LINE_MAX + 1]
    if at <= begin and not first and not wanted.full:
        wanted.take(rest)


def take_compressed(path: Path, wanted: Wanted, most: int) -> None:
    """Likewise, of a gzip file, which can only be read forwards.

    Raises:
        OSError: it cannot be read; what could be is handed over.
    """
    kept: deque[bytes] = deque(maxlen=most)
    size = 0
    try:
        for line in compressed_lines(path):
            if wanted.grep in line:
                line = shown(line)
                if len(kept) == most:
                    size -= len(kept[0])
                kept.append(line)
                size += len(line)
                while size > TEXT_MAX:
                    size -= len(kept.popleft())
    finally:
        for line in reversed(kept):
            wanted.take(line)


def compressed_lines(path: Path) -> Iterator[bytes]:
    """The lines of a gzip file.

    Raises:
        OSError: it cannot be read, or is damaged.
    """
    rest = b""
    with opened(path) as fd, os.fdopen(os.dup(fd), "rb") as file, gzip.open(file) as text:
        try:
            while data := text.read(CHUNK):
                *lines, rest = (rest + data).split(b"\n")
                yield from lines
                if len(rest) > 2 * LINE_MAX:
                    rest = rest[: LINE_MAX + 1]
        except (EOFError, zlib.error) as error:
            raise OSError(0, f"{path.name} is damaged: {error}") from error
    if rest:
        yield rest


def read_compressed(path: Path, begin: int, length: int) -> bytes:
    """A part of a gzip file's text.

    Raises:
        OSError: it cannot be read, or is damaged.
    """
    with opened(path) as fd, os.fdopen(os.dup(fd), "rb") as file, gzip.open(file) as text:
        try:
            text.seek(begin)
            return text.read(length)
        except (EOFError, zlib.error) as error:
            raise OSError(0, f"{path.name} is damaged: {error}") from error
