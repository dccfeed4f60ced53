"""hostagent as a service of twistd."""

from __future__ import annotations

from typing import Any, cast

from twisted.application.service import Service
from twisted.internet.defer import Deferred

from daemon.agentkit.agent import Agent
from daemon.aio.threads import ThreadLanes

THREADS_GRACE_S = 1.0


class AgentService(Service):
    """Starts and stops one agent.

    Args:
        agent: what runs.
        lanes: its threads, ended last.
    """

    name = "hostagent"

    def __init__(self, agent: Agent, lanes: ThreadLanes) -> None:
        self.agent = agent
        self._lanes = lanes

    def startService(self) -> None:
        """The reactor runs, or is about to: heartbeats begin."""
        cast(Any, super()).startService()
        self.agent.start()

    def stopService(self) -> Deferred[Any]:
        """Fires when the end is announced and everything is closed."""
        cast(Any, super()).stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        await self.agent.stop()
        await self._lanes.stop(THREADS_GRACE_S)
