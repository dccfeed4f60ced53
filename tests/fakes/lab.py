"""A laboratory for agents: one fake host, and daemons that come and go on it with real metadata files."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from daemon.agents.belongings import Sweeper, Terminator
from daemon.agents.instance import AgentInstance
from daemon.agents.manager import MultiAgentManager
from daemon.agents.metadata import AgentMetadata, FileMetadataStore
from daemon.agents.registry import AgentRegistry
from daemon.agents.world import AgentWorld
from daemon.aio import reactor as seams
from daemon.aio.turn import TurnBudget
from daemon.config.schema import AgentConfig, AgentType, RestartConfig
from daemon.model.agent import AgentState
from daemon.model.event import Severity
from daemon.procfs.identity import boot_id
from tests.fakes.commands import FakeCommandRunner, FakeProgram
from tests.fakes.directory import FakeEvents, Published
from tests.fakes.host import FakeHost, FakeLauncher, FakeProcess, Program
from tests.fakes.supervised import FakeAlerts
from tests.fakes.threads import InlineThreads

EPOCH_S = 1_700_000_000.0


class LifeClock:
    """The clock as one daemon sees it: its timers die with it, time goes on.

    Implements :class:`daemon.aio.reactor.Clock` over the laboratory's Clock.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._calls: list[Any] = []
        self._dead = False

    def seconds(self) -> float:
        """See Clock."""
        return self._clock.seconds()

    def callLater(self, delay: float, callable: Callable[..., Any], *args: Any, **kw: Any) -> seams.DelayedCall:
        """See Clock."""
        call = self._clock.callLater(delay, callable, *args, **kw)
        if self._dead:
            call.cancel()
            call = _Never(call.getTime())
        else:
            self._calls.append(call)
        return call

    @property
    def pending(self) -> int:
        """Timers to come."""
        self._calls = [c for c in self._calls if c.active()]
        return len(self._calls)

    def die(self) -> None:
        """No timer of this daemon fires any more."""
        self._dead = True
        for call in self._calls:
            if call.active():
                call.cancel()


class _Never:
    """A timer of a daemon that is gone: asked for, never fired."""

    def __init__(self, at: float) -> None:
        self._at = at
        self._active = True

    def active(self) -> bool:
        return self._active

    def cancel(self) -> None:
        self._active = False

    def getTime(self) -> float:
        return self._at


@dataclass(frozen=True)
class Change:
    """A transition of an agent's state."""

    agent_id: str
    old: AgentState
    new: AgentState
    at: float


class Life:
    """One daemon: from its start to its end.

    Attributes:
        changes: every transition, in order.
        hears: called with the agent's id at each of them.
        events: what it announced.
        commands: its fake command runner.
    """

    def __init__(self, lab: Lab, work_dir: Path, secret: bytes, launcher: FakeLauncher | None = None) -> None:
        self.lab = lab
        self.work_dir = work_dir
        self.clock = LifeClock(lab.clock)
        self.threads = InlineThreads(self.clock)  # type: ignore[arg-type]  # a Clock in all it uses
        self.events = FakeEvents()
        self.alerts = FakeAlerts()
        self.commands = FakeCommandRunner(self.clock, lab.commands)  # type: ignore[arg-type]  # likewise
        self.launcher = launcher or FakeLauncher(lab.host, self.clock)
        self.launcher.clock = self.clock
        self.changes: list[Change] = []
        self.hears: Callable[[str], None] = lambda _agent_id: None
        state = work_dir / "state" / "agents"
        state.mkdir(parents=True, exist_ok=True)
        self.store = FileMetadataStore(state, self.clock, self.threads, self.events, self.alerts)
        sweeper = Sweeper(self.threads, lab.host.sweep)
        self.world = AgentWorld(
            clock=self.clock,
            wall=lab.wall,
            launcher=self.launcher,
            sweeper=sweeper,
            terminator=Terminator(self.clock, self.launcher, sweeper),
            threads=self.threads,
            commands=self.commands,
            events=self.events,
            alerts=self.alerts,
            store=self.store,
            budget=TurnBudget(self.clock, lambda: lab.cpu_s),
            logs_dir=work_dir / "logs",
            socket_path=str(work_dir / "run" / "heartbeat.sock"),
            daemon_env={"PATH": "/usr/bin:/bin", "NOTIFY_SOCKET": "/run/systemd/notify"},
            boot_id=boot_id(),
            new_token=lambda: f"{next(lab.tokens):016x}{0:016x}",
            random_unit=lambda: lab.random_unit,
            process_age_s=lab.host.age_s,
            boot_ticks=lab.host.boot_ticks,
            writes_to=lab.host.writes_to,
        )
        self.manager = MultiAgentManager(
            self.world, AgentRegistry(), secret=secret, on_transition=self._changed
        )

    def _changed(self, agent_id: str, old: AgentState, new: AgentState) -> None:
        self.hears(agent_id)
        self.changes.append(Change(agent_id, old, new, self.clock.seconds()))

    def agent(self, agent_id: str = "web") -> AgentInstance:
        """An agent by id."""
        return self.manager.registry.get(agent_id)

    def process(self, agent_id: str = "web") -> FakeProcess:
        """The process under watch."""
        pid = self.agent(agent_id).pid
        return self.lab.host.processes[pid]

    def states(self, agent_id: str = "web") -> list[str]:
        """The states it went through."""
        return [c.new.value for c in self.changes if c.agent_id == agent_id]

    def told(self, type: str, agent_id: str = "") -> list[Published]:
        """The events of one type."""
        return [e for e in self.events.published if e.type == type and agent_id in ("", e.agent_id)]

    def alarms(self) -> list[Published]:
        """The events of severity error."""
        return [e for e in self.events.published if e.severity is Severity.ERROR]

    def die(self) -> None:
        """kill -9."""
        self.clock.die()
        self.launcher.die()

    def leave(self) -> Deferred[None]:
        """An orderly stop; the caller advances the clock and then calls :meth:`die`."""
        return Deferred.fromCoroutine(self.manager.leave())

    def saved(self, agent_id: str = "web") -> AgentMetadata:
        """What is on disk of an agent."""
        data = self.metadata_path(agent_id).read_bytes()
        return msgspec.json.decode(data, type=AgentMetadata)

    def metadata_path(self, agent_id: str = "web") -> Path:
        """Where an agent's file is."""
        return self.work_dir / "state" / "agents" / f"{agent_id}.json"


class Lab:
    """The host, the clock, the configuration, and the daemon of the moment.

    Attributes:
        life: the running daemon.
        cpu_s: what the turn budget's clock shows; a test moves it.
        random_unit: what jitter draws.
    """

    def __init__(self) -> None:
        shm = Path("/dev/shm")
        self.root = Path(tempfile.mkdtemp(prefix="lab-", dir=shm if shm.is_dir() else None))
        self.clock = Clock()
        self.clock.advance(1000.0)
        self.host = FakeHost(self.clock)
        self.commands: dict[str, FakeProgram] = {}
        self.tokens = itertools.count(1)
        self.cpu_s = 0.0
        self.random_unit = 0.0
        self.specs: dict[str, AgentConfig] = {}
        self.life: Life = None  # type: ignore[assignment]  # set by boot, before anything asks
        (self.root / "bin").mkdir()

    def close(self) -> None:
        """Removes its files."""
        shutil.rmtree(self.root)

    def wall(self) -> float:
        """Wall time."""
        return EPOCH_S + self.clock.seconds()

    # ----------------------------------------------------------- configuration

    def binary(self, agent_id: str) -> Path:
        """The path of an agent's binary."""
        return self.root / "bin" / agent_id

    def program(self, agent_id: str = "web") -> Program:
        """What an agent's binary does."""
        return self.host.programs.setdefault(str(self.binary(agent_id)), Program())

    def spec(self, agent_id: str = "web", *, missing: bool = False, restart: Any = None, **keys: Any) -> AgentConfig:
        """An agent's configuration, its binary in place unless ``missing``; kept for :meth:`boot`."""
        path = self.binary(agent_id)
        if not missing:
            path.touch()
            path.chmod(0o755)
        self.specs[agent_id] = spec = AgentConfig(
            id=agent_id, type=keys.pop("type", AgentType.CUSTOM), binary_path=str(path),
            work_dir=str(self.root / "agents" / agent_id), restart=restart or RestartConfig(), **keys,
        )
        return spec

    # ----------------------------------------------------------------- daemons

    def boot(
        self, specs: Iterable[AgentConfig] | None = None, *, work_dir: str = "work", secret: bytes = b"secret",
        launcher: FakeLauncher | None = None,
    ) -> Life:
        """A daemon starts: takes over, then starts what is missing."""
        life = self.take_over(specs, work_dir=work_dir, secret=secret, launcher=launcher)
        life.manager.start_missing()
        self.settle()
        return life

    def take_over(
        self, specs: Iterable[AgentConfig] | None = None, *, work_dir: str = "work", secret: bytes = b"secret",
        launcher: FakeLauncher | None = None,
    ) -> Life:
        """A daemon takes over and starts nothing yet."""
        self.life = life = Life(self, self.root / work_dir, secret, launcher)
        life.manager.take_over(self.specs.values() if specs is None else specs, self.host.sweep())
        return life

    def crash(self) -> None:
        """The daemon is killed; nothing is saved that was not."""
        self.life.die()

    def next_daemon(self, specs: Iterable[AgentConfig] | None = None) -> Life:
        """kill -9 and a new daemon."""
        self.crash()
        return self.boot(specs)

    # -------------------------------------------------------------------- time

    def settle(self) -> None:
        """Lets everything happen that waits for nothing."""
        self.clock.advance(0)

    def run(self, seconds: float, step: float = 0.25) -> None:
        """Time passes, in steps."""
        end = self.clock.seconds() + seconds
        while self.clock.seconds() < end - 1e-9:
            self.clock.advance(min(step, end - self.clock.seconds()))
        self.settle()
