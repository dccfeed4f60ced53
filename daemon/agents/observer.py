"""Who keeps the books over all agents, as one agent sees it."""

from __future__ import annotations

from typing import Protocol

from daemon.errors import RequestError, RequestFault
from daemon.model.agent import AgentState


class SupervisionObserver(Protocol):
    """Hears of the changes of every agent, named by its id."""

    def leader_changed(self, agent_id: str, old_pid: int, new_pid: int) -> None:
        """Another process leads the agent; 0 for none."""
        ...

    def state_changed(self, agent_id: str, old: AgentState, new: AgentState) -> None:
        """It went from one state to another."""
        ...

    def forgotten(self, agent_id: str) -> None:
        """It has left the configuration and nothing of it is left."""
        ...


def stopping_error() -> RequestError:
    """The answer to whoever asks or waits while the daemon stops."""
    return RequestError(RequestFault.STOPPING, "the daemon is stopping")
