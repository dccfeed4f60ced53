"""Room for large bodies: each is held in memory until its package is on disk, so there are few at a time."""

from __future__ import annotations

from daemon.web.request import BoundedRequest

LARGE_AT_ONCE = 2  # 43 MB each as base64, and 32 MiB more while it is decoded and written


class Room:
    """That of one listener.

    Args:
        most: bodies at a time.

    Attributes:
        taken: how many there are.
    """

    def __init__(self, most: int = LARGE_AT_ONCE) -> None:
        self.taken = 0
        self._most = most

    def enter(self, request: BoundedRequest) -> bool:
        """Takes a place until the request is answered or its client is gone; False where there is none."""
        if self.taken >= self._most:
            return False
        self.taken += 1
        request.notifyFinish().addBoth(self._left)
        return True

    def _left(self, _why: object) -> None:
        self.taken -= 1
