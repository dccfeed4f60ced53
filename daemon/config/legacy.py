"""The ``agent:`` section of older files: one agent, id ``agent``, type ``custom``."""

from __future__ import annotations

from typing import Any

from daemon.config.schema import AgentType
from daemon.config.tree import Mapping, Node, Scalar, Sequence

LEGACY_ID = "agent"
LEGACY_PATH = "agent"


def both_forms(root: Node) -> bool:
    """Whether ``agents`` lists something while ``agent`` is written too: then ``agents`` wins."""
    if not isinstance(root, Mapping):
        return False
    found = {key.text: value for key, value in (*root.merged, *root.entries) if isinstance(key, Scalar)}
    agents, agent = found.get("agents"), found.get(LEGACY_PATH)
    lists_some = isinstance(agents, Sequence) and bool(agents.items)
    return lists_some and isinstance(agent, Mapping) and bool(agent.entries or agent.merged)


def written_agents(data: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The agents of either form as (path, what is written), in the order of the file."""
    if data.get("agents"):
        return [(f"agents[{index}]", agent) for index, agent in enumerate(data["agents"])]
    if LEGACY_PATH in data:
        return [(LEGACY_PATH, {"id": LEGACY_ID, "type": AgentType.CUSTOM.value, **data[LEGACY_PATH]})]
    return []
