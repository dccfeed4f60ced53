"""For whom a connection may speak: the rules about peers.

The process at the other end must belong to an agent, the ``pid`` in its messages too, and to the same
one. Both are asked of the directory, which reads /proc, so an answer serves for a second.
"""

from __future__ import annotations

from daemon.aio.reactor import Clock
from daemon.heartbeat.peer import Peer
from daemon.heartbeat.stats import Reason
from daemon.interfaces import AgentDirectory, HeartbeatTarget

REVALIDATE_S = 1.0  # how long an answer of the directory serves


class Speaker:
    """One connection's right to speak.

    A peer that has ended keeps what it proved while it lived, so that the last words of a process
    (``stopping``) count even when they are read after its end. It never gains anything more: its pid
    may be another's by then.

    Args:
        peer: who connected.
        directory: who is who.
        clock: monotonic seconds.
        require_pid_match: False lets a peer that belongs to no agent speak for the one it names, and
            takes the ``pid`` inside as it is: for agents in another pid namespace.
    """

    __slots__ = ("_clock", "_directory", "_fresh_until", "_pid", "_pid_owned", "_strict", "_target", "peer")

    def __init__(
        self, peer: Peer, directory: AgentDirectory, clock: Clock, *, require_pid_match: bool
    ) -> None:
        self.peer = peer
        self._directory = directory
        self._clock = clock
        self._strict = require_pid_match
        self._target: HeartbeatTarget | None = None
        self._fresh_until = float("-inf")
        self._pid = 0  # the pid inside that was asked about last, and whether it was the agent's
        self._pid_owned = False

    def target(self) -> HeartbeatTarget | None:
        """The agent the peer belongs to, or None."""
        now = self._clock.seconds()
        if now >= self._fresh_until:
            self._fresh_until = now + REVALIDATE_S
            self._look()
        return self._target

    @property
    def trusted_pid(self) -> int:
        """A pid inside that needs no further question within this turn; 0 for none."""
        return self._pid if self._pid_owned else 0

    def judge(self, pid: int, agent_id: str | None) -> HeartbeatTarget | Reason:
        """Whose heartbeat this is, or why it is nobody's.

        Args:
            pid: the one inside the message.
            agent_id: the one inside, when there is one.
        """
        target = self.target()
        if target is None:
            if self._strict:
                return Reason.STRANGER
            if not agent_id:
                return Reason.UNNAMED
            return self._directory.find(agent_id) or Reason.UNKNOWN_AGENT
        if agent_id and agent_id != target.agent_id:
            return Reason.FOREIGN_AGENT
        if pid != self._pid:
            self._pid = pid
            self._pid_owned = (
                not self._strict or pid == self.peer.credentials.pid or target.owns(pid)
            )
        return target if self._pid_owned else Reason.FOREIGN_PID

    def _look(self) -> None:
        pid = self.peer.credentials.pid
        owner = self._directory.owner_of(pid) if pid > 0 else None
        before = self._target
        if self.peer.holds_pid():
            self._target = owner
            self._pid, self._pid_owned = 0, False
        elif before is not None:
            self._target = self._directory.find(before.agent_id)
