"""What the tests of running agents share."""

from __future__ import annotations

from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from daemon.agents.metadata import AgentMetadata
from daemon.agents.operations import Outcome
from daemon.errors import RequestError, RequestFault
from daemon.model.agent import AgentState, ExitStatus
from tests.fakes.host import FakeHost, FakeProcess
from tests.fakes.lab import Lab, Life

FAILED = ExitStatus(code=1)
CLEAN = ExitStatus(code=0)


class LabCase(SynchronousTestCase):
    """A laboratory per test."""

    def setUp(self) -> None:
        self.lab = Lab()
        self.addCleanup(self.lab.close)
        self.host: FakeHost = self.lab.host

    @property
    def life(self) -> Life:
        """The daemon of the moment."""
        return self.lab.life

    def running(self, **keys: Any) -> FakeProcess:
        """A daemon whose one agent runs; its process."""
        spec = self.lab.spec(**keys)
        self.lab.boot()
        self.lab.run(1 + spec.start_seconds)
        self.assert_state(AgentState.RUNNING)
        return self.life.process()

    def assert_state(self, state: AgentState, agent_id: str = "web") -> None:
        """The agent's state, its reason in the message."""
        agent = self.life.agent(agent_id)
        self.assertIs(agent.state, state, agent.book.reason)

    def succeeded(self, operation: Deferred[Outcome]) -> Outcome:
        """The outcome of an operation that has ended."""
        self.lab.settle()
        outcome: Outcome = self.successResultOf(operation)
        return outcome

    def superseded(self, operation: Deferred[Outcome]) -> None:
        """It ended without being carried out."""
        self.lab.settle()
        error = self.failureResultOf(operation, RequestError).value
        self.assertIs(error.fault, RequestFault.SUPERSEDED)

    def spawns(self) -> int:
        """Processes this daemon started."""
        return len(self.life.launcher.spawned)


class AdoptionCase(LabCase):
    """Daemons that follow each other."""

    def boot_running(self, agent_id: str = "web") -> tuple[Life, FakeProcess]:
        """A daemon whose agent runs and is saved."""
        if agent_id not in self.lab.specs:
            self.lab.spec(agent_id)
        life = self.lab.boot()
        self.lab.run(2)
        self.assertIs(life.agent(agent_id).state, AgentState.RUNNING)
        return life, life.process(agent_id)

    def edit(self, life: Life, **changes: object) -> None:
        """Somebody edits the metadata while no daemon runs."""
        path = life.metadata_path()
        data = msgspec.json.decode(path.read_bytes(), type=AgentMetadata)
        path.write_bytes(msgspec.json.encode(msgspec.structs.replace(data, **changes)))

    def leaders(self, agent_id: str = "web") -> list[FakeProcess]:
        """The live session leaders with the agent's mark."""
        token = self.lab.life.agent(agent_id).metadata.mark
        return [p for p in self.host.alive(token) if p.session == p.pid]
