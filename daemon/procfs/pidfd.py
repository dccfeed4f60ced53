"""pidfds: handles of processes that no reuse of a pid can fool (pidfd_open(2), Linux 5.3)."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import struct

from daemon.model.agent import ExitStatus
from daemon.procfs.stat import read_stat

# linux/pidfd.h: struct pidfd_info, first published size (64 bytes) and the ioctl that fills it.
_INFO_SIZE = 64
_INFO_EXIT_CODE_AT = 60
PIDFD_GET_INFO = (3 << 30) | (_INFO_SIZE << 16) | (0xFF << 8) | 11
PIDFD_INFO_EXIT = 1 << 3  # Linux 6.15
PIDFD_SIGNAL_PROCESS_GROUP = 1 << 2  # Linux 6.9


def open_pidfd(pid: int) -> int | None:
    """A pidfd (close-on-exec) of the process with this pid, or None when there is none.

    Raises:
        OSError: the kernel or the descriptor limit refuses.
    """
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def send_signal(pidfd: int, number: int) -> bool:
    """Signals the one process; False when it is gone.

    Raises:
        PermissionError: it runs as somebody we may not signal.
    """
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return False
    return True


class GroupSignaller:
    """Signals the process group a pidfd's process leads.

    Since Linux 6.9 the pidfd itself names the group, safe even after the leader was reaped. Before
    that, ``killpg`` serves while the leader is alive or an unreaped zombie (its pid cannot be reused).
    """

    def __init__(self) -> None:
        self._by_pidfd = True

    def send(self, pidfd: int, pid: int, number: int, *, leader_pinned: bool) -> bool:
        """Signals the group.

        Args:
            pidfd: of the leader.
            pid: of the leader, which is also the group's number.
            number: the signal.
            leader_pinned: whether the leader is known to be alive or our unreaped zombie.

        Returns:
            whether anybody was there to be signalled.

        Raises:
            PermissionError: none of the group may be signalled by us.
        """
        if self._by_pidfd:
            try:
                signal.pidfd_send_signal(pidfd, number, None, PIDFD_SIGNAL_PROCESS_GROUP)
                return True
            except ProcessLookupError:
                return False
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                self._by_pidfd = False  # a kernel before 6.9
        if not leader_pinned:
            return False
        try:
            os.killpg(pid, number)
        except ProcessLookupError:
            return False
        return True


def status_of_wait(info: os.waitid_result) -> ExitStatus:
    """The exit status in what waitid(2) returned."""
    if info.si_code == os.CLD_EXITED:
        return ExitStatus(code=info.si_status)
    return ExitStatus(signal=info.si_status)


def status_of_wait_word(word: int) -> ExitStatus:
    """The exit status in a word as waitpid(2) stores it."""
    if os.WIFEXITED(word):
        return ExitStatus(code=os.WEXITSTATUS(word))
    if os.WIFSIGNALED(word):
        return ExitStatus(signal=os.WTERMSIG(word))
    return ExitStatus()


def peek_status(pidfd: int) -> ExitStatus | None:
    """The exit status of our own child that ended, left unreaped; None when it is not our child."""
    try:
        info = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT | os.WNOHANG)
    except ChildProcessError:
        return None
    return None if info is None else status_of_wait(info)


def reap(pidfd: int) -> None:
    """Reaps our own child that ended; nothing happens when it is not ours."""
    try:
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        return


def _may_see(pid: int) -> bool:
    """Whether field 52 of a process's stat tells us the truth: it is ours, or we are root."""
    try:
        return os.geteuid() in (0, os.stat(f"/proc/{pid}").st_uid)  # noqa: PTH116
    except OSError:
        return False


def stranger_status(pidfd: int, pid: int, start_ticks: int) -> ExitStatus:
    """The exit status of an ended process that is not our child.

    While it is a zombie, field 52 of its stat tells; once its parent reaped it, ``PIDFD_GET_INFO``
    does (Linux 6.15); before that kernel it is unknown.
    """
    stat = read_stat(pid)
    zombie = stat is not None and stat.start_ticks == start_ticks and stat.dead
    # Without the right to ptrace it the kernel shows 0 there, which means nothing then.
    if stat is not None and zombie and (stat.exit_code or _may_see(pid)):
        return status_of_wait_word(stat.exit_code)
    info = bytearray(_INFO_SIZE)
    struct.pack_into("=Q", info, 0, PIDFD_INFO_EXIT)
    try:
        fcntl.ioctl(pidfd, PIDFD_GET_INFO, info)
    except OSError:  # ENOTTY, EINVAL or ESRCH: a kernel that cannot tell any more
        return ExitStatus()
    if not struct.unpack_from("=Q", info, 0)[0] & PIDFD_INFO_EXIT:
        return ExitStatus()
    return status_of_wait_word(struct.unpack_from("=i", info, _INFO_EXIT_CODE_AT)[0])
