"""Server reflection, for grpcurl and its like; imported only where ``grpc.reflection`` is written."""

from __future__ import annotations

from typing import Any

from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha import reflection_pb2 as pb

from daemon.rpc.gate import Gate
from daemon.rpc.health import HEALTH_SERVICE
from daemon.rpc.pb import daemon_pb2  # noqa: F401 - registers the descriptors that reflection shows
from daemon.rpc.servicer import SERVICE

REFLECTION_SERVICE = "grpc.reflection.v1alpha.ServerReflection"


def reflection_handlers(gate: Gate, *, most: int) -> dict[str, Any]:
    """The handler by path; each stream holds a worker, hence so many at a time."""
    servicer = reflection.ReflectionServicer((SERVICE, HEALTH_SERVICE, REFLECTION_SERVICE))
    handler = gate.stream(
        "ServerReflection", servicer.ServerReflectionInfo, most=most,
        request_deserializer=pb.ServerReflectionRequest.FromString,
        response_serializer=pb.ServerReflectionResponse.SerializeToString,
    )
    return {f"/{REFLECTION_SERVICE}/ServerReflectionInfo": handler}
