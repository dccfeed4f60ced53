"""Values about agents that more than one package speaks of."""

from __future__ import annotations

from enum import Enum

import msgspec


class AgentState(Enum):
    """The states of an agent, spelled as on the wire."""

    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    RESTARTING = "restarting"
    FAILED = "failed"


class Wanted(Enum):
    """What the operator wants of an agent; it outlives restarts of the daemon."""

    RUNNING = "running"
    STOPPED = "stopped"


class HealthStatus(Enum):
    """A health verdict, spelled as on the wire."""

    HEALTHY = "healthy"
    STARTING = "starting"
    DEAD = "dead"
    NO_HEARTBEAT = "no_heartbeat"
    OVER_THRESHOLD = "over_threshold"
    ENDPOINT_FAILED = "endpoint_failed"


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Which process this is, for ever: a pid alone is reused, these three together are not.

    Attributes:
        boot_id: ``/proc/sys/kernel/random/boot_id``.
        pid: the process id.
        start_ticks: field 22 of ``/proc/PID/stat`` (proc(5)), clock ticks since boot.
    """

    boot_id: str
    pid: int
    start_ticks: int


class ExitStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How a process ended: a code, a signal, or neither when nobody can tell any more."""

    code: int | None = None
    signal: int | None = None

    @property
    def known(self) -> bool:
        """Whether the kernel told us how it ended."""
        return self.code is not None or self.signal is not None

    @property
    def clean(self) -> bool:
        """Exit code 0; an unknown status counts as a failure."""
        return self.code == 0


class BinaryTrial(msgspec.Struct, frozen=True, kw_only=True):
    """What became of running a binary that is not in place yet, as its agent's user.

    Attributes:
        error: why the kernel would not execute it; empty when it ran.
        status: how it ended.
        timed_out: it was killed because it did not end in time.
        output: the beginning of what it printed.
        version: the version it printed; empty for none.
    """

    error: str = ""
    status: ExitStatus = ExitStatus()
    timed_out: bool = False
    output: str = ""
    version: str = ""


class LastExit(msgspec.Struct, frozen=True, kw_only=True):
    """The last end of an agent's process, as the API shows it.

    Attributes:
        at: wall time, Unix seconds.
    """

    code: int | None = None
    signal: int | None = None
    reason: str = ""
    at: float = 0.0
