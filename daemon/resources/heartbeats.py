"""Keeps the last heartbeats over a restart of the daemon: one small file, written when something changed."""

from __future__ import annotations

from pathlib import Path

import msgspec
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from daemon.aio.periodic import Periodic, periodic
from daemon.aio.reactor import Clock
from daemon.aio.rota import until_beat_s
from daemon.aio.threads import LaneBusy, LaneTimeout, Threads
from daemon.durable.atomic import read_bounded, set_aside, write_atomic
from daemon.errors import StorageError
from daemon.interfaces import AgentRoster

log = Logger()

INTERVAL_S = 30.0
FILE_MAX = 4 * 2**20
LANE = "heartbeats-save"
DEADLINE_S = 10.0
SCHEMA = 1


class Last(msgspec.Struct, frozen=True, kw_only=True):
    """The last heartbeat of one agent: monotonic seconds of this boot, and wall time."""

    mono: float
    at: float


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The file."""

    boot_id: str
    agents: dict[str, Last]
    schema: int = SCHEMA


class HeartbeatKeeper(Service):
    """The service. A host whose agents send no heartbeats is looked at twice a minute and writes nothing.

    Args:
        path: ``work_dir/state/heartbeats.json``.
        clock: the reactor.
        threads: writes.
        roster: the agents.
        boot_id: of this boot; monotonic times of another mean nothing.
    """

    def __init__(
        self, path: Path, clock: Clock, threads: Threads, roster: AgentRoster, boot_id: str
    ) -> None:
        self._path = path
        self._clock = clock
        self._threads = threads
        self._roster = roster
        self._boot_id = boot_id
        self._rounds: Periodic | None = None
        self._saved: dict[str, Last] = {}
        self._complained = False

    def restore(self) -> None:
        """Gives agents back what an earlier daemon of this boot heard of them. Blocks; for the start only."""
        try:
            # Also of a newer daemon that was rolled back, as far as it still fits.
            snapshot = msgspec.json.decode(read_bounded(self._path, FILE_MAX), type=Snapshot)
        except FileNotFoundError:
            return
        except (StorageError, OSError, ValueError, RecursionError, msgspec.MsgspecError) as error:
            self._set_aside(error)
            return
        if snapshot.boot_id != self._boot_id:
            return
        now = self._clock.seconds()
        for agent in self._roster.supervised():
            last = snapshot.agents.get(agent.agent_id)
            if last is not None and 0 < last.mono <= now and 0 < last.at < 253_402_300_800.0:
                agent.restore_heartbeat(last.mono, last.at)
                self._saved[agent.agent_id] = last

    def _set_aside(self, error: Exception) -> None:
        try:
            kept = str(set_aside(self._path))
        except (OSError, StorageError) as why_not:
            kept = f"its place ({why_not})"
        log.warn(
            "D1004 the last heartbeats are unreadable ({error}); kept as {kept}, they begin anew",
            error=str(error), kept=kept, error_code="D1004",
        )

    def startService(self) -> None:
        """Begins to look."""
        super().startService()
        self._rounds = periodic(
            self._clock, INTERVAL_S, lambda: Deferred.fromCoroutine(self._save()), name="last heartbeats",
            phase_s=until_beat_s(self._clock.seconds(), INTERVAL_S),
        )

    def stopService(self) -> Deferred[None]:
        """Writes a last time; fires when that is done."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self._rounds is not None:
            await self._rounds.stop()
            self._rounds = None
        await self._save()

    async def _save(self) -> None:
        agents = {
            agent.agent_id: Last(mono=agent.heartbeat_mono, at=agent.heartbeat_at)
            for agent in self._roster.supervised() if agent.heartbeat_mono is not None
        }
        if agents == self._saved:
            return
        data = msgspec.json.encode(Snapshot(boot_id=self._boot_id, agents=agents))
        try:
            await self._threads.run(LANE, DEADLINE_S, write_atomic, self._path, data, fsync=False)
        except (StorageError, LaneBusy, LaneTimeout) as error:
            if not self._complained:
                self._complained = True
                log.warn(
                    "D1004 the last heartbeats cannot be stored ({error}); after a restart of the daemon "
                    "they are unknown until the next ones", error=str(error), error_code="D1004",
                )
            return
        self._complained = False
        self._saved = agents
