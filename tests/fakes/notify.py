"""A Notifier that tells what a test says happened."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path


class FakeNotifier:
    """Watches by path; ``touch`` plays the kernel.

    Attributes:
        refused: when set, no watch is to be had.
    """

    def __init__(self) -> None:
        self.refused = False
        self._once: dict[Path, dict[object, Callable[[], None]]] = {}
        self._entries: dict[Path, dict[object, Callable[[str], None]]] = {}

    def once(self, path: Path, call: Callable[[], None]) -> Callable[[], None]:
        """See daemon.aio.notify.Notifier."""
        self._check(path)
        token = object()
        self._once.setdefault(path, {})[token] = call
        return lambda: self._once.get(path, {}).pop(token, None) and None

    def entries(self, path: Path, call: Callable[[str], None]) -> Callable[[], None]:
        """See daemon.aio.notify.Notifier."""
        self._check(path)
        token = object()
        self._entries.setdefault(path, {})[token] = call
        return lambda: self._entries.get(path, {}).pop(token, None) and None

    def _check(self, path: Path) -> None:
        if self.refused:
            raise OSError(errno.ENOSPC, "no inotify watch is left", str(path))
        if not path.exists():
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))

    @property
    def watches(self) -> int:
        """Watches held."""
        return sum(map(len, self._once.values())) + sum(map(len, self._entries.values()))

    def touch(self, path: Path) -> None:
        """The file was written to, or an entry of its directory changed."""
        for call in tuple(self._once.pop(path, {}).values()):
            call()
        for call in tuple(self._entries.get(path.parent, {}).values()):
            call(path.name)
