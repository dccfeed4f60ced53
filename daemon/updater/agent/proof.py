"""Whether a version is proven: one and the same process, running and not unhealthy, long enough. Pure.

What is seen of an agent comes in, in order; what it comes to goes out. Only monotonic seconds count, so a
step of the wall clock changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import msgspec

from daemon.model.agent import AgentState, HealthStatus, Identity, LastExit
from daemon.model.health import HealthVerdict


class Finding(Enum):
    """What a proof has come to."""

    WAIT = "wait"
    PROVEN = "proven"
    FAILED = "failed"


class Cause(Enum):
    """Why a proof failed."""

    GONE = "gone"  # it left the configuration
    DOWN = "down"  # an operator or the configuration wants it down
    EXIT = "exit"
    OTHER_PROCESS = "other_process"
    UNHEALTHY = "unhealthy"
    TIMEOUT = "timeout"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """An agent at one moment.

    Attributes:
        at: monotonic seconds.
        exits_total: exits nobody asked for and failed spawns so far.
        verdict: of the health checks on its present process; None where nobody checks.
        down: whether intent or configuration want it down.
        configured: whether it is in the configuration.
    """

    at: float
    state: AgentState
    identity: Identity | None = None
    verdict: HealthVerdict | None = None
    exits_total: int = 0
    last_exit: LastExit | None = None
    down: bool = False
    configured: bool = True

    @property
    def well(self) -> bool:
        """Running, and every check that is configured has gone well at least once."""
        verdict = self.verdict
        return self.state is AgentState.RUNNING and self.identity is not None and (
            verdict is None or (verdict.status is HealthStatus.HEALTHY and not verdict.waits)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """A proof under way, or its end.

    Attributes:
        period_s: how long it has to be well without a break.
        deadline: monotonic seconds by which that has to be over.
        exits_total: of the agent when it was started; one more is a failure.
        identity: the first process that led it, which must stay the only one.
        well_since: monotonic seconds since when it is well; None while it is not.
        cause, reason: why it failed.
        seen: the last of what was seen.
    """

    period_s: float
    deadline: float
    exits_total: int
    identity: Identity | None = None
    well_since: float | None = None
    finding: Finding = Finding.WAIT
    cause: Cause | None = None
    reason: str = ""
    seen: Seen | None = None

    def after(self, seen: Seen) -> Proof:
        """With one more look; a proof that failed stays so, one that is there can still fail."""
        if self.finding is Finding.FAILED:
            return self
        fault = self._fault(seen)
        if fault is not None:
            cause, reason = fault
            return replace(self, finding=Finding.FAILED, cause=cause, reason=reason, seen=seen)
        since = (self.well_since if self.well_since is not None else seen.at) if seen.well else None
        proof = replace(self, identity=self.identity or seen.identity, well_since=since, seen=seen)
        if self.finding is Finding.PROVEN:
            return proof
        # By when it was over, not by when we looked: a loop that was held up must not fail a good version.
        if since is not None and seen.at >= since + self.period_s and since + self.period_s <= self.deadline:
            return replace(proof, finding=Finding.PROVEN)
        if seen.at >= self.deadline:
            return replace(proof, finding=Finding.FAILED, cause=Cause.TIMEOUT, reason=_too_late(seen, self))
        return proof

    @property
    def again_at(self) -> float:
        """When to look again although nothing changed, monotonic seconds."""
        if self.well_since is None:
            return self.deadline
        return min(self.deadline, self.well_since + self.period_s)

    def evidence(self) -> Mapping[str, Any]:
        """What was seen last, as it is kept with the result."""
        seen = self.seen
        if seen is None:
            return {}
        healthy_s = seen.at - self.well_since if self.well_since is not None else 0.0
        return {
            "state": seen.state.value,
            "pid": seen.identity.pid if seen.identity is not None else None,
            "healthy_s": round(healthy_s, 3),
            "verdict": msgspec.to_builtins(seen.verdict),
            "last_exit": msgspec.to_builtins(seen.last_exit),
        }

    def _fault(self, seen: Seen) -> tuple[Cause, str] | None:
        if not seen.configured:
            return Cause.GONE, "it left the configuration"
        if seen.down:
            return Cause.DOWN, "an operator or the configuration wants it down"
        if seen.exits_total > self.exits_total:
            last = seen.last_exit
            return Cause.EXIT, f"it ended: {last.reason if last is not None else 'nobody knows how'}"
        if self.identity is not None and seen.identity not in (None, self.identity):
            return Cause.OTHER_PROCESS, "it was restarted: another process leads it than the one first seen"
        verdict = seen.verdict
        if verdict is not None and verdict.status not in (HealthStatus.HEALTHY, HealthStatus.STARTING):
            return Cause.UNHEALTHY, f"it is unhealthy ({verdict.status.value}): {verdict.reason}"
        return None


def _too_late(seen: Seen, proof: Proof) -> str:
    if seen.well and proof.well_since is not None:
        return f"it was healthy for {seen.at - proof.well_since:.1f} s only, not {proof.period_s:g} s"
    verdict = seen.verdict
    if verdict is not None and verdict.waits:
        return f"it did not become healthy in time: {', '.join(verdict.waits)} never went well"
    said = f": {verdict.reason}" if verdict is not None else ""
    return f"it did not become healthy in time: its state is {seen.state.value}{said}"
