"""How a gate turns callers away, in the words of the program it stands before."""

from __future__ import annotations

from dataclasses import dataclass

import grpc

from daemon.rpc.status import RETRY_AFTER_S, Refusal

LONG_MAX = 8  # operations that may hold a worker at the same time
LARGE_MAX = 2  # calls of methods that take packages, for each is in memory until it is on disk
RETRY_LATER_S = 5

GONE = Refusal(code=grpc.StatusCode.CANCELLED, reason="GONE", message="the caller left")


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What a program says to callers.

    Attributes:
        busy: it has as many calls in hand as it takes.
        stopping: it stops.
        late: its reactor, or what that waits for, does not answer.
        fault: one of its own.
        unknown_method: which services there are instead.
        allowed: where the names of those who may call are written.
    """

    busy: str
    stopping: str
    late: str
    fault: str
    unknown_method: str
    allowed: str


DAEMON_WORDS = Words(
    busy="the daemon has as many calls in hand as it takes; try again in a second",
    stopping="the daemon is stopping; its agents run on",
    late="the daemon is too busy to answer in time; its log says with what",
    fault="a fault of the daemon; its log says more",
    unknown_method="only proto.DaemonService and grpc.health.v1.Health are served; compare your proto files",
    allowed="daemon.grpc.allowed_clients of this node",
)


class Refusals:
    """The refusals of a gate.

    Args:
        words: of the program.
    """

    def __init__(self, words: Words) -> None:
        self._allowed = words.allowed
        self.busy = Refusal(
            code=grpc.StatusCode.RESOURCE_EXHAUSTED, reason="BUSY", message=words.busy,
            retry_after_s=RETRY_AFTER_S,
        )
        self.busy_long = Refusal(
            code=grpc.StatusCode.RESOURCE_EXHAUSTED, reason="BUSY", retry_after_s=RETRY_LATER_S,
            message=f"{LONG_MAX} operations are in hand and no more are taken; try again in a few seconds",
        )
        self.busy_large = Refusal(
            code=grpc.StatusCode.RESOURCE_EXHAUSTED, reason="BUSY", retry_after_s=RETRY_LATER_S,
            message=f"{LARGE_MAX} packages are on their way and no more are taken; try again in a while",
        )
        self.stopping = Refusal(
            code=grpc.StatusCode.UNAVAILABLE, reason="STOPPING", message=words.stopping
        )
        self.late = Refusal(
            code=grpc.StatusCode.UNAVAILABLE, reason="LATE", message=words.late, retry_after_s=RETRY_LATER_S
        )
        self.fault = Refusal(code=grpc.StatusCode.INTERNAL, reason="FAULT", message=words.fault)
        self.unknown_method = Refusal(
            code=grpc.StatusCode.UNIMPLEMENTED, reason="UNKNOWN_METHOD", message=words.unknown_method
        )

    def forbidden(self, who: str) -> Refusal:
        """A caller whose certificate names nobody that may call."""
        return Refusal(
            code=grpc.StatusCode.PERMISSION_DENIED, reason="FORBIDDEN",
            message=f"{who} is not in {self._allowed}",
        )
