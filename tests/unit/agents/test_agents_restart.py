"""The restart policy: the delay table, limits, and what each policy says of each exit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from daemon.agents.restart import HOUR_S, RestartPolicy, Then, after_exit, base_delay, hour_delay
from daemon.config.schema import Policy
from daemon.model.agent import ExitStatus

CLEAN, FAILED, KILLED, UNKNOWN = ExitStatus(code=0), ExitStatus(code=1), ExitStatus(signal=9), ExitStatus()
DEFAULT = RestartPolicy()


@pytest.mark.parametrize(
    ("n", "delay"),
    [(-1, 0), (0, 0), (1, 10), (2, 10), (3, 30), (4, 30), (5, 60), (6, 60), (1000, 60)],
)
def test_the_delay_table_of_the_defaults(n: int, delay: float) -> None:
    assert base_delay(n, DEFAULT) == delay


@pytest.mark.parametrize(
    ("base_s", "max_s", "delays"),
    [
        (10, 60, [0, 10, 10, 30, 30, 60, 60]),
        (10, 25, [0, 10, 10, 25, 25, 25, 25]),
        (10, 5, [0, 5, 5, 5, 5, 5, 5]),
        (0, 60, [0, 0, 0, 0, 0, 0, 0]),
        (0.1, 60, [0, 0.1, 0.1, pytest.approx(0.3), pytest.approx(0.3), 60, 60]),
    ],
)
def test_each_step_of_the_delay_is_capped_by_the_longest(
    base_s: float, max_s: float, delays: list[float]
) -> None:
    policy = RestartPolicy(backoff_base_s=base_s, backoff_max_s=max_s)
    assert [base_delay(n, policy) for n in range(7)] == delays


@pytest.mark.parametrize("status", [CLEAN, FAILED, KILLED, UNKNOWN])
def test_always_restarts_after_every_exit_the_first_time_at_once(status: ExitStatus) -> None:
    verdict = after_exit(DEFAULT, status=status, n=0, now_s=5.0)
    assert (verdict.then, verdict.delay_s, verdict.why) == (Then.RETRY, 0.0, "exit 1 in a row")


@pytest.mark.parametrize("status", [CLEAN, FAILED, KILLED, UNKNOWN])
def test_never_leaves_every_exit_as_it_is(status: ExitStatus) -> None:
    verdict = after_exit(replace(DEFAULT, policy=Policy.NEVER), status=status, n=0, now_s=5.0)
    assert (verdict.then, verdict.delay_s) == (Then.LEAVE, None)


@pytest.mark.parametrize(
    ("status", "then"),
    [(CLEAN, Then.LEAVE), (FAILED, Then.RETRY), (KILLED, Then.RETRY), (UNKNOWN, Then.RETRY)],
)
def test_on_failure_leaves_only_exit_code_0(status: ExitStatus, then: Then) -> None:
    verdict = after_exit(replace(DEFAULT, policy=Policy.ON_FAILURE), status=status, n=3, now_s=5.0)
    assert verdict.then is then


def test_after_max_retries_it_gives_up_with_a_slow_try() -> None:
    assert after_exit(DEFAULT, status=FAILED, n=9, now_s=0.0).then is Then.RETRY
    verdict = after_exit(DEFAULT, status=FAILED, n=10, now_s=0.0)
    assert (verdict.then, verdict.delay_s, verdict.why) == (Then.GIVE_UP, 900.0, "it ended 11 times in a row")


def test_slow_retry_0_gives_up_without_another_try() -> None:
    verdict = after_exit(replace(DEFAULT, slow_retry_s=0.0), status=FAILED, n=10, now_s=0.0)
    assert (verdict.then, verdict.delay_s) == (Then.GIVE_UP, None)


def test_max_retries_0_never_gives_up() -> None:
    verdict = after_exit(replace(DEFAULT, max_retries=0), status=FAILED, n=10**6, now_s=0.0)
    assert (verdict.then, verdict.delay_s) == (Then.RETRY, 60.0)


def test_a_clean_exit_counts_towards_giving_up_under_always() -> None:
    assert after_exit(DEFAULT, status=CLEAN, n=10, now_s=0.0).then is Then.GIVE_UP


def test_jitter_lengthens_the_delay_by_its_part_of_it() -> None:
    policy = replace(DEFAULT, jitter=0.5)
    assert after_exit(policy, status=FAILED, n=1, now_s=0.0, random_unit=0.0).delay_s == 10.0
    assert after_exit(policy, status=FAILED, n=1, now_s=0.0, random_unit=0.5).delay_s == 12.5
    assert after_exit(policy, status=FAILED, n=0, now_s=0.0, random_unit=0.9).delay_s == 0.0


def test_a_full_hour_holds_the_next_restart_until_the_oldest_leaves_it() -> None:
    policy = replace(DEFAULT, max_restarts_per_hour=3)
    restarts = (100.0, 200.0, 300.0)
    verdict = after_exit(policy, status=FAILED, n=0, now_s=400.0, restarts=restarts)
    assert (verdict.then, verdict.delay_s, verdict.why) == (
        Then.RETRY, 100.0 + HOUR_S - 400.0, "3 restarts in the last hour",
    )
    # a longer back-off delay wins over the hour
    late = after_exit(policy, status=FAILED, n=5, now_s=100.0 + HOUR_S - 1.0, restarts=restarts)
    assert late.delay_s == 60.0


def test_slow_tries_count_against_the_hour_too() -> None:
    policy = replace(DEFAULT, max_restarts_per_hour=2, slow_retry_s=1.0)
    verdict = after_exit(policy, status=FAILED, n=10, now_s=20.0, restarts=(10.0, 15.0))
    assert (verdict.then, verdict.delay_s) == (Then.GIVE_UP, 10.0 + HOUR_S - 20.0)
    free = after_exit(policy, status=FAILED, n=10, now_s=20.0, restarts=(15.0,))
    assert free.delay_s == 1.0


@pytest.mark.parametrize(
    ("now_s", "restarts", "limit", "delay"),
    [
        (0.0, (), 0, 0.0),
        (50.0, (1.0,) * 100, 0, 0.0),
        (50.0, (), 1, 0.0),
        (50.0, (10.0,), 2, 0.0),
        (50.0, (10.0,), 1, HOUR_S - 40.0),
        (50.0, (10.0, 20.0, 30.0), 2, HOUR_S - 30.0),
        (10.0 + HOUR_S, (10.0,), 1, 0.0),
        (9.5 + HOUR_S, (10.0,), 1, 0.5),
    ],
)
def test_the_hour_limit_counts_only_the_last_hour(
    now_s: float, restarts: tuple[float, ...], limit: int, delay: float
) -> None:
    assert hour_delay(now_s, restarts, limit) == pytest.approx(delay)
