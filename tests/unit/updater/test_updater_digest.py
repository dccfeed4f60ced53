"""Hashing of open files."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from daemon.errors import StorageError
from daemon.updater.package.digest import PIECE_BYTES, Cancelled, digest_of


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES])
def test_the_whole_file_is_hashed_wherever_its_offset_is(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    (tmp_path / "f").write_bytes(data)
    with (tmp_path / "f").open("rb") as file:
        os.lseek(file.fileno(), size // 2, os.SEEK_SET)
        seen: list[int] = []
        assert digest_of(file.fileno(), seen.append) == hashlib.sha256(data).hexdigest()
        assert os.lseek(file.fileno(), 0, os.SEEK_CUR) == size // 2
    assert seen == [min(size, n * PIECE_BYTES) for n in range(1, -(-size // PIECE_BYTES) + 1)]


def test_what_the_progress_raises_ends_it(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(4 * PIECE_BYTES))
    seen: list[int] = []

    def progress(done: int) -> None:
        seen.append(done)
        if done >= 2 * PIECE_BYTES:
            raise Cancelled

    with (tmp_path / "f").open("rb") as file, pytest.raises(Cancelled):
        digest_of(file.fileno(), progress)
    assert seen == [PIECE_BYTES, 2 * PIECE_BYTES]


def test_what_cannot_be_read_is_a_storage_error_that_names_it(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(StorageError, match=f"cannot read {tmp_path}: Is a directory"):
            digest_of(fd)
    finally:
        os.close(fd)
