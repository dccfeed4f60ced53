"""Properties of the restart policy: bounded, never negative, never more than the hour allows."""

from __future__ import annotations

import pytest

from daemon.agents.restart import HOUR_S, RestartPolicy, Then, after_exit, base_delay, hour_delay
from daemon.config.schema import Policy
from daemon.model.agent import ExitStatus

pytest.importorskip("hypothesis")
from hypothesis import given, settings
from hypothesis import strategies as st

SETTINGS = settings(derandomize=True, deadline=None, max_examples=200)
SECONDS = st.floats(0, 1e6, allow_nan=False)
POLICIES = st.builds(
    RestartPolicy,
    policy=st.sampled_from(Policy),
    max_retries=st.integers(0, 50),
    backoff_base_s=SECONDS,
    backoff_max_s=st.floats(0.001, 1e6),
    jitter=st.floats(0, 1),
    slow_retry_s=SECONDS,
    max_restarts_per_hour=st.integers(0, 30),
)
STATUSES = st.builds(ExitStatus, code=st.none() | st.integers(0, 255), signal=st.none() | st.integers(1, 64))


@SETTINGS
@given(policy=POLICIES, n=st.integers(0, 10**6))
def test_the_delay_is_bounded_and_never_shrinks_with_more_exits(policy: RestartPolicy, n: int) -> None:
    assert 0 <= base_delay(n, policy) <= base_delay(n + 1, policy) <= policy.backoff_max_s


@SETTINGS
@given(base_s=SECONDS, max_s=st.floats(0.001, 1e6))
def test_the_table_is_0_base_base_3base_3base_max(base_s: float, max_s: float) -> None:
    policy = RestartPolicy(backoff_base_s=base_s, backoff_max_s=max_s)
    last = max_s if base_s else 0.0
    steps = [0.0, base_s, base_s, 3 * base_s, 3 * base_s, last, last]
    assert [base_delay(n, policy) for n in range(7)] == [min(step, max_s) for step in steps]


@SETTINGS
@given(
    policy=POLICIES, status=STATUSES, n=st.integers(0, 100), now_s=SECONDS,
    ages=st.lists(st.floats(0, 2 * HOUR_S), max_size=40), unit=st.floats(0, 1, exclude_max=True),
)
def test_every_exit_gets_a_verdict_within_bounds(
    policy: RestartPolicy, status: ExitStatus, n: int, now_s: float, ages: list[float], unit: float
) -> None:
    restarts = tuple(sorted(now_s - age for age in ages))
    verdict = after_exit(policy, status=status, n=n, now_s=now_s, restarts=restarts, random_unit=unit)
    assert verdict.why
    longest = max(policy.backoff_max_s * (1 + policy.jitter), policy.slow_retry_s, HOUR_S)
    if verdict.delay_s is not None:
        assert 0 <= verdict.delay_s <= longest + 1e-6
        assert verdict.delay_s >= hour_delay(now_s, restarts, policy.max_restarts_per_hour)
    assert (verdict.then is Then.LEAVE) == (
        policy.policy is Policy.NEVER or (policy.policy is Policy.ON_FAILURE and status.code == 0)
    )
    assert verdict.then is not Then.RETRY or verdict.delay_s is not None


@SETTINGS
@given(gaps=st.lists(st.floats(0, 1200), min_size=1, max_size=80), limit=st.integers(1, 10))
def test_an_agent_that_always_dies_at_once_never_exceeds_its_hour(gaps: list[float], limit: int) -> None:
    now_s, done = 0.0, []
    for gap in gaps:
        now_s += gap
        now_s += hour_delay(now_s, done, limit)
        done.append(now_s)
    for at in done:
        assert sum(1 for other in done if at - HOUR_S + 1e-6 < other <= at) <= limit
