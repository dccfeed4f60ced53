"""How often a peer's mistakes are told: once a minute, however many there are."""

from __future__ import annotations

from collections.abc import Hashable

from daemon.aio.reactor import Clock

NOTICE_EVERY_S = 60.0
NOTICE_PEERS = 64  # peers remembered, and so the most notices within a minute


class Notices:
    """Decides which of many mistakes is told; bounded in memory and in what it lets through."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._told: dict[Hashable, tuple[float, int]] = {}  # when, and how many were kept back since

    def due(self, peer: Hashable) -> int | None:
        """Whether to tell of this mistake.

        Returns:
            how many of the peer's mistakes were kept back before, or None: keep this one back too.
        """
        now = self._clock.seconds()
        told = self._told.get(peer)
        if told is not None and now - told[0] < NOTICE_EVERY_S:
            self._told[peer] = (told[0], told[1] + 1)
            return None
        if told is None and len(self._told) >= NOTICE_PEERS:
            # Dicts keep their order and every telling moves a peer to the end: the first is the oldest.
            oldest = next(iter(self._told))
            if now - self._told[oldest][0] < NOTICE_EVERY_S:
                return None
            del self._told[oldest]
        self._told.pop(peer, None)
        self._told[peer] = (now, 0)
        return 0 if told is None else told[1]
