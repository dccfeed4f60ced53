"""What a collector is, and the small things all of them share.

A collector reads one subject of the host and says how often and within what time. The manager
(:mod:`daemon.collectors.manager`) runs it; a plug-in (:mod:`daemon.collectors.plugins`) only has to look
like :class:`Collector`, it need not inherit from anything here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Protocol

from daemon.aio.command import CommandRunner
from daemon.aio.reactor import Clock
from daemon.aio.threads import Threads
from daemon.errors import CollectError
from daemon.interfaces import WallClock
from daemon.model.metrics import Metrics

PROC = "/proc"


class Collector(Protocol):
    """One subject of the host, read at an interval.

    A collector whose plain ``collect`` may block (disks, directories, sockets) sets an attribute
    ``blocking = True``; it is then called on a thread of its own, never on the reactor's.
    """

    @property
    def name(self) -> str:
        """Unique among the collectors; the ``name`` of its Metrics."""
        ...

    @property
    def interval_s(self) -> float:
        """Seconds between two rounds, > 0."""
        ...

    @property
    def timeout_s(self) -> float:
        """Seconds a round may take, > 0."""
        ...

    def collect(self) -> Metrics | Awaitable[Metrics]:
        """Takes one sample.

        Returns:
            the sample, or a Deferred or coroutine of it; cancelling that must end the work.

        Raises:
            CollectError: the subject cannot be read now; the next round tries again.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectorServices:
    """What the daemon lends its collectors, plug-ins included.

    Attributes:
        clock: the reactor; monotonic seconds and timers.
        threads: for calls that may block.
        wall: Unix seconds, for the timestamp of a sample.
        runner: runs commands without a shell.
        env: the environment of those commands.
    """

    clock: Clock
    threads: Threads
    wall: WallClock
    runner: CommandRunner
    env: Mapping[str, str]


def is_blocking(collector: Collector) -> bool:
    """Whether its ``collect`` must be called on a thread."""
    return getattr(collector, "blocking", False) is True


def lane_of(name: str) -> str:
    """The thread lane of a collector: one each, so that a hung call holds nobody else."""
    return f"collector:{name}"


def read_proc(path: str) -> bytes:
    """A file of procfs, which never blocks, in one read.

    Raises:
        CollectError: it cannot be read.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            return file.readall()
    except OSError as error:
        raise CollectError(
            f"cannot read {path}: {error.strerror or error}; is /proc mounted and readable?", path=path
        ) from error


def percent(part: float, whole: float) -> float:
    """``part`` of ``whole`` in percent, 0 to 100 with two decimals; 0 of nothing."""
    if whole <= 0:
        return 0.0
    return round(min(100.0, max(0.0, 100.0 * part / whole)), 2)
