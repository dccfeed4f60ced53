"""The restart policy: pure arithmetic over how often an agent has ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

from daemon.config.schema import Policy
from daemon.model.agent import ExitStatus

HOUR_S = 3600.0
UNSPAWNED_DELAY_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """The ``restart:`` keys of one agent (seconds; counts 0 = no limit; slow_retry 0 = never)."""

    policy: Policy = Policy.ALWAYS
    max_retries: int = 10
    backoff_base_s: float = 10.0
    backoff_max_s: float = 60.0
    jitter: float = 0.0
    slow_retry_s: float = 900.0
    max_restarts_per_hour: int = 20


class Then(Enum):
    """What follows an exit."""

    RETRY = "retry"
    GIVE_UP = "give_up"
    LEAVE = "leave"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the policy says of an exit.

    Attributes:
        then: retry after ``delay_s``; give up (``failed``, with a slow try after ``delay_s`` unless that
            is None); or leave it down.
        delay_s: seconds from the exit to the next try; None for no try at all.
        why: a few words for the operator.
        limited: ``max_restarts_per_hour`` alone makes it wait that long.
    """

    then: Then
    delay_s: float | None
    why: str
    limited: bool = False


def base_delay(n: int, policy: RestartPolicy) -> float:
    """Seconds to wait after an exit with ``n`` consecutive ones before it: 0, base, base, 3, 3, max ..."""
    if n <= 0:
        return 0.0
    if n <= 2:
        delay = policy.backoff_base_s
    elif n <= 4:
        delay = 3 * policy.backoff_base_s
    elif policy.backoff_base_s == 0:
        delay = 0.0  # "0s: every restart at once"
    else:
        delay = policy.backoff_max_s
    return min(delay, policy.backoff_max_s)


def hour_delay(now_s: float, restarts: Sequence[float], limit: int) -> float:
    """Seconds until the hour before then holds fewer than ``limit`` automatic restarts.

    Args:
        now_s: monotonic seconds.
        restarts: monotonic seconds of the automatic restarts carried out, oldest first.
        limit: 0 = no limit.
    """
    if limit <= 0:
        return 0.0
    recent = [at for at in restarts if now_s - at < HOUR_S]
    if len(recent) < limit:
        return 0.0
    return recent[-limit] + HOUR_S - now_s


def after_exit(
    policy: RestartPolicy,
    *,
    status: ExitStatus,
    n: int,
    now_s: float,
    restarts: Sequence[float] = (),
    random_unit: float = 0.0,
    spawned: bool = True,
) -> Verdict:
    """What follows an exit, or a spawn that failed.

    Args:
        policy: the agent's.
        status: how it ended; an unknown status and a failed spawn count as failures.
        n: consecutive exits before this one.
        now_s: monotonic seconds.
        restarts: see :func:`hour_delay`.
        spawned: False when no process came to be: with ``backoff_base: 0s`` a missing binary would spin, so
            from the second time on it waits a second.
        random_unit: a number in [0, 1); jitter lengthens the delay by up to ``jitter`` of it.
    """
    if policy.policy is Policy.NEVER:
        return Verdict(then=Then.LEAVE, delay_s=None, why="restart policy never")
    if policy.policy is Policy.ON_FAILURE and status.clean:
        return Verdict(then=Then.LEAVE, delay_s=None, why="it exited with 0; restart policy on-failure")
    hour = hour_delay(now_s, restarts, policy.max_restarts_per_hour)
    if 0 < policy.max_retries <= n:
        slow = max(policy.slow_retry_s, hour) if policy.slow_retry_s > 0 else None
        return Verdict(then=Then.GIVE_UP, delay_s=slow, why=f"it ended {n + 1} times in a row")
    delay = base_delay(n, policy)
    if not spawned and n > 0 and delay == 0.0:
        delay = UNSPAWNED_DELAY_S
    delay += delay * policy.jitter * random_unit
    if hour > delay:
        return Verdict(
            then=Then.RETRY, delay_s=hour, limited=True,
            why=f"{policy.max_restarts_per_hour} restarts in the last hour",
        )
    return Verdict(then=Then.RETRY, delay_s=delay, why=_in_a_row(n))


def after_unhealthy(
    policy: RestartPolicy,
    *,
    n: int,
    now_s: float,
    restarts: Sequence[float] = (),
    random_unit: float = 0.0,
) -> Verdict:
    """What follows a verdict that a live agent is unhealthy: the same table as after an exit that failed.

    Args:
        policy: the agent's.
        n: consecutive exits and unhealthy processes before this one.
        now_s: monotonic seconds.
        restarts, random_unit: see :func:`after_exit`.
    """
    verdict = after_exit(
        policy, status=ExitStatus(), n=n, now_s=now_s, restarts=restarts, random_unit=random_unit
    )
    if verdict.then is Then.GIVE_UP:
        return replace(verdict, why=f"{n} failures in a row before")
    if verdict.why == _in_a_row(n):
        return replace(verdict, why=f"failure {n + 1} in a row")
    return verdict


def _in_a_row(n: int) -> str:
    return f"exit {n + 1} in a row"
