"""Numbered lines, and what all files of a log hold of them."""

from __future__ import annotations

import gzip
from pathlib import Path

from daemon.config.schema import LogsConfig
from daemon.logs.agent_log import AgentLog
from daemon.logs.layout import rotated_files

LIMITS = LogsConfig(max_size=10_000, max_files=1000, compress=False, max_total=10**9)


def lines(begin: int, end: int) -> bytes:
    return b"".join(b"line %d of the log\n" % n for n in range(begin, end))


def append(path: Path, data: bytes) -> None:
    with open(path, "ab", buffering=0) as file:
        file.write(data)


def rotated_text(folder: Path) -> bytes:
    """The text of the rotated files, oldest first; each must hold whole lines."""
    text = b""
    for each in reversed(rotated_files(folder)):
        data = each.path.read_bytes()
        piece = gzip.decompress(data) if each.compressed else data
        assert piece.endswith(b"\n"), each.path
        text += piece
    return text


def whole_text(log: AgentLog) -> bytes:
    """Everything the log serves."""
    found = log.tail(10**6, b"")
    return b"".join(line + b"\n" for line in found)
