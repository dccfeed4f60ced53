"""Which update has which file: agents that share a binary are updated one after the other.

Two updates of one file at once would take each other's process for one that died, and both would go back.
"""

from __future__ import annotations


class Claims:
    """All of them; those of one daemon, for the next one begins every update anew."""

    def __init__(self) -> None:
        self._by: dict[str, str] = {}  # path to update

    def take(self, path: str, update_id: str) -> str:
        """Claims a file.

        Returns:
            the update that has it; empty when that is the one that asks.
        """
        found = self._by.setdefault(path, update_id)
        return "" if found == update_id else found

    def has(self, update_id: str) -> bool:
        """Whether an update has claimed anything."""
        return update_id in self._by.values()

    def let_go(self, update_id: str) -> None:
        """The update is over."""
        self._by = {path: other for path, other in self._by.items() if other != update_id}
