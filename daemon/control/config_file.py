"""The configuration file as it lies on the disk: what leads to it, what it says, a copy of the last good one.

Everything here blocks, and the file may be on a mount that does not answer: called on a thread only.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import signal
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from daemon.config.source import MAX_FILE_BYTES
from daemon.durable.atomic import write_atomic

LANE = "config"
READ_DEADLINE_S = 10.0
LINKS_MAX = 40  # path_resolution(7)


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """What the content of a path depends on.

    Attributes:
        names: directories, and which names in each: the symbolic links on the way, and the file at the end or
            the first part that does not exist.
        above: the other directories the way leads through; only their own removal or renaming matters.
    """

    names: Mapping[Path, frozenset[str]]
    above: frozenset[Path]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """One look at the file.

    Attributes:
        places: what led to it.
        digest: SHA-256 of its bytes, hex; empty when they were not read.
        error: why not, for people; empty otherwise.
        missing: there is no such file.
        busy: somebody has it open for writing, so that it may be half of what it is going to be.
    """

    places: Places
    digest: str = ""
    error: str = ""
    missing: bool = False
    busy: bool = False


def look_at(path: Path) -> Sight:
    """Looks once."""
    places = places_of(path)
    try:
        with _opened(path) as fd, _no_writer(fd) as free:
            if not free:
                return Sight(places=places, busy=True)
            return Sight(places=places, digest=hashlib.sha256(_all_of(fd)).hexdigest())
    except OSError as error:
        gone = error.errno in (errno.ENOENT, errno.ENOTDIR)
        return Sight(places=places, error=error.strerror or str(error), missing=gone)


def keep_copy(path: Path, digest: str, keep: Path) -> bool:
    """Copies the file, unless it is no longer the one with that digest.

    Raises:
        OSError: it cannot be read.
        StorageError: the copy cannot be written.
    """
    with _opened(path) as fd:
        data = _all_of(fd)
    if hashlib.sha256(data).hexdigest() != digest:
        return False  # a newer one, which a reload of its own looks at
    write_atomic(keep, data, mode=0o600)
    return True


def places_of(path: Path) -> Places:
    """Follows ``path``, which is absolute, link by link as path_resolution(7) does."""
    names: dict[Path, set[str]] = {}
    above: set[Path] = set()
    at = Path("/")
    parts = list(path.parts[1:])
    links = 0
    while parts:
        name = parts.pop(0)
        if name == "..":
            at = at.parent
            continue
        try:
            goal = (at / name).readlink()
        except OSError as error:
            if error.errno == errno.EINVAL and parts:  # no link: a directory on the way
                at = at / name
                above.add(at)
                continue
            if error.errno == errno.ENOTDIR:  # a file stands where a directory is wanted
                at, name = at.parent, at.name
            names.setdefault(at, set()).add(name)
            break
        names.setdefault(at, set()).add(name)
        links += 1
        if links > LINKS_MAX:
            break
        if goal.is_absolute():
            at = Path("/")
        parts[:0] = goal.parts[1:] if goal.is_absolute() else goal.parts
    return Places(
        names={place: frozenset(found) for place, found in names.items()},
        above=frozenset(above - names.keys()),
    )


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """A descriptor of a regular file."""
    # O_NONBLOCK: a FIFO at this path would hold the thread, and with it every later reload, for ever.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        yield fd
    finally:
        os.close(fd)


def _all_of(fd: int) -> bytes:
    """The bytes, one more than permitted at most: enough to tell that there are too many."""
    parts: list[bytes] = []
    left = MAX_FILE_BYTES + 1
    while left and (part := os.read(fd, left)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


@contextmanager
def _no_writer(fd: int) -> Iterator[bool]:
    """Whether nobody has the file open for writing; as long as the context lasts, nobody gets it.

    By a read lease (fcntl(2), F_SETLEASE): whoever opens the file to write waits the few milliseconds it is
    held. Who neither owns the file nor has CAP_LEASE cannot ask, and some filesystems cannot be asked: then
    the answer is yes, and the validation of the file alone stands against a half-written one.
    """
    try:
        # The kernel tells the holder that a writer waits. SIGIO would kill us; SIGURG is ignored by default.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        yield error.errno != errno.EAGAIN
        return
    try:
        yield True
    finally:
        with suppress(OSError):  # closing the descriptor gives it back, too
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
