"""Atomic replacement, bounded reading, setting aside."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon import faults
from daemon.durable.atomic import read_bounded, remove_stale_temporaries, set_aside, write_atomic
from daemon.errors import ErrorCode, StorageError


@pytest.fixture(autouse=True)
def _disarm() -> Iterator[None]:
    yield
    faults.arm({})


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "state.json"


def names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


@pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 5000])
@pytest.mark.parametrize("fsync", [True, False])
def test_what_was_written_is_read_back_with_nothing_left(target: Path, data: bytes, fsync: bool) -> None:
    write_atomic(target, b"old")
    write_atomic(target, data, fsync=fsync)
    assert read_bounded(target, len(data)) == data
    assert names(target.parent) == ["state.json"]


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o755])
def test_the_mode_holds_whatever_the_umask(target: Path, mode: int) -> None:
    before = os.umask(0o077)
    try:
        write_atomic(target, b"x", mode=mode)
    finally:
        os.umask(before)
    assert stat.S_IMODE(target.stat().st_mode) == mode


def test_a_symbolic_link_is_replaced_not_followed(target: Path) -> None:
    victim = target.with_name("victim")
    victim.write_bytes(b"precious")
    target.symlink_to(victim)
    write_atomic(target, b"new")
    assert victim.read_bytes() == b"precious"
    assert not target.is_symlink()


@pytest.mark.parametrize("point", ["atomic.write", "atomic.fsync", "atomic.rename"])
@pytest.mark.parametrize(("kind", "number"), [("enospc", errno.ENOSPC), ("eio", errno.EIO)])
def test_a_disk_error_keeps_the_old_file_and_leaves_no_temporary(
    target: Path, point: str, kind: str, number: int
) -> None:
    write_atomic(target, b"old")
    faults.arm({"HOSTDAEMON_FAULT": f"{point}:1:{kind}"})
    with pytest.raises(StorageError) as caught:
        write_atomic(target, b"new")
    assert caught.value.code is ErrorCode.STORAGE
    assert caught.value.details["errno"] == number
    assert str(target) in caught.value.message
    assert os.strerror(number) in caught.value.message
    assert "; " in caught.value.message  # the next step
    assert target.read_bytes() == b"old"
    assert names(target.parent) == ["state.json"]


@pytest.mark.parametrize("point", ["atomic.write", "atomic.fsync", "atomic.rename"])
def test_a_kill_keeps_the_old_file_and_the_next_start_clears_up(target: Path, point: str) -> None:
    write_atomic(target, b"old")
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from daemon import faults\n"
        "from daemon.durable.atomic import write_atomic\n"
        "faults.arm(os.environ)\n"
        "write_atomic(Path(sys.argv[1]), b'new')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(target)], env={**os.environ, "HOSTDAEMON_FAULT": f"{point}:1"},
        timeout=30,
    )
    assert done.returncode == -signal.SIGKILL
    assert target.read_bytes() == b"old"
    assert len(names(target.parent)) == 2
    assert remove_stale_temporaries(target.parent) == 1
    assert names(target.parent) == ["state.json"]


def test_a_missing_directory_is_told_with_the_next_step(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"No such file or directory; create its directory") as caught:
        write_atomic(tmp_path / "none" / "file", b"x")
    assert caught.value.details["errno"] == errno.ENOENT


def test_a_directory_in_the_way_is_told_and_no_temporary_is_left(target: Path) -> None:
    target.mkdir()
    with pytest.raises(StorageError, match="a directory is in the way"):
        write_atomic(target, b"x")
    assert names(target.parent) == ["state.json"]


def test_writers_of_one_path_on_several_threads_never_mix(target: Path) -> None:
    contents = [bytes([65 + n]) * 20_000 for n in range(4)]

    def write(data: bytes) -> None:
        for _round in range(25):
            write_atomic(target, data, fsync=False)

    threads = [threading.Thread(target=write, args=(data,)) for data in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert target.read_bytes() in contents
    assert names(target.parent) == ["state.json"]


def test_reading_is_bounded(target: Path) -> None:
    target.write_bytes(b"12345")
    assert read_bounded(target, 5) == b"12345"
    with pytest.raises(StorageError, match="larger than 4 bytes"):
        read_bounded(target, 4)


def test_a_missing_file_is_an_expected_outcome(target: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_bounded(target, 10)


def test_reading_never_hangs_on_a_fifo_nor_follows_a_link_nor_reads_a_directory(tmp_path: Path) -> None:
    fifo, link = tmp_path / "fifo", tmp_path / "link"
    os.mkfifo(fifo)
    link.symlink_to("/etc/passwd")
    with pytest.raises(StorageError, match="not a regular file"):
        read_bounded(fifo, 10)
    with pytest.raises(StorageError, match="symbolic link"):
        read_bounded(link, 10_000)
    with pytest.raises(StorageError, match="not a regular file"):
        read_bounded(tmp_path, 10)


def test_setting_aside_keeps_the_newest_and_one_older_copy(target: Path) -> None:
    for content in (b"first", b"second", b"third"):
        target.write_bytes(content)
        aside = set_aside(target)
    assert aside == target.with_name("state.json.corrupt")
    assert aside.read_bytes() == b"third"
    assert target.with_name("state.json.corrupt.1").read_bytes() == b"second"
    assert names(target.parent) == ["state.json.corrupt", "state.json.corrupt.1"]


def test_setting_aside_what_is_not_there_is_an_error(target: Path) -> None:
    with pytest.raises(StorageError, match="cannot set aside"):
        set_aside(target)


def test_only_our_own_temporaries_are_removed(tmp_path: Path) -> None:
    strangers = [".hidden", "a.tmp", ".a.tmp", ".a.0123456789abcdef.tmp", ".a.0123456789ag.tmp"]
    for name in strangers:
        (tmp_path / name).write_bytes(b"")
    (tmp_path / ".dir.0123456789ab.tmp").mkdir()
    (tmp_path / ".link.0123456789ab.tmp").symlink_to("/etc/passwd")
    (tmp_path / ".state.json.0123456789ab.tmp").write_bytes(b"")
    assert remove_stale_temporaries(tmp_path) == 1
    assert names(tmp_path) == sorted([*strangers, ".dir.0123456789ab.tmp", ".link.0123456789ab.tmp"])


def test_a_missing_directory_has_no_temporaries_and_a_file_in_its_place_is_an_error(tmp_path: Path) -> None:
    assert remove_stale_temporaries(tmp_path / "none") == 0
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="not a directory"):
        remove_stale_temporaries(tmp_path / "file")
