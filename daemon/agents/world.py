"""What agents need of the rest of the daemon, in one place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from daemon.agents.belongings import Sweeper, Terminator
from daemon.agents.metadata import FileMetadataStore
from daemon.aio.command import CommandRunner
from daemon.aio.process import ProcessLauncher
from daemon.aio.reactor import Clock
from daemon.aio.threads import Threads
from daemon.aio.turn import TurnBudget
from daemon.interfaces import AlertSink, EventSink, WallClock
from daemon.procfs.age import boot_ticks
from daemon.procfs.marks import writes_to


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentWorld:
    """Handed to every agent.

    Attributes:
        clock: monotonic; decides everything.
        wall: for what is shown and stored.
        logs_dir: ``work_dir/logs``.
        socket_path: the daemon's heartbeat socket.
        daemon_env: our environment, of which agents get PATH and LANG.
        boot_id: of this boot.
        new_token: makes a random 128-bit token in hex.
        random_unit: numbers in [0, 1) for jitter.
        process_age_s: seconds since a process with those start ticks began.
        boot_ticks: now, in the unit of start ticks.
        writes_to: whether a pid has both its streams on the file with that device and inode.
    """

    clock: Clock
    wall: WallClock
    launcher: ProcessLauncher
    sweeper: Sweeper
    terminator: Terminator
    threads: Threads
    commands: CommandRunner
    events: EventSink
    alerts: AlertSink
    store: FileMetadataStore
    budget: TurnBudget
    logs_dir: Path
    socket_path: str
    daemon_env: Mapping[str, str]
    boot_id: str
    new_token: Callable[[], str]
    random_unit: Callable[[], float]
    process_age_s: Callable[[int], float]
    boot_ticks: Callable[[], int] = boot_ticks
    writes_to: Callable[[int, int, int], bool] = writes_to
