"""Waits until agents are proven, woken by their changes and by one timer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from twisted.internet.defer import Deferred

from daemon.aio.reactor import Clock, DelayedCall
from daemon.interfaces import UpdatableAgent
from daemon.updater.agent.proof import Cause, Finding, Proof, Seen

_FORGIVEN = frozenset({Cause.EXIT, Cause.OTHER_PROCESS, Cause.UNHEALTHY})


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What is asked of an agent.

    Attributes:
        period_s, timeout_s: ``update.verify_period`` and ``update.verify_timeout``.
        patient: a fault begins the proof anew instead of ending it, until the time is over: for an old
            version, which nobody replaces by another one when it stumbles.
    """

    period_s: float
    timeout_s: float
    patient: bool = False


def look_at(agent: UpdatableAgent, now_s: float) -> Seen:
    """An agent as it is at this moment."""
    return Seen(
        at=now_s, state=agent.state, identity=agent.identity, verdict=agent.verdict,
        exits_total=agent.exits_total, last_exit=agent.last_exit, down=agent.down,
        configured=bool(agent.binary_path),
    )


async def prove(
    clock: Clock, agents: Sequence[UpdatableAgent], exits: Mapping[str, int], terms: Terms
) -> dict[str, Proof]:
    """Waits until all are proven, or the first one fails.

    Args:
        exits: ``exits_total`` of each by its id, as it was when it was started.

    Returns:
        the proofs by agent id; when one of them failed the others may be under way still.
    """
    deadline = clock.seconds() + terms.timeout_s
    proofs = {
        agent.agent_id: Proof(
            period_s=terms.period_s, deadline=deadline,
            exits_total=exits.get(agent.agent_id, agent.exits_total),
        )
        for agent in agents
    }
    alarm = _Alarm(clock)
    ends = [agent.watch(alarm.ring) for agent in agents]
    try:
        while True:
            for agent in agents:
                seen = look_at(agent, clock.seconds())
                proofs[agent.agent_id] = _after(proofs[agent.agent_id], seen, terms)
            findings = {proof.finding for proof in proofs.values()}
            if Finding.FAILED in findings or findings <= {Finding.PROVEN}:
                return proofs
            waiting = [p for p in proofs.values() if p.finding is Finding.WAIT]
            await alarm.wait(min(proof.again_at for proof in waiting))
    finally:
        for end in ends:
            end()
        alarm.stop()


def _after(proof: Proof, seen: Seen, terms: Terms) -> Proof:
    after = proof.after(seen)
    if terms.patient and after.cause in _FORGIVEN and seen.at < proof.deadline:
        anew = Proof(period_s=proof.period_s, deadline=proof.deadline, exits_total=seen.exits_total)
        begun = anew.after(seen)
        return anew if begun.finding is Finding.FAILED else begun
    return after


class _Alarm:
    """Rings at a change or at a time, whichever comes first."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._rung = False
        self._timer: DelayedCall | None = None
        self._waiter: Deferred[None] | None = None

    def ring(self) -> None:
        """Something changed, or it is time."""
        self._rung = True
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.callback(None)

    async def wait(self, at_s: float) -> None:
        """Until it rings; at once when it rang since the last time."""
        if not self._rung:
            self._waiter = Deferred(self._left)
            self._timer = self._clock.callLater(max(0.0, at_s - self._clock.seconds()), self._due)
            try:
                await self._waiter
            finally:
                self.stop()
        self._rung = False

    def _due(self) -> None:
        self._timer = None
        self.ring()

    def _left(self, _waiter: Deferred[None]) -> None:
        self._waiter = None

    def stop(self) -> None:
        """No timer is left."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
