"""Agents' states on their way to the Manager: what changed soon after it did, everything every so often."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from daemon.aio.reactor import Clock
from daemon.aio.sleep import sleep
from daemon.rpc.link_errors import CallFailed, FaultKind
from daemon.rpc.link_state import Attempts, Session
from daemon.rpc.link_wire import WireState
from daemon.rpc.wake import Wake

COALESCE_S = 1.0  # a restart is several changes
ASK_AGAIN_S = 3600.0  # a Manager that does not know the call may be a newer one by then


class StateSyncer:
    """Tells the Manager of agents. What it has not acknowledged is told again, as it is by then.

    A Manager without SyncAgentStates is asked again once an hour and at every connect.

    Args:
        clock: waits.
        node_id: whose agents they are.
        states: all of them, as they are now.
        interval_s: manager.sync_interval.
        attempts: of the states.
    """

    def __init__(
        self, clock: Clock, node_id: str, states: Callable[[], Sequence[WireState]], interval_s: float,
        attempts: Attempts,
    ) -> None:
        self._clock = clock
        self._node_id = node_id
        self._states = states
        self._interval_s = interval_s
        self._attempts = attempts
        self._changed: set[str] = set()  # not acknowledged
        self._whole_due = 0.0  # monotonic seconds
        self._wake = Wake(clock)
        self._connected = False

    def changed(self, agent_id: str) -> None:
        """An agent is in another state. Cheap; call it as often as you like."""
        if self._connected:  # a session begins with all of them anyway
            self._changed.add(agent_id)
            self._wake.set()

    async def run(self, session: Session) -> None:
        """Tells until it is cancelled; all agents first."""
        self._connected = True
        self._whole_due = self._clock.seconds()
        try:
            while True:
                left_s = self._whole_due - self._clock.seconds()
                if left_s > 0 and not self._changed:
                    await self._wake.wait(left_s)
                if self._changed and self._whole_due > self._clock.seconds():
                    await sleep(self._clock, COALESCE_S)
                failed = await self._tell(session)
                if failed is not None:
                    await self._pause(failed)
        finally:
            self._connected = False
            self._changed.clear()

    async def _tell(self, session: Session) -> CallFailed | None:
        now = self._clock.seconds()
        whole = self._whole_due <= now
        told, self._changed = self._changed, set()  # what changes meanwhile is told the next time
        states = [state for state in self._states() if whole or state.agent_id in told]
        if not (whole or states):
            return None  # they have left the configuration; the next whole one shows it
        failed = await self._attempts.make(session, session.calls.sync(self._node_id, states))
        if failed is not None:
            self._changed |= told
        elif whole:
            self._whole_due = now + self._interval_s
        return failed

    async def _pause(self, failed: CallFailed) -> None:
        if failed.kind is FaultKind.NOT_OFFERED:
            await sleep(self._clock, ASK_AGAIN_S)
            self._whole_due = self._clock.seconds()
        else:
            await self._attempts.pause(failed)
