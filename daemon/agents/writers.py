"""Who writes to an agent's log: asked by the rotation where it must hold the writers for a moment."""

from __future__ import annotations

from daemon.agents.belongings import Belonging, belongs
from daemon.agents.registry import AgentRegistry
from daemon.agents.spawning import log_owner_test
from daemon.agents.world import AgentWorld
from daemon.procfs.table import sweep


def writers_of(registry: AgentRegistry, world: AgentWorld, agent_id: str) -> list[int]:
    """The live processes of an agent, its leader first. Blocks: called on a thread.

    It only reads attributes that the reactor's thread replaces as a whole.
    """
    agent = registry.find(agent_id)
    if agent is None:
        return []
    leader = agent.pid
    what = Belonging(
        token=agent.metadata.mark, session=leader, writes_to_log=log_owner_test(world, agent_id)
    )
    found = [process.pid for process in sweep() if belongs(process, what)]
    return sorted(found, key=lambda pid: (pid != leader, pid))
