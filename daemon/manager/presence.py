"""Which nodes are heard of, by monotonic time; pure bookkeeping, no clock of its own."""

from __future__ import annotations

from collections.abc import Iterable


class Presence:
    """Remembers when each node was last heard.

    Wall time is kept in the database for people. Here a clock that is set neither loses a fleet nor keeps a
    dead one alive, and a Manager that was away gives every node its full time anew.

    Args:
        offline_after_s: seconds of silence after which a node is offline.
    """

    def __init__(self, offline_after_s: float) -> None:
        self.offline_after_s = offline_after_s
        self._heard: dict[str, float] = {}
        self._offline: set[str] = set()

    def load(self, nodes: Iterable[tuple[str, bool]], now: float) -> None:
        """What is known at the start: each node, and whether it was online."""
        for node_id, online in nodes:
            self._heard[node_id] = now
            if not online:
                self._offline.add(node_id)

    def arrived(self, node_id: str, now: float) -> None:
        """A heartbeat came and is not written yet; a node we do not know stays unknown."""
        if node_id in self._heard:
            self._heard[node_id] = now

    def heard(self, node_id: str, now: float) -> None:
        """A registration or heartbeat is written: the node is online."""
        self._heard[node_id] = now
        self._offline.discard(node_id)

    def lapsed(self, now: float) -> tuple[str, ...]:
        """The online nodes whose time is over."""
        return tuple(
            node_id for node_id, at in self._heard.items()
            if now - at >= self.offline_after_s and node_id not in self._offline
        )

    def gone(self, node_id: str) -> None:
        """It is written that the node is offline."""
        self._offline.add(node_id)

    @property
    def online(self) -> int:
        """Nodes that are heard of."""
        return len(self._heard) - len(self._offline)

    @property
    def offline(self) -> int:
        """Nodes that are not."""
        return len(self._offline)
