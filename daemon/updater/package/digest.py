"""SHA-256 of an open file, in pieces, off the reactor."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from daemon.durable.explain import storage_error

PIECE_BYTES = 1 << 20  # hashing lets other threads run while it works on one

Progress = Callable[[int], None]
"""Called about once per piece, on the thread of the work, with the bytes done so far. Whatever it raises ends
the work: that is how one cancels, with :class:`Cancelled`."""


class Cancelled(Exception):
    """The work was not wanted any more."""


def unwatched(_done: int) -> None:
    """The :data:`Progress` of work that nobody watches or cancels."""


def digest_of(fd: int, progress: Progress = unwatched) -> str:
    """Hashes a whole file. Blocks; its offset stays where it is.

    Returns:
        64 lower-case hex digits.

    Raises:
        StorageError: D1004, it cannot be read.
    """
    digest = hashlib.sha256()
    done = 0
    while True:
        try:
            piece = os.pread(fd, PIECE_BYTES, done)
        except OSError as error:
            raise storage_error("read", path_of(fd), error) from error
        if not piece:
            return digest.hexdigest()
        digest.update(piece)
        done += len(piece)
        progress(done)


def path_of(fd: int) -> Path:
    """Where an open file is, for messages."""
    try:
        return Path(os.readlink(f"/proc/self/fd/{fd}"))  # noqa: PTH115 - Path.readlink of a name made here
    except OSError:
        return Path(f"fd {fd}")
