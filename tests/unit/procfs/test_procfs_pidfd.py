"""pidfds: signals that reach the right ones, and exit statuses of children and strangers."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import subprocess
from collections.abc import Callable, Iterator

import pytest

from daemon.model.agent import ExitStatus
from daemon.procfs import pidfd as pidfds
from daemon.procfs.identity import identify

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts shells in sessions of their own and ends them afterwards."""
    children: list[subprocess.Popen[bytes]] = []

    def popen(script: str) -> subprocess.Popen[bytes]:
        child = subprocess.Popen(["/bin/sh", "-c", script], start_new_session=True, stdout=subprocess.PIPE)
        children.append(child)
        return child

    yield popen
    for child in children:
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        child.communicate()


@pytest.fixture
def opened() -> Iterator[Callable[[int], int]]:
    """Opens pidfds and closes them afterwards."""
    fds: list[int] = []

    def open_pidfd(pid: int) -> int:
        fd = pidfds.open_pidfd(pid)
        assert fd is not None
        fds.append(fd)
        return fd

    yield open_pidfd
    for fd in fds:
        os.close(fd)


def wait_readable(fd: int) -> None:
    """Until the process has ended."""
    assert select.select([fd], [], [], 10)[0]


def test_there_is_no_pidfd_of_nobody() -> None:
    assert pidfds.open_pidfd(2**31 - 1) is None


def test_a_pidfd_closes_on_exec(opened: Callable[[int], int]) -> None:
    assert fcntl.fcntl(opened(os.getpid()), fcntl.F_GETFD) & fcntl.FD_CLOEXEC


def test_an_end_shows_reaped_or_not(start: Start, opened: Callable[[int], int]) -> None:
    child = start("exec sleep 60")
    fd = opened(child.pid)
    assert pidfds.peek_status(fd) is None
    child.kill()
    wait_readable(fd)
    child.wait()
    wait_readable(fd)


@pytest.mark.parametrize(
    ("script", "status"),
    [("exit 0", ExitStatus(code=0)), ("exit 7", ExitStatus(code=7)), ("kill -SEGV $$", ExitStatus(signal=11)),
     ("kill -KILL $$", ExitStatus(signal=9))],
)
def test_the_status_of_our_child_is_seen_before_it_is_reaped(
    start: Start, opened: Callable[[int], int], script: str, status: ExitStatus
) -> None:
    child = start(script)
    fd = opened(child.pid)
    wait_readable(fd)
    assert pidfds.peek_status(fd) == status
    assert pidfds.peek_status(fd) == status
    stat = identify(child.pid)
    assert stat is not None
    assert pidfds.stranger_status(fd, child.pid, stat.start_ticks) == status  # by field 52
    pidfds.reap(fd)
    assert identify(child.pid) is None
    assert pidfds.peek_status(fd) is None
    pidfds.reap(fd)  # nothing happens
    child.returncode = 0


def test_a_signal_reaches_the_living_only(start: Start, opened: Callable[[int], int]) -> None:
    child = start("sleep 60")
    fd = opened(child.pid)
    assert pidfds.send_signal(fd, signal.SIGKILL)
    wait_readable(fd)
    child.wait()
    assert not pidfds.send_signal(fd, signal.SIGKILL)


@pytest.mark.parametrize("by_pidfd", [True, False])
def test_a_group_signal_reaches_children_and_not_those_that_left_the_group(
    start: Start, opened: Callable[[int], int], by_pidfd: bool
) -> None:
    leader = start("sleep 60 & echo $!; setsid sleep 60 & sleep 0.2; echo $!; wait")
    assert leader.stdout is not None
    child, apart = int(leader.stdout.readline()), int(leader.stdout.readline())
    child_fd, apart_fd, fd = opened(child), opened(apart), opened(leader.pid)
    groups = pidfds.GroupSignaller()
    groups._by_pidfd = by_pidfd
    assert groups.send(fd, leader.pid, signal.SIGKILL, leader_pinned=True)
    wait_readable(child_fd)
    wait_readable(fd)
    assert not select.select([apart_fd], [], [], 0)[0]
    pidfds.send_signal(apart_fd, signal.SIGKILL)
    leader.wait()


@pytest.mark.parametrize("by_pidfd", [True, False])
def test_a_group_of_which_nobody_is_left_cannot_be_signalled(
    start: Start, opened: Callable[[int], int], by_pidfd: bool
) -> None:
    leader = start("exit 0")
    fd = opened(leader.pid)
    leader.wait()
    groups = pidfds.GroupSignaller()
    groups._by_pidfd = by_pidfd
    assert not groups.send(fd, leader.pid, signal.SIGKILL, leader_pinned=True)


def test_a_group_outlives_its_leader(start: Start, opened: Callable[[int], int]) -> None:
    leader = start("sleep 60 & echo $!; exit 0")
    assert leader.stdout is not None
    fd = opened(leader.pid)
    child = int(leader.stdout.readline())
    child_fd = opened(child)
    wait_readable(fd)
    assert pidfds.GroupSignaller().send(fd, leader.pid, signal.SIGKILL, leader_pinned=True)
    wait_readable(child_fd)


def test_without_the_flag_a_group_whose_leader_is_gone_is_left_alone(
    start: Start, opened: Callable[[int], int]
) -> None:
    leader = start("sleep 60")
    fd = opened(leader.pid)
    groups = pidfds.GroupSignaller()
    groups._by_pidfd = False
    assert not groups.send(fd, leader.pid, signal.SIGKILL, leader_pinned=False)
    assert not select.select([fd], [], [], 0)[0]


def test_a_kernel_without_the_flag_is_noticed_once(
    start: Start, opened: Callable[[int], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    leader = start("sleep 60")
    fd = opened(leader.pid)
    asked: list[int] = []

    def refuse(_fd: int, number: int, _info: object = None, flags: int = 0) -> None:
        asked.append(flags)
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(signal, "pidfd_send_signal", refuse)
    groups = pidfds.GroupSignaller()
    assert groups.send(fd, leader.pid, 0, leader_pinned=True)
    assert groups.send(fd, leader.pid, 0, leader_pinned=True)
    assert asked == [pidfds.PIDFD_SIGNAL_PROCESS_GROUP]


def test_another_refusal_of_the_kernel_is_not_taken_for_that(
    opened: Callable[[int], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    fd = opened(os.getpid())
    monkeypatch.setattr(signal, "pidfd_send_signal", refuse)
    with pytest.raises(PermissionError):
        pidfds.GroupSignaller().send(fd, 2**31 - 1, 0, leader_pinned=True)


@pytest.mark.parametrize(("script", "status"), [("exit 5", ExitStatus(code=5)), ("kill -9 $$", ExitStatus(signal=9))])
def test_the_status_of_a_reaped_stranger_is_told_or_unknown(
    start: Start, opened: Callable[[int], int], script: str, status: ExitStatus
) -> None:
    # A shell's child is its own to reap; to us it is a stranger.
    direct = start(f"sh -c 'sleep 0.2; {script}' & echo $!; wait; sleep 60")
    assert direct.stdout is not None
    pid = int(direct.stdout.readline())
    identity = identify(pid)
    assert identity is not None
    fd = opened(pid)
    wait_readable(fd)
    for _ in range(200):
        if identify(pid) is None:
            break
        select.select([], [], [], 0.01)
    assert identify(pid) is None  # its parent reaped it; since Linux 6.15 the pidfd still knows
    assert pidfds.stranger_status(fd, pid, identity.start_ticks) in (status, ExitStatus())


def test_the_status_of_a_living_or_strange_pid_is_unknown(opened: Callable[[int], int]) -> None:
    assert pidfds.stranger_status(opened(os.getpid()), os.getpid(), 1) == ExitStatus()
    with open("/dev/null") as null:  # no pidfd at all
        assert pidfds.stranger_status(null.fileno(), 2**31 - 1, 1) == ExitStatus()


@pytest.mark.parametrize(
    ("word", "status"),
    [
        (0, ExitStatus(code=0)), (0x0700, ExitStatus(code=7)), (0xFF00, ExitStatus(code=255)),
        (9, ExitStatus(signal=9)), (0x8B, ExitStatus(signal=11)), (0x137F, ExitStatus()), (0xFFFF, ExitStatus()),
    ],
)
def test_a_wait_word_is_a_code_a_signal_or_neither(word: int, status: ExitStatus) -> None:
    assert pidfds.status_of_wait_word(word) == status
