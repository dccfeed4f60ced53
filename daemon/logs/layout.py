"""The files of one agent's log: ``agent.log`` lives, ``agent.log.1`` is the newest rotated one."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from daemon import faults
from daemon.durable.atomic import fsync_directory

LIVE = "agent.log"
RECORD = ".rotation"
COPY = ".agent.log.copy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotated:
    """A rotated file.

    Attributes:
        number: 1 is the newest.
        size: bytes on disk.
    """

    number: int
    path: Path
    compressed: bool
    size: int
    inode: int
    modified_at: float


@contextmanager
def opened(path: Path | str, flags: int = os.O_RDONLY, mode: int = 0o640) -> Iterator[int]:
    """A descriptor of a plain file, never through a link, never waiting for a FIFO.

    Raises:
        OSError: it cannot be opened, or is no plain file.
    """
    fd = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, mode)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(0, f"{path} is no plain file")
        yield fd
    finally:
        os.close(fd)


def rotated_files(folder: Path, live: str = LIVE) -> list[Rotated]:
    """The rotated files, the newest first. One that is there plain and compressed is listed compressed.

    Raises:
        OSError: the folder cannot be read.
    """
    pattern = re.compile(rf"{re.escape(live)}\.([1-9][0-9]{{0,8}})(\.gz)?")
    found: dict[int, Rotated] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            match = pattern.fullmatch(entry.name)
            if match is None or not entry.is_file(follow_symlinks=False):
                continue
            number, compressed = int(match[1]), match[2] is not None
            if number in found and found[number].compressed:
                continue
            facts = entry.stat(follow_symlinks=False)
            found[number] = Rotated(
                number=number, path=Path(entry.path), compressed=compressed, size=facts.st_size,
                inode=facts.st_ino, modified_at=facts.st_mtime,
            )
    return [found[number] for number in sorted(found)]


def clear_leftovers(folder: Path, live: str = LIVE) -> None:
    """Removes half-compressed files, and plain ones whose compressed form is whole. Only when nobody
    compresses.

    Raises:
        OSError: one cannot be removed.
    """
    for path in list(folder.iterdir()):
        if re.fullmatch(rf"\.{re.escape(live)}\.[0-9]+\.gz\.tmp", path.name):
            path.unlink()
    for each in rotated_files(folder, live):
        if each.compressed:
            each.path.with_suffix("").unlink(missing_ok=True)


def make_first(folder: Path, copy: Path, live: str = LIVE, *, durable: bool = True) -> Path:
    """Makes a finished copy the newest rotated file, the others move up by one.

    Only the files without a gap before them move, so that it can be done again after a crash in its middle.

    Args:
        durable: bring it to the platter, which may take long.

    Raises:
        OSError: a file cannot be renamed.
    """
    by_number = {each.number: each for each in rotated_files(folder, live)}
    gap = 1
    while gap in by_number:
        gap += 1
    for number in range(gap - 1, 0, -1):
        each = by_number[number]
        suffix = ".gz" if each.compressed else ""
        each.path.rename(folder / f"{live}.{number + 1}{suffix}")
        faults.hit("logs.shift")
    first = folder / f"{live}.1"
    copy.rename(first)
    if durable:
        fsync_directory(folder)
    return first
