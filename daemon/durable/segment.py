"""One file of a journal: its name, its lines and how they are checked.

A line on disk is eight hexadecimal digits (CRC-32 of the payload), a space, the payload and a newline,
so a file can be read with ``cut -c10-``. Whatever fails the check (a torn write that could not be cut,
blocks of zeros after a power failure, an operator's edit) is skipped, never misread.
"""

from __future__ import annotations

import os
import re
import stat
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MAX_LINE_BYTES = 256 * 1024
"""The longest payload; a longer run without a newline is junk and is never held in memory."""

OVERHEAD_BYTES = 10  # checksum, space, newline
_CHUNK_BYTES = 64 * 1024
_DIGITS = 20
_NAME = re.compile(r"([0-9]{20})\.log")


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A segment file.

    Attributes:
        first: the sequence number of its first line, which is its name.
        path: the file.
        regular: False for a directory, link or device of that name; it is passed over.
    """

    first: int
    path: Path
    regular: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """What reading a whole segment told.

    Attributes:
        lines: terminated lines, corrupt ones among them.
        corrupt: terminated lines that fail the check.
        good_bytes: the offset behind the last terminated line.
        size_bytes: the size of the file; more than ``good_bytes`` means a torn tail.
    """

    lines: int
    corrupt: int
    good_bytes: int
    size_bytes: int


def segment_name(first: int) -> str:
    """The file name of the segment that begins with line number ``first``; names sort by number."""
    return f"{first:0{_DIGITS}d}.log"


def list_segments(directory: Path) -> tuple[Segment, ...]:
    """The segments of a directory, oldest first; none when it does not exist.

    Raises:
        OSError: the directory cannot be read.
    """
    found = []
    try:
        for entry in directory.iterdir():
            match = _NAME.fullmatch(entry.name)
            if match is None:
                continue
            try:
                regular = stat.S_ISREG(entry.lstat().st_mode)
            except FileNotFoundError:
                continue  # deleted by the bound while we look
            found.append(Segment(first=int(match[1]), path=entry, regular=regular))
    except FileNotFoundError:
        return ()
    return tuple(sorted(found, key=lambda segment: segment.first))


def encode_line(payload: bytes) -> bytes:
    """The line as it stands on disk."""
    return b"%08x %b\n" % (zlib.crc32(payload), payload)


def decode_line(raw: bytes) -> bytes | None:
    """The payload of a line without its newline, or None when the check fails."""
    payload = raw[9:]
    return payload if raw[:9] == b"%08x " % zlib.crc32(payload) else None


def scan_segment(path: Path) -> Scan:
    """Reads a segment from end to end, in bounded memory.

    Raises:
        OSError: it cannot be read.
    """
    lines = corrupt = good = 0
    fd = _open(path)
    try:
        for end, raw in _raw_lines(fd, 0):
            lines += 1
            good = end
            if raw is None or decode_line(raw) is None:
                corrupt += 1
        size = os.fstat(fd).st_size
    finally:
        os.close(fd)
    return Scan(lines=lines, corrupt=corrupt, good_bytes=good, size_bytes=size)


def read_segment(path: Path, offset: int) -> Iterator[tuple[int, bytes]]:
    """The good lines from a byte offset on, each with the offset behind it.

    An unterminated tail is not given: its writer may still be at it. A file that is gone has no lines.

    Raises:
        OSError: it cannot be read.
    """
    try:
        fd = _open(path)
    except FileNotFoundError:
        return
    try:
        for end, raw in _raw_lines(fd, offset):
            payload = None if raw is None else decode_line(raw)
            if payload is not None:
                yield end, payload
    finally:
        os.close(fd)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


def _raw_lines(fd: int, offset: int) -> Iterator[tuple[int, bytes | None]]:
    """Terminated lines with the offset behind each; None stands for one that is too long to be ours."""
    base = offset  # where ``carry`` begins in the file
    carry = b""
    skipping = False
    while chunk := os.pread(fd, _CHUNK_BYTES, base + len(carry)):
        data = carry + chunk
        start = 0
        while (end := data.find(b"\n", start)) >= 0:
            yield base + end + 1, None if skipping else data[start:end]
            skipping = False
            start = end + 1
        carry = data[start:]
        base += start
        if skipping or len(carry) > MAX_LINE_BYTES + OVERHEAD_BYTES:
            skipping = True
            base += len(carry)
            carry = b""
