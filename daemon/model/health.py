"""A verdict on an agent's health: what is wrong, by which number, against which limit, for how long."""

from __future__ import annotations

import msgspec

from daemon.model.agent import HealthStatus

UNHEALTHY = frozenset({HealthStatus.NO_HEARTBEAT, HealthStatus.OVER_THRESHOLD, HealthStatus.ENDPOINT_FAILED})
"""The verdicts on a live agent that call for a restart; a dead one is the supervisor's own business."""


class HealthVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """What one look at an agent came to.

    Attributes:
        status: the verdict.
        reason: one sentence for the operator, with value, limit and duration where there are any.
        check: which check decided: process heartbeat cpu memory http tcp command.
        value: what was measured, in the unit of the limit (seconds, percent of one core, bytes, misses).
        limit: what it was held against.
        duration_s: for how long it has been so, seconds.
        waits: the checks that have not gone well on this process yet. A verdict can be ``healthy`` with such:
            their misses are not enough for another one so far.
    """

    status: HealthStatus
    reason: str
    check: str = "process"
    value: float | None = None
    limit: float | None = None
    duration_s: float | None = None
    waits: tuple[str, ...] = ()

    @property
    def unhealthy(self) -> bool:
        """Whether a live agent should be restarted for it, where its policy says so."""
        return self.status in UNHEALTHY
