"""Looks for line ends in a file, in pieces of bounded size; everything blocks."""

from __future__ import annotations

import os
import zlib

CHUNK = 1024 * 1024


def head_sum(fd: int, begin: int, length: int) -> int:
    """CRC-32 of the first MiB at most of that part: enough to tell one text from another."""
    return zlib.crc32(os.pread(fd, min(length, CHUNK), begin))


def first_line_end(fd: int, begin: int, end: int) -> int:
    """The offset behind the first newline in [begin, end), or -1."""
    at = begin
    while at < end:
        data = os.pread(fd, min(CHUNK, end - at), at)
        if not data:
            return -1
        found = data.find(b"\n")
        if found >= 0:
            return at + found + 1
        at += len(data)
    return -1


def last_line_end(fd: int, begin: int, end: int) -> int:
    """The offset behind the last newline in [begin, end), or -1."""
    at = end
    while at > begin:
        length = min(CHUNK, at - begin)
        found = os.pread(fd, length, at - length).rfind(b"\n")
        if found >= 0:
            return at - length + found + 1
        at -= length
    return -1


def count_lines(fd: int, begin: int, end: int) -> int:
    """Newlines in [begin, end)."""
    at, count = begin, 0
    while at < end:
        data = os.pread(fd, min(CHUNK, end - at), at)
        if not data:
            break
        count += data.count(b"\n")
        at += len(data)
    return count
