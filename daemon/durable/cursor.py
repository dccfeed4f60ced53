"""A handful of numbers that are overwritten in place: either the old or the new ones, whatever happens.

Two slots of a small file take turns, each with a checksum and a generation; the newer good one counts. Unlike
a replaced file this needs no new block, so it can be written on a disk that is full.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from daemon import faults
from daemon.durable.atomic import fsync_directory, read_bounded, set_aside
from daemon.durable.explain import storage_error
from daemon.durable.segment import decode_line, encode_line

SLOT_BYTES = 4096  # a block each: what tears one slot leaves the other alone
SLOTS = 2
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class _Slot(msgspec.Struct, frozen=True, kw_only=True):
    generation: int
    values: dict[str, int]


class Cursor:
    """Opens the file, which is made when it is missing. One thread at a time.

    Args:
        path: the file; its directory must exist.

    Raises:
        StorageError: it can be neither read nor made.

    Attributes:
        values: what was written last; empty before the first time.
        unreadable: where a file without a good slot was put; None when there was none.
    """

    def __init__(self, path: Path) -> None:
        self.values: dict[str, int] = {}
        self.unreadable: Path | None = None
        self._path = path
        self._generation = 0
        self._dirty = False
        try:
            data = read_bounded(path, SLOT_BYTES * SLOTS)
        except FileNotFoundError:
            data = b""
        if data and not self._load(data):
            self.unreadable = set_aside(path)
        try:
            self._fd = os.open(path, _FLAGS, 0o600)
            try:
                if os.fstat(self._fd).st_size < SLOT_BYTES * SLOTS:
                    self._make()
            except OSError:
                os.close(self._fd)
                raise
        except OSError as error:
            raise storage_error("open", path, error) from error

    def _load(self, data: bytes) -> bool:
        for start in range(0, len(data), SLOT_BYTES):
            line, newline, _rest = data[start : start + SLOT_BYTES].partition(b"\n")
            payload = decode_line(line) if newline else None
            if payload is None:
                continue
            try:
                slot = msgspec.json.decode(payload, type=_Slot)
            except (msgspec.MsgspecError, UnicodeError):
                continue
            if slot.generation > self._generation:
                self._generation, self.values = slot.generation, dict(slot.values)
        return self._generation > 0

    def _make(self) -> None:
        """Gives both slots their blocks; what a good slot holds is written again."""
        os.pwrite(self._fd, b"\n" * (SLOT_BYTES * SLOTS), 0)
        if self._generation:
            self._write(self.values)
        os.fsync(self._fd)
        fsync_directory(self._path.parent)

    def write(self, values: dict[str, int]) -> None:
        """Replaces the numbers; when this returns, a ``kill -9`` cannot lose them.

        Raises:
            StorageError: the disk refuses, and the numbers before are still the ones on it.
        """
        try:
            self._write(values)
        except OSError as error:
            raise storage_error("write", self._path, error) from error

    def _write(self, values: dict[str, int]) -> None:
        generation = self._generation + 1
        slot = encode_line(msgspec.json.encode(_Slot(generation=generation, values=values)))
        if len(slot) > SLOT_BYTES:
            raise ValueError("too many numbers for a slot")
        faults.hit("cursor.write")
        written = os.pwrite(self._fd, slot, (generation % SLOTS) * SLOT_BYTES)
        if written != len(slot):
            raise OSError(0, "a short write")
        self._generation = generation
        self._dirty = True
        self.values = dict(values)

    @property
    def dirty(self) -> bool:
        """Whether there is something to sync."""
        return self._dirty

    def sync(self) -> None:
        """Makes the numbers survive a power failure. Blocks.

        Raises:
            StorageError: the disk refuses.
        """
        if not self._dirty:
            return
        self._dirty = False
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            self._dirty = True
            raise storage_error("sync", self._path, error) from error

    def close(self) -> None:
        """Gives the descriptor back; nothing can be written any more."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
