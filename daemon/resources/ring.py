"""A history: a file of fixed size, such as ``work_dir/state/resources/{id}.ring`` of an agent.

The newest points replace the oldest. Nothing of it is held in memory: a query reads what it needs, and the
page cache is the kernel's. All blocks are allocated when the file is made, so a disk that fills up later
takes nothing. A record that was torn by a power failure fails its checksum; it is counted and left out.

Layout, little-endian. Header of 64 bytes: magic (``HDRING`` for agents), schema, capacity in records, CRC-32
of these. Then ``capacity`` records of 64 bytes; a sequence number that only grows, modulo the capacity, is a
record's place.
"""

from __future__ import annotations

import errno
import math
import os
import stat
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Generic, TypeVar

from daemon import faults
from daemon.durable.atomic import set_aside
from daemon.durable.explain import storage_error

SCHEMA = 1
HEADER_BYTES = 64
_HEADER = struct.Struct("<6sHI")
RECORD_BYTES = 64
BODY_BYTES = RECORD_BYTES - 4
NONE_U64 = 2**64 - 1
NONE_U32 = 2**32 - 1
_EMPTY = bytes(RECORD_BYTES)
_CHUNK = 1024  # records read at once
_RENUMBER_AT = 2**31  # a ring that old is numbered anew when it is opened: 32 bits never run out

S = TypeVar("S")


@dataclass(frozen=True, slots=True, kw_only=True)
class Form(Generic[S]):
    """How samples of one kind are records: sequence and wall time (32 bits each) first, a CRC-32 last.

    Attributes:
        magic: six bytes that begin a file of them.
        encode: the record of a sequence number and a sample.
        sample_of: the sample in a record that is intact.
    """

    magic: bytes
    encode: Callable[[int, S], bytes]
    sample_of: Callable[[bytes], S]

    def decode(self, record: bytes) -> tuple[int, S] | None:
        """Sequence and sample; None for a record that was never written or is torn."""
        if not _intact(record):
            return None
        return int.from_bytes(record[:4], "little"), self.sample_of(record)


def sealed(body: bytes) -> bytes:
    """A record: its body of :data:`BODY_BYTES` with the checksum."""
    return body + zlib.crc32(body).to_bytes(4, "little")


def float_in(value: float | None) -> float:
    """A number that is not negative as it is stored, not a number for None."""
    return math.nan if value is None else max(0.0, min(value, 3.0e38))


def float_out(value: float) -> float | None:
    """The way back."""
    return value if math.isfinite(value) else None


def whole_in(value: int | None) -> int:
    """A whole number in 64 bits, all ones for None."""
    return NONE_U64 if value is None else max(0, min(value, NONE_U64 - 1))


def whole_out(value: int) -> int | None:
    """The way back."""
    return None if value == NONE_U64 else value


class Ring(Generic[S]):
    """A ring file. Everything blocks; called on a thread.

    Args:
        path: where it is; made when it is missing. One of another capacity is made anew with its points;
            where the disk refuses that, the old one stays in use.
        capacity: points to keep, at least 1.
        form: of its records; a file of another form is set aside.

    Raises:
        StorageError: it can be neither read nor made.

    Attributes:
        wanted: the capacity asked for.
        capacity: points kept.
        next: the sequence number of the next point; it grows by one with each that is written.
        set_aside: where the file is now that was found instead of a ring; empty otherwise.
        torn: records found damaged when it was opened; they are left out.
        refused: why the capacity is not what was asked for; empty otherwise.
    """

    def __init__(self, path: Path, capacity: int, form: Form[S]) -> None:
        self.path = path
        self._form = form
        self.wanted = self.capacity = capacity
        self.next = 0
        self.set_aside = ""
        self.torn = 0
        self.refused = ""
        try:
            self._open()
        except OSError as error:
            raise storage_error("keep history in", path, error) from error

    def _open(self) -> None:
        try:
            with _opened(self.path, os.O_RDONLY) as fd:
                found = _capacity_of(fd, self._form.magic)
                if found:
                    self._take_over(fd, found)
                    return
        except FileNotFoundError:
            self._make(())
            return
        self.set_aside = str(set_aside(self.path))
        self._make(())

    def _take_over(self, fd: int, found: int) -> None:
        """Goes on with a ring that was there."""
        intact = 0
        for record in _records(fd, found):
            if _intact(record):
                intact += 1
                self.next = max(self.next, int.from_bytes(record[:4], "little") + 1)
            elif record != _EMPTY:
                self.torn += 1
        if found == self.capacity and self.next < _RENUMBER_AT:
            return
        kept = min(intact, self.capacity)
        points = filter(None, map(self._form.decode, _records(fd, found, self.next % found)))
        try:
            self._make(sample for _sequence, sample in islice(points, intact - kept, None))
        except OSError as error:
            self.refused = storage_error("resize", self.path, error).message
            self.capacity = found
        else:
            self.next = kept

    def _make(self, samples: Iterable[S]) -> None:
        temporary = self.path.with_name(f".{self.path.name}.{os.urandom(6).hex()}.tmp")
        try:
            with _opened(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL) as fd:
                faults.hit("ring.make")
                os.posix_fallocate(fd, 0, HEADER_BYTES + self.capacity * RECORD_BYTES)
                head = _HEADER.pack(self._form.magic, SCHEMA, self.capacity)
                _write(fd, head + zlib.crc32(head).to_bytes(4, "little"), 0)
                for sequence, sample in enumerate(samples):
                    _write(fd, self._form.encode(sequence, sample), HEADER_BYTES + sequence * RECORD_BYTES)
                os.fsync(fd)  # so that no half-made ring is found; its name may be lost, a minute's history
            temporary.replace(self.path)
        except OSError:
            with suppress(OSError):  # the disk is in trouble already
                temporary.unlink()
            raise

    def append(self, samples: Iterable[S]) -> None:
        """Writes points over the oldest ones.

        Raises:
            StorageError: the disk refuses; those before it are written, as ``next`` tells.
        """
        try:
            with _opened(self.path, os.O_WRONLY) as fd:
                for sample in samples:
                    faults.hit("ring.append")
                    place = HEADER_BYTES + self.next % self.capacity * RECORD_BYTES
                    _write(fd, self._form.encode(self.next, sample), place)
                    self.next += 1
        except OSError as error:
            raise storage_error("keep history in", self.path, error) from error

    def read_since(self, at: float) -> Iterator[bytes]:
        """The records of that wall time or later, intact, in the order in which they were written.

        Raises:
            StorageError: the file cannot be read.
        """
        try:
            faults.hit("ring.read")
            with _opened(self.path, os.O_RDONLY) as fd:
                for record in _records(fd, self.capacity, self.next % self.capacity):
                    if int.from_bytes(record[4:8], "little") >= at and _intact(record):
                        yield record
        except OSError as error:
            raise storage_error("read history from", self.path, error) from error


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    # O_NONBLOCK: a FIFO in its place would hold the thread for ever.
    fd = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)


def _capacity_of(fd: int, wanted: bytes) -> int:
    """The capacity the header tells; 0 for what is no ring of ours."""
    found = os.fstat(fd)
    head = os.pread(fd, HEADER_BYTES, 0) if stat.S_ISREG(found.st_mode) else b""
    if len(head) < HEADER_BYTES:
        return 0
    magic, schema, capacity = _HEADER.unpack_from(head)
    crc = int.from_bytes(head[_HEADER.size : _HEADER.size + 4], "little")
    if magic != wanted or schema != SCHEMA or crc != zlib.crc32(head[: _HEADER.size]):
        return 0
    return int(capacity) if found.st_size == HEADER_BYTES + capacity * RECORD_BYTES else 0


def _records(fd: int, capacity: int, begin: int = 0) -> Iterator[bytes]:
    """Every record from the place ``begin`` on and around, a chunk in memory at a time."""
    for first, end in ((begin, capacity), (0, begin)):
        for place in range(first, end, _CHUNK):
            count = min(_CHUNK, end - place)
            data = os.pread(fd, count * RECORD_BYTES, HEADER_BYTES + place * RECORD_BYTES)
            for at in range(0, len(data) - RECORD_BYTES + 1, RECORD_BYTES):
                yield data[at : at + RECORD_BYTES]


def _intact(record: bytes) -> bool:
    return int.from_bytes(record[BODY_BYTES:], "little") == zlib.crc32(record[:BODY_BYTES])


def _write(fd: int, data: bytes, at: int) -> None:
    if os.pwrite(fd, data, at) != len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
