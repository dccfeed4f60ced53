"""A daemon's agents with real processes, and updates of one of them. As a program: one daemon that may be killed.

Usage: ``python -m tests.integration.updater_support update|finish|undo FOLDER``
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.task import react

from daemon import faults
from daemon.agents.belongings import Sweeper, Terminator
from daemon.agents.instance import AgentInstance
from daemon.agents.manager import MultiAgentManager
from daemon.agents.metadata import FileMetadataStore
from daemon.agents.registry import AgentRegistry
from daemon.agents.world import AgentWorld
from daemon.aio.command import PidfdCommandRunner
from daemon.aio.process import PidfdLauncher
from daemon.aio.sleep import sleep
from daemon.aio.threads import ThreadLanes
from daemon.aio.turn import TurnBudget
from daemon.assembly import Leaders
from daemon.config.schema import AgentConfig, AgentType, HealthCheckConfig, UpdateConfig
from daemon.health.checker import MultiHealthChecker
from daemon.health.probing import ProbeCommand, Probes
from daemon.httpclient import HttpClient
from daemon.model.agent import AgentState
from daemon.procfs.age import process_age_s
from daemon.procfs.identity import boot_id
from daemon.procfs.table import sweep
from daemon.procfs.usage import SessionMeter
from daemon.updater.agent.claims import Claims
from daemon.updater.agent.target import AgentTarget
from daemon.updater.target import Applied, Job
from tests.fakes.directory import FakeEvents
from tests.fakes.supervised import FakeAlerts

SLEEP = shutil.which("sleep") or "/bin/sleep"
QUIET = HealthCheckConfig(cpu_threshold=0.0, memory_threshold=0, heartbeat_timeout=0.0)


def program(version: str) -> bytes:
    """A real program that lives; the bytes behind its end make the difference."""
    return Path(SLEEP).read_bytes() + version.encode()


class Daemon:
    """The agents of a daemon on a folder, one of them, ``web``, to be updated.

    Args:
        root: of everything.
        check: its health checks.
        period_s, timeout_s: of the proof.
    """

    def __init__(
        self, reactor: Any, root: Path, *, check: HealthCheckConfig = QUIET, period_s: float = 0.3,
        timeout_s: float = 20.0,
    ) -> None:
        self.root = root
        self.reactor = reactor
        self.binary = root / "bin" / "web"
        for name in ("bin", "state", "logs", "downloads"):
            (root / name).mkdir(exist_ok=True)
        self.threads = ThreadLanes(reactor)
        self.spec = AgentConfig(
            id="web", type=AgentType.CUSTOM, binary_path=str(self.binary), args=("1000",),
            work_dir=str(root / "agents" / "web"), start_seconds=0.1, health_check=check,
            version_command=(str(self.binary), "--version"),
        )
        launcher = PidfdLauncher(reactor)
        commands = PidfdCommandRunner(reactor, launcher)
        sweeper = Sweeper(self.threads, sweep)
        events, alerts = FakeEvents(), FakeAlerts()
        world = AgentWorld(
            clock=reactor, wall=time.time, launcher=launcher, sweeper=sweeper,
            terminator=Terminator(reactor, launcher, sweeper), threads=self.threads, commands=commands,
            events=events, alerts=alerts,
            store=FileMetadataStore(root / "state", reactor, self.threads, events, alerts),
            budget=TurnBudget(reactor, time.perf_counter), logs_dir=root / "logs",
            socket_path=str(root / "heartbeat.sock"), daemon_env=dict(os.environ), boot_id=boot_id(),
            new_token=lambda: secrets.token_hex(16), random_unit=lambda: 0.0, process_age_s=process_age_s,
        )
        leaders = Leaders(reactor)
        self.manager = MultiAgentManager(
            # Of this folder alone: daemons of one secret take each other's agents for their own left-overs.
            world, AgentRegistry(), secret=str(root).encode(), on_leader=leaders.changed,
            on_transition=lambda agent_id, old, new: leaders.on_state(agent_id),
        )
        self.health = MultiHealthChecker(
            reactor, self.manager, lambda leader, _age_s: SessionMeter(leader, lambda session: [session]),
            Probes(
                http=HttpClient(reactor, self.threads), connect=_never, commands=commands, command_of=_no_command
            ),
            alerts,
        )
        leaders.watchers = (self.health,)
        self.config = UpdateConfig(
            backup_dir=str(root / "backups"), download_dir=str(root / "downloads"),
            verify_period=period_s, verify_timeout=timeout_s,
        )
        self.target = AgentTarget(
            "web", self.manager, config=lambda: self.config, clock=reactor, wall=time.time, threads=self.threads,
            claims=Claims(),
        )

    @property
    def agent(self) -> AgentInstance:
        return self.manager.registry.get("web")

    def take_over(self) -> None:
        self.manager.take_over([self.spec], sweep())
        self.health.apply([self.spec])
        self.health.startService()

    async def running(self) -> None:
        """Takes over, starts, and waits until it runs."""
        self.take_over()
        self.manager.start_missing()
        while self.agent.state is not AgentState.RUNNING:
            await sleep(self.reactor, 0.02)

    async def leave(self) -> None:
        await self.health.stopService()
        await self.manager.leave()
        await self.threads.stop(5.0)

    async def end(self) -> None:
        """Ends the agent too."""
        await self.manager.stop("web", graceful=False)
        await self.leave()

    def executes(self) -> bytes:
        """The program its process runs, as the kernel has it."""
        return Path(f"/proc/{self.agent.pid}/exe").read_bytes()

    def job(self, data: bytes, version: str = "1.1.0", **files: bytes) -> Job:
        folder = self.root / "downloads" / "u1"
        folder.mkdir(parents=True, exist_ok=True)
        contents = {"thing": data, **files}
        for name, content in contents.items():
            (folder / name).write_bytes(content)
        return Job(
            id="u1", version=version, old_version="1.0.0", folder=folder,
            files={name: folder / name for name in contents},
            sha256={name: hashlib.sha256(content).hexdigest() for name, content in contents.items()},
            modes=dict.fromkeys(contents, 493), main="thing",
        )

    # -------------------------------------------------- a journal as the updater's, in short

    @property
    def journal(self) -> Path:
        return self.root / "journal"

    def load(self, job: Job) -> Job | None:
        if not self.journal.exists():
            return None
        applied = msgspec.json.decode(self.journal.read_bytes(), type=Applied)
        return Job(**{name: getattr(job, name) for name in Job.__slots__} | {"applied": applied})

    async def update(self, job: Job) -> None:
        """All steps."""
        applied = await self.target.plan(job)
        self.journal.write_bytes(msgspec.json.encode(applied))
        planned = self.load(job)
        assert planned is not None
        await self.target.preflight(planned)
        await self.finish(planned)

    async def finish(self, job: Job) -> None:
        await self.target.apply(job)
        await self.target.verify(job)
        await self.target.prune(job, 3)


async def _never(host: str, port: int, timeout_s: float) -> None:
    raise OSError(f"no connection to {host}:{port} within {timeout_s} s")


def _no_command(spec: AgentConfig) -> ProbeCommand:
    raise AssertionError(spec)


async def _main(reactor: Any, verb: str, folder: str) -> None:
    daemon = Daemon(reactor, Path(folder))
    job = daemon.job(program("new"), extra=b"beside")
    planned = daemon.load(job)
    if verb == "update" or planned is None:
        await daemon.running()
        if verb == "update":
            faults.arm(os.environ)
        await (daemon.target.discard(job) if verb == "undo" else daemon.update(job))
    else:
        daemon.take_over()
        if verb == "undo" and "restor" in os.environ.get(faults.VARIABLE, ""):
            faults.arm(os.environ)
        work = Deferred.fromCoroutine(
            daemon.target.roll_back(planned) if verb == "undo" else daemon.finish(planned)
        )
        daemon.manager.start_missing()
        await work
    while daemon.agent.state is not AgentState.RUNNING:
        await sleep(reactor, 0.02)
    print(daemon.agent.pid, flush=True)
    await daemon.leave()


if __name__ == "__main__":
    react(lambda reactor: Deferred.fromCoroutine(_main(reactor, *sys.argv[1:])))
