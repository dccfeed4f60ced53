"""Identity of a process: boot id, pid and start time together name one process for ever."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from daemon.model.agent import Identity
from daemon.procfs.stat import ProcStat, read_stat

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@cache
def boot_id() -> str:
    """The id of this boot of the machine (proc_sys_kernel(5)); constant while we live.

    Raises:
        OSError: /proc is not there, without which nothing of ours can work.
    """
    return BOOT_ID.read_text(encoding="ascii").strip()


def identity_of(stat: ProcStat) -> Identity:
    """The identity of the process this stat was read from."""
    return Identity(boot_id=boot_id(), pid=stat.pid, start_ticks=stat.start_ticks)


def identify(pid: int) -> Identity | None:
    """The identity of a process that exists now, zombies included."""
    stat = read_stat(pid)
    return None if stat is None else identity_of(stat)


def verify(identity: Identity) -> ProcStat | None:
    """The stat of exactly that process, or None when it is gone or its pid belongs to a stranger.

    Whoever wants to act on the process opens its pidfd *before* asking this, so that the pid cannot
    change hands in between.
    """
    if identity.pid <= 0 or identity.start_ticks <= 0 or identity.boot_id != boot_id():
        return None
    stat = read_stat(identity.pid)
    if stat is None or stat.start_ticks != identity.start_ticks:
        return None
    return stat
