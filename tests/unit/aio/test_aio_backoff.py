"""Delays and retries."""

from __future__ import annotations

from collections.abc import Awaitable

import pytest
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from daemon.aio.backoff import backoff_delay, full_jitter, retry


@pytest.mark.parametrize(
    ("attempt", "expected"), [(0, 1.0), (1, 2.0), (2, 4.0), (5, 30.0), (10_000, 30.0), (10**6, 30.0)]
)
def test_the_delay_grows_by_the_multiplier_up_to_the_cap(attempt: int, expected: float) -> None:
    assert backoff_delay(attempt, base_delay=1.0, max_delay=30.0, multiplier=2.0) == expected


@pytest.mark.parametrize(("unit", "expected"), [(0.0, 0.0), (0.25, 2.5), (0.999, 9.99)])
def test_full_jitter_draws_from_the_whole_delay(unit: float, expected: float) -> None:
    assert full_jitter(10.0, lambda: unit) == pytest.approx(expected)


class RetryTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.attempts: list[float] = []
        self.outcomes: list[Awaitable[str]] = []

    def attempt(self) -> Awaitable[str]:
        self.attempts.append(self.clock.seconds())
        return self.outcomes[len(self.attempts) - 1]

    def start(
        self, max_retries: int = 5, retriable: tuple[type[BaseException], ...] = (Exception,)
    ) -> Deferred[str]:
        return Deferred.fromCoroutine(retry(
            self.clock, self.attempt, max_retries=max_retries, base_delay=1.0, max_delay=3.0,
            retriable=retriable, jitter=lambda delay_s: delay_s,
        ))

    def test_a_success_needs_no_clock(self) -> None:
        self.outcomes = [succeed("done")]
        self.assertEqual(self.successResultOf(self.start()), "done")

    def test_it_waits_longer_each_time_up_to_the_cap_until_it_succeeds(self) -> None:
        self.outcomes = [fail(OSError(n)) for n in range(4)] + [succeed("done")]
        result = self.start()
        self.clock.pump([1, 2, 3, 3])
        self.assertEqual(self.successResultOf(result), "done")
        self.assertEqual(self.attempts, [0, 1, 3, 6, 9])

    def test_the_last_failure_is_raised(self) -> None:
        self.outcomes = [fail(OSError("first")), fail(OSError("second"))]
        result = self.start(max_retries=1)
        self.clock.advance(1)
        self.assertEqual(str(self.failureResultOf(result, OSError).value), "second")

    def test_no_retries_means_one_attempt(self) -> None:
        self.outcomes = [fail(OSError("only"))]
        self.failureResultOf(self.start(max_retries=0), OSError)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_what_is_not_retriable_is_raised_at_once(self) -> None:
        self.outcomes = [fail(ValueError())]
        self.failureResultOf(self.start(retriable=(OSError,)), ValueError)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_cancelling_between_attempts_ends_it_and_takes_the_timer_away(self) -> None:
        self.outcomes = [fail(OSError())]
        result = self.start()
        result.cancel()
        self.failureResultOf(result, CancelledError)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_cancelling_during_an_attempt_is_not_retried(self) -> None:
        self.outcomes = [Deferred(), succeed("second")]
        result = self.start()
        result.cancel()
        self.failureResultOf(result, CancelledError)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(len(self.attempts), 1)
