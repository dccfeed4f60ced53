"""Sleeping on a clock, cancellable."""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from daemon.aio.reactor import Clock


def sleep(clock: Clock, seconds: float) -> Deferred[None]:
    """Fires after that many seconds; cancelling it takes the timer back."""
    # deferLater asks for zope's IReactorTime, which our Clock is in all but name.
    return deferLater(cast(Any, clock), seconds, lambda: None)
