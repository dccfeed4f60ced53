"""How many connections there may be, and whose: a crowd of strangers never keeps an agent out."""

from __future__ import annotations

import resource
from collections.abc import Hashable, Iterator
from typing import Generic, Protocol, TypeVar

CONNECTIONS_MAX = 2048  # each holds at most 2 x MAX_LENGTH bytes of unread messages: 64 MiB in all


class Member(Protocol):
    """A connection that may have to go."""

    def leave(self) -> None:
        """Closes it."""
        ...


M = TypeVar("M", bound=Member)


def connection_limit() -> int:
    """The most connections this process should hold: half of the descriptors it may open, at most 2048.

    The other half is for agents, logs, HTTP and /proc (getrlimit(2), RLIMIT_NOFILE).
    """
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if descriptors == resource.RLIM_INFINITY:
        return CONNECTIONS_MAX
    return max(16, min(CONNECTIONS_MAX, descriptors // 2))


class Crowd(Generic[M]):
    """The open connections by their holder: an agent, or a user when the peer is no agent's.

    When the limit is reached, the holder of the most makes room: its newest connection is closed, unless
    the newcomer's holder would then have as many.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._by_holder: dict[Hashable, dict[M, None]] = {}
        self._holder_of: dict[M, Hashable] = {}

    def __len__(self) -> int:
        return len(self._holder_of)

    def __iter__(self) -> Iterator[M]:
        return iter(tuple(self._holder_of))

    def admit(self, member: M, holder: Hashable) -> bool:
        """Whether it may stay; somebody else may have had to leave for it."""
        if len(self._holder_of) >= self.limit:
            biggest = max(self._by_holder, key=lambda held: len(self._by_holder[held]))
            if len(self._by_holder.get(holder, ())) + 1 >= len(self._by_holder[biggest]):
                return False
            newest = next(reversed(self._by_holder[biggest]))
            self.discard(newest)
            newest.leave()
        self._by_holder.setdefault(holder, {})[member] = None
        self._holder_of[member] = holder
        return True

    def discard(self, member: M) -> None:
        """It is gone; nothing happens when it was not here."""
        holder = self._holder_of.pop(member, None)
        if holder is None:
            return
        held = self._by_holder[holder]
        del held[member]
        if not held:
            del self._by_holder[holder]
