"""The daemon's door: agents send heartbeats without a token, and are refused in that route's own form."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

from daemon.errors import RequestError
from daemon.web.access import check_access
from daemon.web.answers import JSON
from daemon.web.door import Door
from daemon.web.problems import problem_of
from daemon.web.request import BODY_MAX, BoundedRequest
from daemon.web.room import Room
from daemon.web.updates import ROUTE

HEARTBEAT = b"/heartbeat"  # agents send without a token; the receiver checks their pid instead


class Gate(Door):
    """See :class:`daemon.web.door.Door`.

    Args:
        inner, token, our_names, local: as there.
        heartbeat_refusal: the form of a refusal on the heartbeat route.
        package_max: bytes of a request that brings a package.
        room: for so many of them at a time.
    """

    def __init__(
        self, inner: Any, *, token: str, our_names: Collection[str], local: bool,
        heartbeat_refusal: Callable[[int, str], bytes], room: Room,
        package_max: Callable[[], int] = lambda: BODY_MAX,
    ) -> None:
        super().__init__(inner, token=token, our_names=our_names, local=local)
        self._heartbeat_refusal = heartbeat_refusal
        self._package_max = package_max
        self._room = room

    def body_room(self, command: bytes, path: bytes, request: BoundedRequest) -> int:
        """Bytes that a large body may have: a package's worth for those alone who may send one, and not for
        more of them than there is room for."""
        if command != b"POST" or path.partition(b"?")[0] != ROUTE:
            return BODY_MAX
        asker = replace(self._asker(request), method="POST")
        try:
            check_access(asker, token=self._token, our_names=self._our_names, mutates=True)
        except RequestError:
            return BODY_MAX  # it is refused when it is there
        if not self._room.enter(request):
            request.crowded = True
            request.drain_max = self._package_max()  # it is dropped as it comes, and answered
            return BODY_MAX
        return self._package_max()

    def mutates(self, request: BoundedRequest) -> bool:
        """See Door; a heartbeat counts as reading."""
        return request.path != HEARTBEAT and super().mutates(request)

    def bounds_itself(self, request: BoundedRequest) -> bool:
        """See Door."""
        return request.path == HEARTBEAT

    def refuse(self, request: BoundedRequest, error: RequestError) -> bytes:
        """See Door."""
        if request.path != HEARTBEAT:
            return super().refuse(request, error)
        status = problem_of(error).status
        request.setResponseCode(status)
        request.setHeader(b"content-type", JSON)
        return self._heartbeat_refusal(status, error.message)
