"""The agents this daemon knows, by id."""

from __future__ import annotations

from daemon.agents.instance import AgentInstance
from daemon.errors import RequestError, RequestFault


class AgentRegistry:
    """Holds one :class:`AgentInstance` per agent, in the order of the configuration."""

    def __init__(self) -> None:
        self._agents: dict[str, AgentInstance] = {}

    def __len__(self) -> int:
        return len(self._agents)

    def __contains__(self, agent_id: object) -> bool:
        return agent_id in self._agents

    def register(self, agent: AgentInstance) -> None:
        """Takes an agent in.

        Raises:
            RequestError: the id is taken.
        """
        if agent.agent_id in self._agents:
            raise RequestError(RequestFault.PRECONDITION, f"agent {agent.agent_id!r} is registered already")
        self._agents[agent.agent_id] = agent

    def unregister(self, agent_id: str) -> AgentInstance:
        """Lets an agent go.

        Raises:
            RequestError: it is unknown, or it runs.
        """
        agent = self.get(agent_id)
        if agent.pid:
            raise RequestError(
                RequestFault.PRECONDITION, f"agent {agent_id!r} runs (pid {agent.pid}); stop it first"
            )
        return self._agents.pop(agent_id)

    def get(self, agent_id: str) -> AgentInstance:
        """The agent with that id.

        Raises:
            RequestError: it is unknown.
        """
        agent = self._agents.get(agent_id)
        if agent is None:
            raise RequestError(RequestFault.UNKNOWN, f"no agent {agent_id!r}; /v1/agents lists them")
        return agent

    def find(self, agent_id: str) -> AgentInstance | None:
        """The agent with that id, or None."""
        return self._agents.get(agent_id)

    def list(self) -> tuple[AgentInstance, ...]:
        """All agents."""
        return tuple(self._agents.values())

    def list_by_type(self, agent_type: str) -> tuple[AgentInstance, ...]:
        """The agents of one type (``filebeat``, ``telegraf``, ``node_exporter``, ``custom``)."""
        return tuple(a for a in self._agents.values() if a.type == agent_type)
