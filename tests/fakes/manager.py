"""A Manager without sockets and threads: the real parts over a database in memory."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, execute
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from daemon.errors import StorageError
from daemon.manager.api import ManagerApi
from daemon.manager.commands import Commands
from daemon.manager.config import ManagerConfig
from daemon.manager.daemons import Answer, Target, target_of
from daemon.manager.fleet import Fleet
from daemon.manager.http import ManagerGate
from daemon.manager.intake import Intake
from daemon.manager.migrations import migrate, pending, version_of
from daemon.manager.model import AgentReport, CommandState, EventEntry, Registration, Sample
from daemon.manager.wire import Entries, Report, States
from daemon.web.site import CountedChannel, QuietSite
from tests.fakes.control import TOKEN, Connection, LenientTransport

BEGIN = 1_800_000_000.0


def node(node_id: str = "n1", **facts: Any) -> Registration:
    """A registration."""
    known: dict[str, Any] = {
        "hostname": f"host-{node_id}", "ip": "127.0.0.1", "os": "linux", "arch": "amd64", "labels": {},
        "daemon_version": "1.0.0", "agent_version": "", "owner": "", "peer": "127.0.0.1",
    }
    return Registration(node_id=node_id, **known | facts)


def agent(agent_id: str = "web", status: str = "running", **facts: Any) -> AgentReport:
    """An agent's state."""
    known: dict[str, Any] = {"type": "custom", "version": "1", "pid": 7, "last_heartbeat": 0}
    return AgentReport(agent_id=agent_id, status=status, **known | facts)


def event(event_id: str = "1-1", message: str = "hello", *, at: float = BEGIN) -> EventEntry:
    """An event."""
    return EventEntry("event", event_id, at, "agent.exited", "warn", "web", message, "{}")


class MemoryDatabase:
    """``daemon.manager.database.Database`` in memory and at once; verified by the same contract.

    Attributes:
        held: while it is a list, writes wait in it for :meth:`let_go`.
        refusing: an error of sqlite's that every transaction meets.
    """

    def __init__(self) -> None:
        self.connection = sqlite3.connect(":memory:")
        self.connection.execute("PRAGMA foreign_keys=ON")
        self.held: list[tuple[Deferred[Any], Callable[[], Any]]] | None = None
        self.refusing: sqlite3.Error | None = None
        self.writes = 0
        for number, statements in pending(self._run(version_of)):
            self._run(migrate, number, statements)

    def close(self) -> None:
        """The end."""
        self.connection.close()

    def _run(self, work: Callable[..., Any], *args: Any) -> Any:
        cursor = self.connection.cursor()
        try:
            if self.refusing is not None:
                raise self.refusing
            result = work(cursor, *args)
        except sqlite3.OperationalError as error:
            self.connection.rollback()
            raise StorageError(f"refused: {error}") from error
        except BaseException:
            self.connection.rollback()
            raise
        self.connection.commit()
        return result

    def write(self, work: Callable[..., Any], *args: Any) -> Deferred[Any]:
        """See Database."""
        self.writes += 1
        if self.held is None:
            return execute(self._run, work, *args)
        done: Deferred[Any] = Deferred()
        self.held.append((done, lambda: self._run(work, *args)))
        return done

    def read(self, work: Callable[..., Any], *args: Any) -> Deferred[Any]:
        """See Database."""
        return execute(self._run, work, *args)

    def let_go(self) -> None:
        """The first held write is carried out."""
        assert self.held
        done, run = self.held.pop(0)
        execute(run).chainDeferred(done)

    def release(self) -> None:
        """All that is held is carried out, and from now on nothing is held."""
        held, self.held = self.held or [], None
        for done, run in held:
            execute(run).chainDeferred(done)


class FakeDaemons:
    """Daemons that answer operations as a test says.

    Attributes:
        asked: every operation, as target, agent and verb.
        answer: the next one; with a list each caller waits for a Deferred that is added to it.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[Target, str, str]] = []
        self.answer: Answer | Exception | list[Deferred[Answer]] = Answer(state=CommandState.DONE)

    async def operate(self, target: Target, agent_id: str, operation: str) -> Answer:
        """See Daemons."""
        self.asked.append((target, agent_id, operation))
        if isinstance(self.answer, Exception):
            raise self.answer
        if isinstance(self.answer, list):
            waiting: Deferred[Answer] = Deferred()
            self.answer.append(waiting)
            return await waiting
        return self.answer


class ManagerRig:
    """The parts of a Manager, wired as the program wires them."""

    def __init__(self, config: ManagerConfig | None = None) -> None:
        self.lab = self  # what tests.fakes.control.Connection asks to settle
        self.config = config or ManagerConfig(work_dir="/nowhere")
        self.clock = Clock()
        self.wall_offset_s = BEGIN
        self.database = MemoryDatabase()
        self.intake = Intake(self.database.write)
        self.fleet = Fleet(self.clock, self.wall, self.intake, self.config)
        self.daemons = FakeDaemons()
        self.commands = Commands(
            self.clock, self.wall, self.intake, self.database.read,
            target_of=lambda row: target_of(row, self.config), operate=self.daemons.operate,
        )
        self.failing: dict[str, str] = {}
        self.api = ManagerApi(
            name="test <manager>", config=self.config, read=self.database.read, fleet=self.fleet,
            commands=self.commands, checks=lambda: {"database": "", **self.failing},
            exposition=lambda accept: (b"up 1\n", "text/plain"), wall=self.wall,
        )
        self.gate = ManagerGate(self.api.app.resource(), token=TOKEN, our_names={"fleet.example.org"})
        self.channels: set[CountedChannel] = set()

    def wall(self) -> float:
        """Wall time, which goes with the clock unless a test sets it."""
        return self.wall_offset_s + self.clock.seconds()

    def settle(self) -> None:
        """Nothing is late here."""

    def connect(self) -> Connection:
        """A client of the API."""
        site = QuietSite(self.gate, self.channels, lambda _transport: "", self.clock)
        return Connection(self, site.buildProtocol(None), LenientTransport())  # type: ignore[arg-type]

    # --------------------------------------------------------------- as daemons do

    def register(self, found: Registration | None = None, *names: str) -> Deferred[Any]:
        """RegisterNode."""
        return Deferred.fromCoroutine(self.fleet.register(found or node(), names))

    def beat(self, node_id: str = "n1", *names: str) -> Deferred[Any]:
        """Heartbeat."""
        return Deferred.fromCoroutine(self.fleet.heartbeat(node_id, names))

    def report(self, *samples: Sample, node_id: str = "n1", names: tuple[str, ...] = ()) -> Deferred[Any]:
        """ReportMetrics."""
        return Deferred.fromCoroutine(self.fleet.report(Report(node_id, samples), names))

    def sync(self, *agents: AgentReport, node_id: str = "n1", names: tuple[str, ...] = ()) -> Deferred[Any]:
        """SyncAgentStates."""
        return Deferred.fromCoroutine(self.fleet.sync(States(node_id, agents), names))

    def tell(self, *entries: EventEntry, lost: int = 0, node_id: str = "n1") -> Deferred[Any]:
        """ReportEvents."""
        return Deferred.fromCoroutine(self.fleet.events(Entries(node_id, entries, lost), ()))


class ManagerCase(SynchronousTestCase):
    """A test with a rig."""

    config: ManagerConfig | None = None

    def setUp(self) -> None:
        self.rig = ManagerRig(self.config)
        self.addCleanup(self.rig.database.close)
        self.addCleanup(lambda: self.successResultOf(Deferred.fromCoroutine(self.rig.fleet.stop())))

    def do(self, work: Deferred[Any]) -> Any:
        """What came of it."""
        return self.successResultOf(work)

    def fails(self, work: Deferred[Any], *kinds: type[BaseException]) -> Any:
        """The error it ended with."""
        return self.failureResultOf(work, *kinds).value
