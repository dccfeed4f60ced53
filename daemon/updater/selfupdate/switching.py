"""From one version of the daemon to another, and back: the record, the watcher, ``current``, the exec.

``Switch.forward`` leaves something at each step from which the launcher, the watcher or the next daemon can
go back: the record before the watcher, the watcher before the switch, the switch before the exec.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from twisted.logger import Logger

from daemon import faults
from daemon.aio.command import CommandRunner
from daemon.aio.reactor import Clock
from daemon.aio.threads import Threads
from daemon.config.schema import UpdateConfig
from daemon.durable import snapshot
from daemon.durable.workdir import WorkDir
from daemon.errors import UpdateApplyError, UpdateRollbackError
from daemon.interfaces import AgentRoster
from daemon.model.agent import AgentState, Identity
from daemon.procfs.identity import identify
from daemon.updater.selfupdate import launcher
from daemon.updater.selfupdate.checking import OUTPUT_MAX
from daemon.updater.selfupdate.disk import DISK_S, on_disk
from daemon.updater.selfupdate.handing_over import (
    GivesWay,
    HandOver,
    Invocation,
    environment,
    file_behind_stderr,
    leads_nowhere,
)
from daemon.updater.selfupdate.installation import Installation
from daemon.updater.selfupdate.probation import STDERR_LOG, WATCHER_LOG, Phase, Probation, ProbationFile

WATCHER_S = 20.0  # for the watcher to be there
RESERVE_MAX_S = 30.0  # of verify_timeout, kept for the way back
# Our own import path, and nothing of the host's: an isolated interpreter takes none from variables.
WATCH = (
    'import sys; sys.path[:] = sys.argv.pop(1).split("\\n"); '
    "from daemon.updater.selfupdate.watcher import main; sys.exit(main(sys.argv[1:]))"
)
GRACE_S = 3.0  # for a supervisor we know nothing of to start the daemon again


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """When what happens to a version on probation, monotonic seconds; and how long SIGTERM gets."""

    give_up: float
    deadline: float
    kill_after_s: float


def times(now: float, verify_timeout_s: float) -> Times:
    """A third of ``verify_timeout``, 30 s at most, is kept so that the old version is back within all of it.

    A quarter of that third is for the new version to go back by itself.
    """
    reserve = min(RESERVE_MAX_S, verify_timeout_s / 3)
    end = now + verify_timeout_s
    return Times(give_up=end - reserve, deadline=end - reserve * 3 / 4, kill_after_s=reserve / 6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a switch needs to know of the daemon.

    Attributes:
        settings: of updates, asked anew each time.
        invocation: how we were started, and where the log goes.
        service_manager: the variables it gave us; with ``NOTIFY_SOCKET`` it starts us again by itself.
        paths: the work_dir.
        clock, threads, commands: of the daemon.
        roster: the agents.
        daemon: gives way.
    """

    settings: Callable[[], UpdateConfig]
    invocation: Invocation
    service_manager: Mapping[str, str]
    paths: WorkDir
    clock: Clock
    threads: Threads
    commands: CommandRunner
    roster: AgentRoster
    daemon: GivesWay


class Switch:
    """The switch of one installation.

    Args:
        installation: ours.
        around: the daemon.

    Attributes:
        under_way: the daemon gives way; nothing else is begun.
    """

    log = Logger()

    def __init__(self, installation: Installation, around: Surroundings) -> None:
        self.under_way = False
        self._here = installation
        self._around = around
        self._file = ProbationFile(installation.root)

    async def forward(self, update_id: str, version: str) -> None:
        """The daemon will become that version; returns when it has been asked to give way.

        Raises:
            UpdateApplyError: D4003; everything is as before.
        """
        probation = await self._on_disk(self._begin, update_id, version)
        faults.hit("update.daemon.probation")
        try:
            await self._start_watcher(probation)
            faults.hit("update.daemon.watched")
            await self._on_disk(launcher.flip, self._here.root, version)
            faults.hit("update.daemon.flipped")
        except UpdateApplyError as error:
            await self._on_disk(self._undo, update_id, error.message)
            raise
        self._give_way(update_id, version, forward=True)

    async def back(self, found: Probation, reason: str, evidence: Mapping[str, Any]) -> None:
        """From the new version, which we are, to the old one; returns when the daemon has been asked to give
        way.

        Raises:
            UpdateRollbackError: D4004, there is nothing to go back to, or the disk refuses.
        """
        try:
            await self._on_disk(self._take_back, found.id, reason, evidence)
            version = await self._on_disk(self._here.current)
        except UpdateApplyError as error:
            raise UpdateRollbackError(error.message) from error
        if version == self._here.running:
            raise UpdateRollbackError(
                f"there is no version to go back to from {version}; install one with scripts/bundle install"
            )
        self._give_way(found.id, version, forward=False)

    def previous(self) -> str:
        """The version before the running one, if it is still kept; blocks."""
        found, running = self._file.read(), self._here.running
        if found is None:
            return ""
        version = {found.new: found.old, found.old: found.earlier}.get(running, "")
        return version if version != running and launcher.runnable(self._here.root, version) else ""

    async def leave_word(self) -> None:
        """We stop because somebody wants it. Where an update of us is not decided yet, the record says so,
        and nobody takes it for a crash and starts the old version in our place."""
        if self.under_way:
            return
        try:
            await self._on_disk(self._leave_word)
        except UpdateApplyError as error:
            self.log.warn("nobody will know that this end was asked for: {error}", error=error.message)

    async def _on_disk(self, call: Callable[..., Any], *args: Any) -> Any:
        return await on_disk(self._around.threads, DISK_S, call, *args)

    def _begin(self, update_id: str, version: str) -> Probation:
        """Writes the record, and keeps the state as it is; blocks."""
        here, around = self._here, self._around
        settings, start = around.settings(), here.root / launcher.PROGRAM
        me = identify(os.getpid())
        if me is None:
            raise UpdateApplyError("/proc is not mounted; mount it")
        at = times(around.clock.seconds(), settings.verify_timeout)
        if not start.is_file():
            start = here.root / launcher.CURRENT / launcher.PROGRAM
        probation = Probation(
            id=update_id, old=here.running, new=version, earlier=self.previous(), began_at=time.time(),
            give_up_mono=at.give_up, deadline_mono=at.deadline, kill_after_s=at.kill_after_s,
            grace_s=min(GRACE_S, at.kill_after_s), verify_period_s=settings.verify_period, daemon=me,
            agents={
                agent.agent_id: agent.identity for agent in around.roster.supervised()
                if agent.identity is not None and agent.state is AgentState.RUNNING
            },
            argv=around.invocation.argv(start), env=environment(os.environ, around.service_manager),
            cwd=str(Path.cwd()), supervised=bool(around.service_manager.get("NOTIFY_SOCKET")),
            work_dir=str(around.paths.root),
            logs=tuple(filter(None, (around.invocation.log_file, self._stderr() or file_behind_stderr()))),
        )
        snapshot.take(around.paths.metadata, update_id)
        self._file.begin(probation)
        return probation

    def _stderr(self) -> str:
        return str(self._here.root / STDERR_LOG) if leads_nowhere() else ""

    async def _start_watcher(self, probation: Probation) -> None:
        """A process of this version, in a session of its own, that has the daemon under watch."""
        try:
            result = await self._around.commands.run(
                (*launcher.interpreter(), "-c", WATCH, "\n".join(sys.path), str(self._here.root),
                 probation.id),
                env=environment(os.environ, {}), cwd="/", timeout_s=WATCHER_S, max_output=OUTPUT_MAX,
                with_stderr=True,
            )
        except OSError as error:
            raise UpdateApplyError(f"the watcher of the update cannot be started: {error}") from error
        text = result.output.decode("utf-8", "replace").strip()
        try:
            if not result.status.clean:
                raise ValueError(text[-500:] or f"it ended with {result.status}")
            watcher = msgspec.json.decode(text, type=Identity)
        except (ValueError, msgspec.MsgspecError) as error:
            raise UpdateApplyError(f"the watcher of the update does not run: {error}") from error
        if not await self._on_disk(lambda: self._file.note(probation.id, watcher=watcher)):
            raise UpdateApplyError("somebody has taken the update back; look into the launcher's messages")
        self.log.info(
            "pid {pid} watches over the update; its log is {path}",
            pid=watcher.pid, path=self._here.root / WATCHER_LOG,
        )

    def _undo(self, update_id: str, reason: str) -> None:
        """The switch was not to be; blocks."""
        self._file.take_back(update_id, "daemon", reason)
        self._file.settle(update_id)
        snapshot.remove_all(self._around.paths.metadata)

    def _take_back(self, update_id: str, reason: str, evidence: Mapping[str, Any]) -> None:
        self._file.take_back(update_id, "daemon", reason, evidence, even_confirmed=True)

    def _give_way(self, update_id: str, version: str, *, forward: bool) -> None:
        """Asks the daemon to become that version."""
        if self.under_way:
            return

        def before() -> None:
            if forward:  # once more: everything is saved by now
                snapshot.take(self._around.paths.metadata, update_id)

        def abandoned(reason: str) -> None:
            if forward and self._file.note(update_id, stopping=True):
                self._file.take_back(update_id, "daemon", reason)

        around = self._around
        self.under_way = around.daemon.hand_over(HandOver(
            version=version,
            argv=around.invocation.argv(self._here.root / launcher.CURRENT / launcher.PROGRAM),
            env=environment(os.environ, around.service_manager), before=before, abandoned=abandoned,
            stderr=self._stderr(),
        ))

    def _leave_word(self) -> None:
        """Blocks."""
        found = self._file.read()
        if (
            found is not None and found.state is Phase.TRYING and found.daemon == identify(os.getpid())
            and self._here.running in (found.old, found.new)
        ):
            self._file.note(found.id, stopping=True)
