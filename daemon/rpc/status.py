"""Errors over gRPC: the one table from faults to status codes, and the details a program reads.

Every refusal of ours carries ``google.rpc.ErrorInfo``: ``domain`` is ``hostdaemon``, ``reason`` the D-code;
where only the request was wrong and there is none, it is the fault in capitals (``UNKNOWN``, ``SUPERSEDED``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from daemon.errors import DaemonError, ErrorCode, RequestError, RequestFault

DOMAIN = "hostdaemon"
MESSAGE_MAX = 1000  # characters; trailers are bounded, and what a caller sent does not come back whole
# A message goes twice, percent-encoded in grpc-message and as base64 in its details. gRPC drops trailers
# above 8 KiB (up to 16 at random): the caller saw RESOURCE_EXHAUSTED where the answer was NOT_FOUND.
ENCODED_MAX_BYTES = 3000
RETRY_AFTER_S = 1

FAULT_CODES: dict[RequestFault, grpc.StatusCode] = {
    RequestFault.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    RequestFault.UNKNOWN: grpc.StatusCode.NOT_FOUND,
    RequestFault.FORBIDDEN: grpc.StatusCode.PERMISSION_DENIED,
    RequestFault.UNAUTHORIZED: grpc.StatusCode.PERMISSION_DENIED,
    RequestFault.SUPERSEDED: grpc.StatusCode.ABORTED,
    RequestFault.PRECONDITION: grpc.StatusCode.FAILED_PRECONDITION,
    RequestFault.TOO_LARGE: grpc.StatusCode.INVALID_ARGUMENT,  # RESOURCE_EXHAUSTED would be tried again
    RequestFault.BUSY: grpc.StatusCode.RESOURCE_EXHAUSTED,
    RequestFault.STOPPING: grpc.StatusCode.UNAVAILABLE,
}

# A D-code means that the daemon, not the request, is at fault: INTERNAL unless the request asked for it.
CODE_CODES: dict[ErrorCode, grpc.StatusCode] = {
    ErrorCode.CONFIG_LOAD: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorCode.CONFIG_VALIDATE: grpc.StatusCode.FAILED_PRECONDITION,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """How a call ends that does not succeed.

    Attributes:
        code: of gRPC.
        reason: for ErrorInfo.
        message: one sentence for people.
        retry_after_s: seconds after which another try may succeed; 0 for nothing known.
    """

    code: grpc.StatusCode
    reason: str
    message: str
    retry_after_s: int = 0


def refusal_of(error: DaemonError | RequestError) -> Refusal:
    """What an error of ours becomes."""
    if isinstance(error, DaemonError):
        code = CODE_CODES.get(error.code, grpc.StatusCode.INTERNAL)
        return Refusal(code=code, reason=error.code.value, message=error.message)
    after_s = error.retry_after_s or (RETRY_AFTER_S if error.fault is RequestFault.BUSY else 0)
    return Refusal(
        code=FAULT_CODES[error.fault], reason=error.fault.name, message=error.message, retry_after_s=after_s
    )


def grpc_status(refusal: Refusal) -> Any:
    """For ``context.abort_with_status``: code, message, ErrorInfo and, where it helps, RetryInfo."""
    details = [_packed(ErrorInfo(reason=refusal.reason, domain=DOMAIN))]
    if refusal.retry_after_s:
        details.append(_packed(RetryInfo(retry_delay=Duration(seconds=refusal.retry_after_s))))
    message = _encodable(plain(refusal.message, MESSAGE_MAX))
    return rpc_status.to_status(Status(code=refusal.code.value[0], message=message, details=details))


def plain(text: str, most: int) -> str:
    """Text fit for a status or a log: bounded, without control characters or halves of surrogate pairs."""
    if len(text) > most:
        text = f"{text[:most]}..."
    if text.isprintable():
        return text
    shown = "".join(c if c.isprintable() else " " for c in text)
    return shown.encode("utf-8", "replace").decode("utf-8")


def _encodable(text: str) -> str:
    """As much of the text as fits into a trailer; a character that is not ASCII takes up to twelve bytes."""
    room = ENCODED_MAX_BYTES
    for position, character in enumerate(text):
        room -= len(quote(character, safe=" "))
        if room < 0:
            return f"{text[:position]}..."
    return text


def _packed(message: Any) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed
