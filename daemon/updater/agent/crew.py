"""The agents that run the file of an update: found, held down, let go and proven together.

The file they run changes for all of them, also where one reaches it through a link.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.python.failure import Failure

from daemon.aio.reactor import Clock
from daemon.errors import AgentStopError, UpdateApplyError
from daemon.interfaces import UpdatableAgent, UpdatableAgents
from daemon.updater.agent.disk import Disk
from daemon.updater.agent.placing import leads_through
from daemon.updater.agent.proof import Proof
from daemon.updater.agent.proving import Terms, prove


class Crew:
    """Those that share one agent's binary.

    Args:
        agent_id: the agent that is the target.
        agents: all of them.
        clock: monotonic.
        disk: to follow links.
    """

    def __init__(self, agent_id: str, agents: UpdatableAgents, clock: Clock, disk: Disk) -> None:
        self._agent_id = agent_id
        self._agents = agents
        self._clock = clock
        self._disk = disk
        self._held: list[UpdatableAgent] = []
        self._released: tuple[UpdatableAgent, ...] = ()
        self._exits: dict[str, int] = {}
        self._leaving = False
        self._proving: Deferred[dict[str, Proof]] | None = None

    @property
    def released(self) -> tuple[UpdatableAgent, ...]:
        """Whom this daemon held in the update under way; also one that has left the configuration since."""
        return self._released

    @property
    def exits(self) -> Mapping[str, int]:
        """``exits_total`` of each that was to be started when it was let go."""
        return self._exits

    def forget(self) -> None:
        """Another update begins, or one that another daemon led so far."""
        self._released, self._exits = (), {}

    def find(self) -> UpdatableAgent | None:
        """The target itself, unless it has left the configuration."""
        return next((a for a in self._agents.updatable() if a.agent_id == self._agent_id), None)

    def need(self) -> UpdatableAgent:
        """The target itself.

        Raises:
            UpdateApplyError: it has left the configuration.
        """
        agent = self.find()
        if agent is None:
            raise UpdateApplyError(
                f"agent {self._agent_id} has left the configuration; nothing can be updated"
            )
        return agent

    async def sharing(self, target: Path) -> list[UpdatableAgent]:
        """The agents that run that file, ours first."""
        agents = list(self._agents.updatable())
        paths = [agent.binary_path for agent in agents]
        sharing = await self._disk.run(lambda: [leads_through(path, target) for path in paths])
        found = [agent for agent, shares in zip(agents, sharing, strict=True) if shares]
        return sorted(found, key=lambda agent: agent.agent_id != self._agent_id)

    async def ours(self, target: Path) -> list[UpdatableAgent]:
        """The agents that run what is replaced, ours among them.

        Raises:
            UpdateApplyError: ours is not, since a reload: whatever is put there would prove nothing.
        """
        agent, agents = self.need(), await self.sharing(target)
        if agent not in agents:
            raise UpdateApplyError(
                f"binary_path of agent {self._agent_id} has become {agent.binary_path} since the update of "
                f"{target} was planned; ask for it again"
            )
        return agents

    async def hold(self, agents: Sequence[UpdatableAgent], why: str) -> None:
        """All of them at once; each is down, or this fails and those that are down stay held.

        Raises:
            UpdateApplyError: one of them does not end.
            RequestError: the daemon stops.
        """
        self._held += [agent for agent in agents if agent not in self._held]
        holding = [_deferred(agent.hold(why)) for agent in agents]
        for success, result in await DeferredList(holding, consumeErrors=True):
            if success:
                continue
            failure = cast(Failure, result)
            if isinstance(failure.value, AgentStopError):
                raise UpdateApplyError(f"it cannot be stopped: {failure.value.message}") from failure.value
            failure.raiseException()

    def release(self) -> None:
        """Lets go of whom we hold, nobody else's."""
        held, self._held = self._held, []
        if held:
            self._released = tuple(held)
            self._exits = {agent.agent_id: agent.exits_total for agent in held if not agent.down}
        for agent in held:
            agent.release()

    async def prove(self, agents: Sequence[UpdatableAgent], terms: Terms) -> dict[str, Proof]:
        """See :func:`daemon.updater.agent.proving.prove`.

        Raises:
            CancelledError: the daemon stops.
        """
        if self._leaving:
            raise CancelledError
        proving = Deferred.fromCoroutine(prove(self._clock, agents, self._exits, terms))
        self._proving = proving
        try:
            return await proving
        finally:
            self._proving = None

    def leave(self) -> None:
        """The daemon stops: no proof is waited for any more."""
        self._leaving = True
        if self._proving is not None:
            self._proving.cancel()


def _deferred(work: Any) -> Deferred[None]:
    return work if isinstance(work, Deferred) else Deferred.fromCoroutine(work)
