"""A ward of fake agents on a Clock."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from daemon.aio.dial import UnresolvedError
from daemon.config.schema import AgentConfig, AgentType, HealthCheckConfig
from daemon.health.checker import MultiHealthChecker
from daemon.health.probing import ProbeCommand, Probes
from daemon.httpclient import HttpClient, HttpError
from daemon.model.agent import HealthStatus, Identity
from daemon.procfs.usage import LightUsage
from tests.fakes.commands import FakeCommandRunner, FakeProgram
from tests.fakes.supervised import FakeAgent, FakeAlerts, FakeRoster

QUIET: dict[str, Any] = {"cpu_threshold": 0.0, "memory_threshold": 0, "heartbeat_timeout": 0.0}


class FakeMeter:
    """Reads what the ward says of its process."""

    def __init__(self, lab: WardCase, identity: Identity) -> None:
        self._lab = lab
        self._first = True
        lab.meters += 1

    def light(self, now_s: float) -> LightUsage | None:
        cpu, self._first = (None if self._first else self._lab.cpu), False
        return LightUsage(cpu_percent=cpu, rss_bytes=self._lab.rss)


class FakeWeb:
    """Endpoints by URL: a status, an error, or None for one that hangs until its deadline."""

    def __init__(self, clock: Clock) -> None:
        self.answers: dict[str, int | str | None] = {}
        self.asked: list[str] = []
        self.cancelled = 0
        self.real: HttpClient | None = None  # asked for every host with a name
        self._clock = clock

    def status(self, url: str, timeout_s: float) -> Any:
        self.asked.append(url)
        if self.real is not None and ".example" in url:
            return self.real.status(url, timeout_s)
        answer = self.answers.get(url, 200)
        if isinstance(answer, str):
            return fail(HttpError(answer))
        done: Deferred[int] = Deferred(self._cancelled)
        if answer is None:
            timer = self._clock.callLater(timeout_s, lambda: done.errback(HttpError(f"no answer within {timeout_s:g} s")))
            done.addBoth(lambda result: (timer.cancel() if timer.active() else None, result)[1])
        else:
            done.callback(answer)
        return done

    def _cancelled(self, _done: Deferred[int]) -> None:
        self.cancelled += 1


class _Deaf:
    """Awaited, it waits for ever; cancelled, it waits on."""

    def __await__(self) -> Any:
        while True:
            try:
                yield Deferred()
            except CancelledError:
                pass


class WardCase(SynchronousTestCase):
    """One checker, its agents, and what they read."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000.0)
        self.cpu: float | None = 1.0
        self.rss = 1_000_000
        self.meters = 0
        self.ports: dict[int, str] = {}
        self.roster = FakeRoster()
        self.alerts = FakeAlerts()
        self.web = FakeWeb(self.clock)
        self.programs: dict[str, FakeProgram] = {}
        self.commands = FakeCommandRunner(self.clock, self.programs)
        self.commands.programs = self.programs
        self.checker = MultiHealthChecker(
            self.clock, self.roster, lambda identity, _age: FakeMeter(self, identity),
            Probes(
                http=self.web, connect=self.connect, commands=self.commands,
                command_of=lambda spec: ProbeCommand(argv=spec.health_check.command, env={"PATH": "/bin"}),
            ),
            self.alerts,
        )
        self.checker.startService()
        self.addCleanup(self.stopped)

    def stopped(self) -> None:
        self.successResultOf(self.checker.stopService())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def connect(self, host: str, port: int, timeout_s: float) -> Any:
        error = self.ports.get(port)
        if error == "":
            return _Deaf()
        done: Deferred[None] = Deferred()
        done.callback(None) if error is None else done.errback(UnresolvedError(error))
        return done

    def spec(self, agent_id: str = "a", *, type: AgentType = AgentType.CUSTOM, from_start: bool = False, **check: Any) -> AgentConfig:
        given = {"interval": 10.0, "start_period": 0.0, **QUIET, **check}
        return AgentConfig(id=agent_id, type=type, binary_path="/bin/x", health_check=HealthCheckConfig(**given),
                           heartbeat_from_start=from_start)

    def admit(self, agent_id: str = "a", **check: Any) -> FakeAgent:
        """An agent that runs from now on, watched."""
        agent = FakeAgent(agent_id)
        self.roster.agents.append(agent)
        spec = self.spec(agent_id, **check)
        self.specs = [*getattr(self, "specs", []), spec]
        agent.runs(100 + len(self.roster.agents), self.clock.seconds())
        self.checker.apply(self.specs)
        return agent

    def reconfigure(self, **check: Any) -> None:
        """The one agent gets another configuration."""
        self.specs = [self.spec("a", **check)]
        self.checker.apply(self.specs)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """trial's own."""
        return super().run(*args, **kwargs)

    def wait(self, seconds: float, step: float = 0.5) -> None:
        """Time passes."""
        end = self.clock.seconds() + seconds
        while self.clock.seconds() < end - 1e-9:
            self.clock.advance(min(step, end - self.clock.seconds()))

    def status(self, agent: FakeAgent) -> HealthStatus | None:
        return agent.verdicts[-1].status if agent.verdicts else None
