"""Clean-ups after crashes that go on while the successor runs already."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger


class Burials:
    """The clean-ups of one agent that have not ended."""

    log = Logger()

    def __init__(self, agent_id: str) -> None:
        self._agent_id = agent_id
        self._under_way: list[Deferred[None]] = []

    @property
    def pending(self) -> tuple[Deferred[None], ...]:
        """Each fires when its clean-up has ended; none fails."""
        return tuple(self._under_way)

    def begin(self, burial: Coroutine[Deferred[Any], Any, None]) -> None:
        """Carries one out; a fault in it is logged."""
        done = Deferred.fromCoroutine(burial)
        self._under_way.append(done)
        done.addErrback(
            lambda failure: self.log.failure(
                "agent {agent_id}: clean-up", failure=failure, agent_id=self._agent_id
            )
        )
        done.addCallback(lambda _done: self._under_way.remove(done))

    def then(self, call: Callable[[], None]) -> bool:
        """Calls when the last one has ended; False, and no call, when none is under way."""
        if not self._under_way:
            return False
        self._under_way[-1].addCallback(lambda _gone: call())
        return True
