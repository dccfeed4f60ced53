"""The daemon's own log: rotated, bounded, compressed; what the disk refuses costs no line that is not counted."""

from __future__ import annotations

import gzip
import os
import resource
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from daemon import faults
from daemon.aio.logsink import LogSink
from daemon.errors import StorageError
from daemon.logs.layout import rotated_files
from daemon.logs.own import RETRY_BYTES, RotatingStream

NAME = "daemon.log"
NOBODY = 65534


class Rig:
    """A log in a folder, with somebody who compresses when told to, and hears what is wrong."""

    def __init__(self, folder: Path, **bounds: int) -> None:
        self.folder = folder
        self.path = folder / NAME
        self.jobs: list[Callable[[], None]] = []
        self.told: list[str] = []
        self.stream = RotatingStream(self.path, "daemon.log_file", **(bounds or {"max_bytes": 1000, "max_files": 3}))
        self.stream.attend(self.jobs.append, self.told.append)
        self.sink = LogSink("info", False, self.stream)
        self.written = 0

    def log(self, count: int = 1) -> None:
        for _ in range(count):
            self.sink({"log_format": "line {n}", "n": self.written, "log_time": 0.0})
            self.written += 1

    def text(self) -> str:
        """Everything that is there, oldest first."""
        data = b""
        for each in reversed(rotated_files(self.folder, NAME)):
            plain = each.path.read_bytes()
            data += gzip.decompress(plain) if each.compressed else plain
        return (data + self.path.read_bytes()).decode()

    def numbers(self) -> list[int]:
        return [int(line.rpartition(" ")[2]) for line in self.text().splitlines() if " line " in line]

    def kinds(self) -> list[tuple[int, bool]]:
        return [(each.number, each.compressed) for each in rotated_files(self.folder, NAME)]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    (tmp_path / "log").mkdir()
    made = Rig(tmp_path / "log", max_bytes=1000, max_files=100)
    yield made
    faults.arm({})
    made.stream.close()


@contextmanager
def as_nobody(folder: Path) -> Iterator[None]:
    """Root may write everywhere: without its rights inside."""
    if os.geteuid() != 0:
        yield
        return
    above = [parent for parent in folder.parents if parent.stat().st_uid == 0 and parent.stat().st_mode & 0o777 == 0o700]
    for each in above:
        each.chmod(0o711)
    for each in (folder, *folder.iterdir()):
        os.chown(each, NOBODY, NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        for each in above:
            each.chmod(0o700)


@contextmanager
def room(size: int) -> Iterator[None]:
    """No file of this process grows beyond that: takes a part of a line, then nothing, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_it_is_rotated_bounded_and_compressed(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"line before\n")
    (tmp_path / "daemon.log.old").write_bytes(b"not ours\n")
    rig = Rig(tmp_path, max_bytes=1000, max_files=2)
    rig.log(200)
    assert rig.stream.rotations_total == len(rig.jobs) > 3
    assert rig.kinds() == [(1, False), (2, False)]
    assert rig.path.stat().st_size <= 1000 and rig.path.read_bytes().endswith(b"line 199\n")
    rig.jobs[-1]()
    assert rig.kinds() == [(1, True), (2, True)]
    rig.stream.write(b"x" * 990 + b"\n")
    assert rig.kinds() == [(1, False), (2, True)]
    assert rig.numbers() == list(range(rig.numbers()[0], 200))
    assert (tmp_path / "daemon.log.old").exists() and rig.told == []
    rig.stream.close()


def test_after_logrotate_moved_it_it_is_opened_anew(rig: Rig) -> None:
    rig.log(5)
    rig.path.rename(rig.folder / "moved")
    rig.log(5)  # before the signal
    rig.stream.reopen()
    rig.log(5)
    assert (rig.folder / "moved").read_text().count("\n") == 10
    assert rig.numbers() == list(range(10, 15))
    assert rig.stream.rotations_total == 0


def test_a_file_moved_away_without_a_signal_is_not_rotated_in_its_stead(rig: Rig) -> None:
    rig.log(5)
    rig.path.rename(rig.folder / "moved")
    rig.path.write_text("another's line 7777\n")
    rig.log(95)
    moved = (rig.folder / "moved").read_text().splitlines()
    there = rig.numbers()
    assert there[0] == 7777 and there[1:] == list(range(len(moved), 100))
    assert rig.sink.lost_total == 0


def test_a_file_truncated_by_somebody_else_is_not_taken_for_full(rig: Rig) -> None:
    rig.log(25)
    os.truncate(rig.path, 0)  # logrotate's copytruncate
    rig.log(20)
    assert rig.stream.rotations_total == 0 and rig.numbers() == list(range(25, 45))


def test_when_opening_anew_is_refused_the_old_file_goes_on(rig: Rig) -> None:
    rig.log(5)
    rig.path.rename(rig.folder / "moved")
    rig.path.mkdir()  # nothing can be opened there, for root neither
    with pytest.raises(StorageError, match=r"daemon\.log_file .*: Is a directory"):
        rig.stream.reopen()
    rig.log(5)
    assert (rig.folder / "moved").read_text().count("\n") == 10 and rig.sink.lost_total == 0


def test_a_removed_file_is_made_again_and_no_line_is_missing(rig: Rig) -> None:
    rig.log(5)
    rig.path.unlink()
    rig.log(5)
    assert rig.numbers() == list(range(5, 10)) and rig.sink.lost_total == 0


def test_lines_are_counted_while_its_folder_is_gone_and_the_log_goes_on_when_it_is_back(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    terminal = (tmp_path / "stderr").open("w+")
    monkeypatch.setattr("sys.__stderr__", terminal)
    rig.log(5)
    shutil.rmtree(rig.folder)
    rig.log(7)
    assert rig.sink.lost_total == 7
    rig.folder.mkdir()
    rig.log(5)
    assert rig.numbers() == list(range(12, 17))
    assert "7 lines of this log could not be written" in rig.text()
    terminal.seek(0)
    [line] = terminal.read().splitlines()  # seven lines lost, told once
    terminal.close()
    assert "lost and counted" in line and "No such file" in line and "daemon.log_file" in line


def test_in_a_folder_that_may_not_be_written_it_grows_on_is_told_once_and_tried_again(rig: Rig) -> None:
    rig.log(5)
    with as_nobody(rig.folder):
        rig.folder.chmod(0o555)
        try:
            rig.log(300)
            assert (rig.stream.failures_total, rig.stream.rotations_total, rig.kinds()) == (1, 0, [])
            [text] = rig.told
            assert text.startswith("D1004 daemon.log_file ") and "cannot be rotated: Permission denied" in text
            os.truncate(rig.path, RETRY_BYTES + 2000)
            rig.log()
            assert (rig.stream.failures_total, len(rig.told)) == (2, 1)
        finally:
            rig.folder.chmod(0o755)
        os.truncate(rig.path, 2 * RETRY_BYTES + 5000)
        rig.log(50)
    assert rig.stream.rotations_total >= 1 and len(rig.told) == 1
    assert rig.numbers()[-51:] == list(range(305, 356)) and rig.sink.lost_total == 0


def test_a_rename_that_fails_costs_no_line_and_no_rotated_file(rig: Rig) -> None:
    rig.log(70)
    before = len(rig.kinds())
    assert before >= 2
    blocked = rig.folder / f"{NAME}.{before + 1}"
    (blocked / "inside").mkdir(parents=True)  # the oldest cannot move up
    rig.log(100)
    assert rig.stream.failures_total == 1 and len(rig.told) == 1
    assert rig.numbers() == list(range(170))
    shutil.rmtree(blocked)
    os.truncate(rig.path, RETRY_BYTES + 5000)
    rig.log(60)
    assert rig.numbers()[-60:] == list(range(170, 230)) and len(rig.kinds()) > before
    assert rig.sink.lost_total == 0


def test_without_a_new_file_to_be_had_the_old_one_keeps_its_name(rig: Rig) -> None:
    rig.log(30)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))  # the folder cannot be read, let alone a file be opened
    try:
        rig.log(30)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert rig.stream.failures_total == 1 and rig.numbers() == list(range(60))
    faults.arm({"HOSTDAEMON_FAULT": "logs.own:1:enospc"})  # no inode is left: the old one has its new name already
    os.truncate(rig.path, 2 * RETRY_BYTES)
    rig.log(10)
    assert rig.kinds() == [(2, False)] and rig.stream.failures_total == 2 and len(rig.told) == 1  # of the first 30
    assert rig.numbers()[-10:] == list(range(60, 70)) and rig.sink.lost_total == 0
    faults.arm({})
    os.truncate(rig.path, 4 * RETRY_BYTES)
    rig.log(10)
    assert rig.kinds() == [(1, False), (2, False)] and rig.numbers()[-10:] == list(range(70, 80))


def test_on_a_full_disk_what_does_not_fit_is_counted_and_told_where_it_is_missing(rig: Rig) -> None:
    rig.log(5)
    with room(rig.path.stat().st_size + 10):
        rig.log(20)
    assert rig.sink.lost_total == 20
    rig.log(5)
    assert rig.numbers() == [*range(5), *range(25, 30)]
    assert "20 lines of this log could not be written" in rig.text()


def test_a_full_disk_leaves_rotated_files_uncompressed_and_whole(rig: Rig) -> None:
    rig.log(70)
    faults.arm({"HOSTDAEMON_FAULT": "logs.compress:1:enospc"})
    with pytest.raises(OSError, match="No space"):
        rig.stream.compress()
    faults.arm({})
    assert not any(compressed for _, compressed in rig.kinds())
    assert sorted(path.name for path in rig.folder.glob(".*")) == []
    rig.stream.compress()
    assert all(compressed for _, compressed in rig.kinds()) and rig.numbers() == list(range(70))


def test_what_a_death_left_uncompressed_or_half_compressed_is_done_at_the_next_start(rig: Rig) -> None:
    rig.log(120)
    rig.stream.compress()
    rig.stream.close()
    both = rig.folder / f"{NAME}.2"  # the plain one was not removed yet
    both.write_bytes(gzip.decompress(both.with_name(both.name + ".gz").read_bytes()))
    plain = rig.folder / f"{NAME}.1"  # renamed, and not compressed
    plain.write_bytes(gzip.decompress(plain.with_name(plain.name + ".gz").read_bytes()))
    plain.with_name(plain.name + ".gz").unlink()
    (rig.folder / f".{NAME}.99.gz.tmp").write_bytes(b"half")
    again = Rig(rig.folder, max_bytes=1000, max_files=100)
    again.written = 120
    again.log(1)
    [job] = again.jobs
    job()
    assert all(compressed for _, compressed in again.kinds()) and again.numbers() == list(range(121))
    assert sorted(path.name for path in again.folder.glob(".*")) == [] and not both.exists()
    again.stream.close()
    assert Rig(rig.folder, max_bytes=1000, max_files=100).jobs == []  # nothing is left to do


def test_a_rotation_while_a_file_is_compressed_mixes_nothing_up(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    from daemon.logs import own

    rig.log(40)
    compress = own.compress

    def slow(source: Path, inode: int) -> Path | None:
        made = compress(source, inode)
        rig.log(30)  # it moves up, and another file takes its name
        return made

    monkeypatch.setattr(own, "compress", slow)
    rig.stream.compress()
    assert rig.numbers() == list(range(rig.written))
    assert any(compressed for _, compressed in rig.kinds())
    assert sorted(path.name for path in rig.folder.glob(".*")) == []


def test_a_link_stays_a_link_and_its_target_is_rotated(tmp_path: Path) -> None:
    folder = tmp_path / "far"
    folder.mkdir()
    (tmp_path / "near.log").symlink_to(folder / NAME)
    stream = RotatingStream(tmp_path / "near.log", "daemon.log_file", max_bytes=1000)
    for n in range(100):
        stream.write(b"line %d of it\n" % n)
    assert (tmp_path / "near.log").is_symlink() and len(rotated_files(folder, NAME)) == stream.rotations_total > 0
    stream.close()


def test_lines_of_many_threads_are_all_there_whole_over_rotations(rig: Rig) -> None:
    def many(thread: int) -> None:
        for n in range(200):
            rig.sink({"log_format": "line {n}", "n": thread * 1000 + n, "log_time": 0.0})

    threads = [threading.Thread(target=many, args=(number,)) for number in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert rig.stream.rotations_total > 10 and rig.stream.failures_total == 0
    assert sorted(rig.numbers()) == [thread * 1000 + n for thread in range(4) for n in range(200)]
