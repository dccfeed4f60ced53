"""What a log's rotation must remember over a crash: a small file beside it, ``.rotation``.

Two slots are written in turn, in place: their first blocks are allocated beforehand, so that a full disk
can do it too, and a slot that was torn leaves the other one. Each holds a sequence number, the length and
CRC-32 of a JSON text, and the text.
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import msgspec

from daemon import faults
from daemon.model.agent import Identity

SLOT_BYTES = 64 * 1024
ALLOCATED_BYTES = 4096  # of each slot; only a long list of writers or a long unfinished line needs more
_HEAD = struct.Struct("<QII")
TEXT_MAX = SLOT_BYTES - _HEAD.size
REMAINDER_MAX = 16 * 1024  # bytes of an unfinished line; with a large agent's writers they fit into a slot


class Pending(msgspec.Struct, frozen=True, kw_only=True):
    """A rotation under way.

    Attributes:
        kind: ``collapse`` (lossless), ``truncate`` (the fallback), ``drop`` (either without a copy),
            ``resume``
            (it is done; the writers held for it may still be stopped).
        inode: of the live file.
        length: bytes that leave its head by a collapse.
        skip: bytes at its head that are copied already, once that is done.
        head: CRC-32 of those.
        place: where its first byte was on the disk before; another place means that the collapse happened.
        size: its size before a truncation.
        before: CRC-32 of its head before a truncation; another one means that it happened.
        lines: how many a drop takes.
        remainder: the unfinished line that is written back after a truncation.
        held: writers that are stopped meanwhile.
    """

    kind: str
    inode: int
    length: int = 0
    skip: int = 0
    head: int = 0
    place: int = -1
    size: int = 0
    before: int = 0
    lines: int = 0
    remainder: bytes = b""
    held: tuple[Identity, ...] = ()


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What is true of a log.

    Attributes:
        inode: the live file that ``skip`` belongs to.
        skip: bytes at its head that are copied already.
        head: CRC-32 of those; others there mean that somebody truncated the file.
        pending: what was under way.
    """

    inode: int = 0
    skip: int = 0
    head: int = 0
    pending: Pending | None = None


class RotationRecord:
    """The file. Everything blocks.

    Args:
        path: made when it is missing.

    Raises:
        OSError: it can be neither read nor made.

    Attributes:
        state: as of the last write.
    """

    __slots__ = ("_fd", "_sequence", "state")

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(self._fd).st_size < SLOT_BYTES + ALLOCATED_BYTES:
                for slot in (0, 1):
                    os.posix_fallocate(self._fd, slot * SLOT_BYTES, ALLOCATED_BYTES)
            self._sequence, self.state = self._read()
        except OSError:
            os.close(self._fd)
            raise

    def _read(self) -> tuple[int, State]:
        newest = (0, State())
        for slot in (0, 1):
            data = os.pread(self._fd, SLOT_BYTES, slot * SLOT_BYTES)
            if len(data) < _HEAD.size:
                continue
            sequence, length, crc = _HEAD.unpack_from(data)
            text = data[_HEAD.size : _HEAD.size + length]
            if sequence <= newest[0] or length > TEXT_MAX or zlib.crc32(text) != crc:
                continue
            try:
                newest = (sequence, msgspec.json.decode(text, type=State))
            except msgspec.MsgspecError:
                continue
        return newest

    def write(self, state: State) -> None:
        """Makes it durable.

        Raises:
            OSError: the disk refuses; the state before stays.
        """
        text = msgspec.json.encode(state)
        if len(text) > TEXT_MAX:
            raise OSError(0, f"the state of a rotation has {len(text)} bytes")
        faults.hit("logs.record")
        sequence = self._sequence + 1
        head = _HEAD.pack(sequence, len(text), zlib.crc32(text))
        os.pwrite(self._fd, head + text, sequence % 2 * SLOT_BYTES)
        os.fdatasync(self._fd)
        self._sequence, self.state = sequence, state

    def close(self) -> None:
        """Gives the descriptor back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
