"""What can be updated, and what a request means by a component."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from daemon.errors import RequestError, RequestFault
from daemon.model.update import DAEMON, SOLE_AGENT
from daemon.updater.policy import Outcome
from daemon.updater.target import UpdateTarget


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What another process made of an update of the daemon, see :class:`daemon.updater.policy.Outcome`."""

    outcome: Outcome = Outcome.NONE
    reason: str = ""
    evidence: Any = None


class Targets(Protocol):
    """What can be updated now."""

    def agents(self) -> Sequence[str]:
        """The ids of the agents that are configured."""
        ...

    def agent(self, agent_id: str) -> UpdateTarget | None:
        """One of them; None when there is none of that id."""
        ...

    def gone(self, agent_id: str) -> UpdateTarget:
        """An agent that may have left the configuration since an earlier daemon put a version in place."""
        ...

    def daemon(self) -> UpdateTarget:
        """The daemon itself."""
        ...

    async def outcome(self, update_id: str) -> Verdict:
        """What became of an update of the daemon that an earlier process began."""
        ...


def resolve(targets: Targets, component: str) -> UpdateTarget:
    """The target of a component: ``daemon``, an agent's id, or ``agent`` where there is one only.

    Raises:
        RequestError: UNKNOWN, or INVALID where ``agent`` says too little.
    """
    if not component.strip():
        raise RequestError(
            RequestFault.INVALID, "component is missing: 'daemon', an agent's id, or 'agent'"
        )
    if component == DAEMON:
        return targets.daemon()
    agents = targets.agents()
    name = agents[0] if component == SOLE_AGENT not in agents and len(agents) == 1 else component
    found = targets.agent(name)
    if found is not None:
        return found
    if component == SOLE_AGENT:
        raise RequestError(
            RequestFault.INVALID,
            f"component 'agent' means the one agent there is, and there are {len(agents)}; "
            "write the agent's id",
        )
    raise RequestError(
        RequestFault.UNKNOWN, f"component {component[:64]!r} is neither 'daemon' nor an agent's id"
    )
