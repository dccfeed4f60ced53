"""A Notifier that tells what a test says happened; verified against the real one by one contract."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path


class _Caller:
    def __init__(self, call: Callable[[str], None], *, once: bool) -> None:
        self.call = call
        self.once = once
        self.live = True


class FakeNotifier:
    """Watches by path; ``touch`` and ``vanish`` play the kernel.

    Attributes:
        refused: when set, no watch is to be had.
    """

    def __init__(self) -> None:
        self.refused = False
        self._callers: dict[Path, list[_Caller]] = {}

    def once(self, path: Path, call: Callable[[], None]) -> Callable[[], None]:
        """See daemon.aio.notify.Notifier."""
        return self._watch(path, _Caller(lambda _name: call(), once=True))

    def entries(self, path: Path, call: Callable[[str], None]) -> Callable[[], None]:
        """See daemon.aio.notify.Notifier."""
        if path.exists() and not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "Not a directory", str(path))
        return self._watch(path, _Caller(call, once=False))

    def _watch(self, path: Path, caller: _Caller) -> Callable[[], None]:
        if self.refused:
            raise OSError(errno.ENOSPC, "no inotify watch is left", str(path))
        if not path.exists():
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
        self._callers.setdefault(path, []).append(caller)

        def take_back() -> None:
            caller.live = False
            self._sweep(path)

        return take_back

    def _sweep(self, path: Path) -> None:
        left = [caller for caller in self._callers.get(path, ()) if caller.live]
        if left:
            self._callers[path] = left
        else:
            self._callers.pop(path, None)

    @property
    def watches(self) -> int:
        """Files and directories under watch."""
        return len(self._callers)

    def touch(self, path: Path) -> None:
        """The file was written to, and with it an entry of its directory."""
        self._tell(path, "", [c for c in self._callers.get(path, ()) if c.once])
        self._tell(path.parent, path.name, [c for c in self._callers.get(path.parent, ()) if not c.once])

    def vanish(self, path: Path) -> None:
        """The file or directory was deleted."""
        callers = self._callers.pop(path, [])
        self._tell(path, "", callers)
        for caller in callers:
            caller.live = False
        self._tell(path.parent, path.name, [c for c in self._callers.get(path.parent, ()) if not c.once])

    def _tell(self, path: Path, name: str, told: list[_Caller]) -> None:
        once = [caller for caller in told if caller.once]
        if path in self._callers:  # before anybody is called, who may set the next watch
            self._callers[path] = [caller for caller in self._callers[path] if caller not in once]
            self._sweep(path)
        for caller in told:
            if caller.live:
                caller.live = not caller.once
                caller.call(name)
