"""Retry of a call with growing delays; cancellable."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from twisted.internet.defer import CancelledError

from daemon.aio.reactor import Clock
from daemon.aio.sleep import sleep

T = TypeVar("T")


def backoff_delay(attempt: int, *, base_delay: float, max_delay: float, multiplier: float) -> float:
    """Seconds before retry number ``attempt`` (0 = the first retry): base x multiplier^attempt, capped.

    The cap comes before any jitter, so that jitter is not lost at the cap.
    """
    try:
        return min(max_delay, base_delay * multiplier**attempt)
    except OverflowError:
        return max_delay


def full_jitter(delay_s: float, random_unit: Callable[[], float] = random.random) -> float:
    """A delay drawn evenly from [0, delay_s): spreads a herd best of the usual jitters."""
    return delay_s * random_unit()


async def retry(
    clock: Clock,
    call: Callable[[], Awaitable[T]],
    *,
    max_retries: int,
    base_delay: float,
    max_delay: float,
    multiplier: float = 2.0,
    retriable: tuple[type[BaseException], ...] = (Exception,),
    jitter: Callable[[float], float] = full_jitter,
) -> T:
    """Awaits ``call()`` until it succeeds.

    Args:
        clock: where the waiting happens.
        call: makes a fresh attempt each time.
        max_retries: attempts after the first one; the last failure is raised.
        base_delay: seconds before the first retry.
        max_delay: the most seconds between two attempts.
        multiplier: growth of the delay.
        retriable: other exceptions are raised at once.
        jitter: applied after the cap.

    Raises:
        CancelledError: the caller cancelled, during an attempt or between two.
        whatever the last attempt raised.
    """
    attempt = 0
    while True:
        try:
            return await call()
        except CancelledError:
            raise  # whoever cancels wants no further attempt, though CancelledError is an Exception
        except retriable:
            if attempt >= max_retries:
                raise
            pause = backoff_delay(attempt, base_delay=base_delay, max_delay=max_delay, multiplier=multiplier)
        attempt += 1
        await sleep(clock, jitter(pause))
