"""Room for an update, for each filesystem it touches."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from daemon import faults
from daemon.errors import StorageError, UpdateDownloadError
from daemon.updater.download import space
from daemon.updater.download.space import INODES_MIN, Room, check_space, measure

MIB = 2**20


class Disks:
    """What filesystems have left, in place of statvfs.

    Attributes:
        asked: the folders that were measured.
    """

    def __init__(self) -> None:
        self.bytes, self.inodes = 100 * MIB, 10**6
        self.asked: list[Path] = []

    def __call__(self, path: Path) -> Room:
        self.asked.append(path)
        return Room(path=path, free_bytes=self.bytes, free_inodes=self.inodes)


def test_three_times_the_package_is_enough_and_a_byte_less_is_not(tmp_path: Path) -> None:
    disks = Disks()
    disks.bytes = 30 * MIB
    check_space([tmp_path], 10 * MIB, measured=disks)
    disks.bytes -= 1
    with pytest.raises(UpdateDownloadError) as caught:
        check_space([tmp_path], 10 * MIB, measured=disks)
    assert caught.value.details == {"path": str(tmp_path), "free_bytes": 30 * MIB - 1, "needed_bytes": 30 * MIB}
    assert f"{tmp_path}: 30.0 MiB are free, 30.0 MiB are needed (3 times the package)" in str(caught.value)
    check_space([tmp_path], 10 * MIB, factor=2, measured=disks)


def test_folders_of_one_filesystem_are_one_and_those_to_come_count_as_their_parent(tmp_path: Path) -> None:
    disks = Disks()
    there = tmp_path / "there"
    there.mkdir()
    check_space([tmp_path / "not" / "yet", there, tmp_path], 1, measured=disks)
    assert disks.asked == [tmp_path]


def test_a_path_through_a_file_is_measured_where_the_file_is(tmp_path: Path) -> None:
    disks = Disks()
    (tmp_path / "file").write_text("x")
    check_space([tmp_path / "file" / "below"], 1, measured=disks)
    assert disks.asked == [tmp_path / "file"]


def test_every_filesystem_is_looked_at(tmp_path: Path) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("one filesystem here")
    disks = Disks()
    check_space([tmp_path, other], 1, measured=disks)
    assert disks.asked == [tmp_path, other]


def test_room_for_bytes_but_not_for_files(tmp_path: Path) -> None:
    disks = Disks()
    disks.inodes = INODES_MIN - 1
    with pytest.raises(UpdateDownloadError, match=rf"can hold {INODES_MIN - 1} more files") as caught:
        check_space([tmp_path], 1, measured=disks)
    assert caught.value.details["path"] == str(tmp_path)


def test_a_real_filesystem_and_one_without_counted_inodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_space([tmp_path], 1)
    with pytest.raises(UpdateDownloadError):
        check_space([tmp_path], 2**60)
    real = os.statvfs(tmp_path)
    assert 0 < measure(tmp_path).free_bytes <= real.f_blocks * real.f_frsize
    fields = list(real)
    fields[5] = fields[6] = fields[7] = 0  # f_files, f_ffree, f_favail, as btrfs has them
    monkeypatch.setattr(space.os, "statvfs", lambda _path: os.statvfs_result(fields))
    assert measure(tmp_path).free_inodes is None
    check_space([tmp_path], 1)


def test_a_filesystem_that_does_not_answer_is_a_fault_of_the_disk(tmp_path: Path) -> None:
    faults.arm({"HOSTDAEMON_FAULT": "space.measure:1:eio"})
    try:
        with pytest.raises(StorageError, match=f"measure the free space of {tmp_path}"):
            check_space([tmp_path], 1)
    finally:
        faults.arm({})
