"""Notices that the file of a Unix socket went from its place, so that whoever listens can bind it anew.

A listening socket whose file somebody removed (``rm -rf run/*``, a cleaner of temporary files) is deaf for
ever and does not know it: nothing in accept(2) tells.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from twisted.logger import Logger

from daemon.aio.notify import Notifier, TakeBack
from daemon.aio.reactor import Clock, DelayedCall

log = Logger()

QUIET_S = 0.1  # after an event: whoever removes a folder removes it file by file
LOOK_EVERY_S = 30.0  # where no watch is to be had, and until what failed is tried again


class SocketWatch:
    """Watches one path: by the entries of its directory or, where that is gone, of the nearest one above it.

    Args:
        path: the socket.
        clock: waits.
        notifier: tells of changes.
        look: compares what is at the path with what was bound there. Called soon after each change of that
            name, and once after a watch was set: what happened before it stood is found that way.
    """

    def __init__(self, path: str, clock: Clock, notifier: Notifier, look: Callable[[], None]) -> None:
        self._path = Path(path).absolute()
        self._clock = clock
        self._notifier = notifier
        self._look = look
        self._directory: Path | None = None  # under watch
        self._name = ""  # of the entry there that matters
        self._take_back: TakeBack = _nothing
        self._soon: DelayedCall | None = None
        self._complained = False

    def start(self) -> None:
        """Begins to watch."""
        self._arm()

    def again(self) -> None:
        """Looks again in a while, whatever is told: what had to be done failed."""
        self._later(LOOK_EVERY_S)

    def stop(self) -> None:
        """Ends it."""
        self._disarm()
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None

    def _arm(self) -> None:
        directory, name = self._path.parent, self._path.name
        while not directory.is_dir() and directory != directory.parent:
            directory, name = directory.parent, directory.name
        if directory == self._directory:
            return
        self._disarm()
        try:
            self._take_back = self._notifier.entries(directory, self._event)
        except OSError as error:
            if not self._complained:
                self._complained = True
                log.warn(
                    "the place of socket {path} cannot be watched ({error}); it is looked at every "
                    "{seconds:g} s instead",
                    path=str(self._path), error=error.strerror or str(error), seconds=LOOK_EVERY_S,
                )
            self._later(LOOK_EVERY_S)
            return
        self._complained = False
        self._directory, self._name = directory, name
        self._later(QUIET_S)

    def _disarm(self) -> None:
        take_back, self._take_back = self._take_back, _nothing
        self._directory = None
        take_back()

    def _event(self, name: str) -> None:
        if not name:  # the directory itself went, or events were lost
            self._disarm()
        elif name != self._name:
            return
        self._later(QUIET_S)

    def _later(self, delay_s: float) -> None:
        if self._soon is not None:
            self._soon.cancel()
        self._soon = self._clock.callLater(delay_s, self._due)

    def _due(self) -> None:
        self._soon = None
        self._arm()
        self._look()


def _nothing() -> None:
    """Nothing is watched."""
