"""``grpc.health.v1.Health``: whether the server serves, for probes and for clients that watch.

The library's own servicer would keep a worker for every client that watches; here one answer is sent and the
stream stays open without a thread. It ends with the server, which is how a watching client learns of that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2 as pb

from daemon.errors import RequestError, RequestFault
from daemon.rpc.bridge import Bridge, CallerGone
from daemon.rpc.gate import Gate
from daemon.rpc.method import SMALL_BYTES, Call, Method
from daemon.rpc.servicer import ANSWER_CAP_S

HEALTH_SERVICE = "grpc.health.v1.Health"
WATCHERS_MAX = 32


class Health:
    """Answers Check and Watch.

    Args:
        bridge: Check goes through the reactor: a daemon whose reactor hangs is not well.
        services: that are served here.
    """

    def __init__(self, bridge: Bridge, *services: str) -> None:
        self._bridge = bridge
        self._services = services

    def handlers(self, gate: Gate) -> dict[str, Any]:
        """The handlers by path."""
        check = Method(name="Health.Check", read=_read, answer=self._check)

        def watch(messages: Iterator[bytes], context: Any, send: Callable[[bytes | None], None]) -> None:
            try:
                service = _read(gate.message(messages, context, SMALL_BYTES))
            except (RequestError, CallerGone):
                send(None)  # an end without an answer
                return
            send(_status("SERVING" if self._served(service) else "SERVICE_UNKNOWN"))

        watch.experimental_non_blocking = True  # type: ignore[attr-defined]  # gRPC looks for it on the function
        return {
            f"/{HEALTH_SERVICE}/Check": gate.handler(check),
            f"/{HEALTH_SERVICE}/Watch": gate.stream("Health.Watch", watch, most=WATCHERS_MAX),
        }

    def _served(self, service: str) -> bool:
        """The empty name asks for the server as a whole."""
        return not service or service in self._services

    def _check(self, service: str, call: Call) -> bytes:
        if not self._served(service):
            raise RequestError(
                RequestFault.UNKNOWN,
                f"no service {service[:64]!r}; {', '.join(self._services)} and '' are known",
            )
        self._bridge.call(call.context, _nothing, cap_s=ANSWER_CAP_S, share=_nothing)
        return _status("SERVING")


def _read(data: bytes) -> str:
    try:
        service: str = pb.HealthCheckRequest.FromString(data).service
    except DecodeError as error:
        raise RequestError(RequestFault.INVALID, "the message is no HealthCheckRequest") from error
    return service


def _status(name: str) -> bytes:
    status = pb.HealthCheckResponse.ServingStatus.Value(name)
    data: bytes = pb.HealthCheckResponse(status=status).SerializeToString()
    return data


def _nothing() -> None:
    """A turn of the reactor, nothing else."""
