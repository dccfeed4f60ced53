"""One daemon per directory."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.durable.lock import DirectoryLock
from daemon.errors import StorageError

HOLDER = (
    "import sys, time\n"
    "from pathlib import Path\n"
    "from daemon.durable.lock import DirectoryLock\n"
    "lock = DirectoryLock(Path(sys.argv[1]))\n"
    "lock.acquire()\n"
    "print('held', flush=True)\n"
    "sys.stdin.read()\n"
)


@pytest.fixture
def lock(tmp_path: Path) -> Iterator[DirectoryLock]:
    one = DirectoryLock(tmp_path)
    yield one
    one.release()


def test_it_is_held_until_released_and_writes_the_pid(lock: DirectoryLock, tmp_path: Path) -> None:
    assert not lock.held
    lock.acquire()
    assert lock.held
    assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"
    lock.release()
    assert not lock.held
    assert lock.fd is None
    lock.acquire()
    assert lock.held


def test_acquiring_or_releasing_twice_does_nothing(lock: DirectoryLock) -> None:
    lock.acquire()
    fd = lock.fd
    lock.acquire()
    assert lock.fd == fd
    lock.release()
    lock.release()


def test_a_second_holder_is_told_who_has_it_and_a_kill_frees_it(lock: DirectoryLock, tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(StorageError) as caught:
            lock.acquire()
        assert caught.value.message == (
            f"another hostdaemon (pid {holder.pid}) holds {tmp_path / 'lock'}; "
            "stop it or choose another work_dir"
        )
        assert caught.value.details["pid"] == holder.pid
        assert not lock.held
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    lock.acquire()
    assert lock.held


@pytest.mark.parametrize("content", [b"", b"junk", b"\xff\xfe", b"9" * 100, b"-5"])
def test_a_holder_whose_pid_cannot_be_read_is_still_respected(
    lock: DirectoryLock, tmp_path: Path, content: bytes
) -> None:
    other = DirectoryLock(tmp_path)
    other.acquire()
    (tmp_path / "lock").write_bytes(content)
    with pytest.raises(StorageError, match="another hostdaemon"):
        lock.acquire()
    other.release()


def test_the_pid_of_a_former_longer_one_is_overwritten_whole(lock: DirectoryLock, tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("99999999999999\n")
    lock.acquire()
    assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"


def test_the_descriptor_is_close_on_exec_unless_asked_otherwise(tmp_path: Path) -> None:
    lock = DirectoryLock(tmp_path)
    lock.acquire()
    assert lock.fd is not None
    assert not os.get_inheritable(lock.fd)
    lock.set_inheritable(True)
    assert os.get_inheritable(lock.fd)
    lock.release()
    keeping = DirectoryLock(tmp_path, inheritable=True)
    keeping.acquire()
    assert keeping.fd is not None
    assert os.get_inheritable(keeping.fd)
    keeping.release()
    keeping.set_inheritable(False)
    keeping.acquire()
    assert keeping.fd is not None
    assert not os.get_inheritable(keeping.fd)
    keeping.release()


def test_the_next_version_takes_an_inherited_descriptor_over(tmp_path: Path, lock: DirectoryLock) -> None:
    before = DirectoryLock(tmp_path, inheritable=True)
    before.acquire()
    assert before.fd is not None
    inherited = os.dup(before.fd)  # what an execv leaves us
    with pytest.raises(StorageError, match="another hostdaemon"):
        lock.acquire()
    lock.acquire(inherited_fd=inherited)
    assert lock.fd == inherited
    assert not os.get_inheritable(inherited)
    before.release()


def test_a_descriptor_that_is_not_this_lock_is_left_alone(lock: DirectoryLock, tmp_path: Path) -> None:
    stranger = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)
    lock.acquire(inherited_fd=stranger)
    assert lock.fd != stranger
    os.fstat(stranger)  # still open
    os.close(stranger)


def test_a_closed_descriptor_is_no_lock(lock: DirectoryLock) -> None:
    lock.acquire(inherited_fd=10_000)
    assert lock.held


def test_releasing_frees_it_even_where_a_child_has_a_copy(lock: DirectoryLock, tmp_path: Path) -> None:
    other = DirectoryLock(tmp_path)
    other.acquire()
    assert other.fd is not None
    copy = os.dup(other.fd)
    other.release()
    lock.acquire()
    assert lock.held
    os.close(copy)


def test_a_link_a_fifo_and_a_missing_directory_are_refused_without_waiting(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="symbolic link"):
        DirectoryLock(tmp_path / "a").acquire()
    assert not (tmp_path / "elsewhere").exists()
    (tmp_path / "b").mkdir()
    os.mkfifo(tmp_path / "b" / "lock")
    with pytest.raises(StorageError, match="not a regular file"):
        DirectoryLock(tmp_path / "b").acquire()
    with pytest.raises(StorageError, match="No such file or directory"):
        DirectoryLock(tmp_path / "none").acquire()


def test_a_refused_attempt_leaks_no_descriptor(tmp_path: Path, lock: DirectoryLock) -> None:
    lock.acquire()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _attempt in range(20):
        with pytest.raises(StorageError):
            DirectoryLock(tmp_path).acquire()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_shared_lock_of_a_stranger_is_respected_too(lock: DirectoryLock, tmp_path: Path) -> None:
    fd = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(fd, fcntl.LOCK_SH)
    with pytest.raises(StorageError, match="pid unknown"):
        lock.acquire()
    os.close(fd)
