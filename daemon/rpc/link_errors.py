"""What can go wrong between this node and the Manager, in words an operator can act on.

gRPC's own errors go no further than here: whoever calls the Manager meets :class:`CallFailed`.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Any
from urllib.parse import unquote

import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import RetryInfo
from grpc_status import rpc_status
from twisted.logger import Logger

from daemon.rpc.status import plain

log = Logger()

TEXT_MAX = 300  # characters of what the other side said
RETRY_MAX_S = 3600.0  # a Manager asks for patience, it does not send us away


class FaultKind(Enum):
    """Why a call failed, as far as it decides what comes next."""

    AWAY = "away"  # no connection, or the Manager is stopping
    SLOW = "slow"  # no answer before the deadline
    UNKNOWN_NODE = "unknown node"
    INVALID = "invalid"  # the request itself: sent again it would be refused again
    NOT_OFFERED = "not offered"
    BUSY = "busy"
    DENIED = "denied"
    REFUSED = "refused"  # success=false
    FAULT = "fault"  # of the Manager


class CallFailed(Exception):
    """A call to the Manager did not succeed.

    Args:
        kind: what that means.
        message: cause and next step.
        retry_after_s: the Manager wants to be left alone that long; 0: it did not say.
    """

    def __init__(self, kind: FaultKind, message: str, *, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.retry_after_s = retry_after_s


_Code = grpc.StatusCode

KINDS: dict[grpc.StatusCode, FaultKind] = {
    _Code.UNAVAILABLE: FaultKind.AWAY,
    _Code.CANCELLED: FaultKind.AWAY,  # by the other side: ours are never seen
    _Code.DEADLINE_EXCEEDED: FaultKind.SLOW,
    _Code.NOT_FOUND: FaultKind.UNKNOWN_NODE,
    _Code.FAILED_PRECONDITION: FaultKind.UNKNOWN_NODE,
    _Code.INVALID_ARGUMENT: FaultKind.INVALID,
    _Code.UNIMPLEMENTED: FaultKind.NOT_OFFERED,
    _Code.RESOURCE_EXHAUSTED: FaultKind.BUSY,
    _Code.PERMISSION_DENIED: FaultKind.DENIED,
    _Code.UNAUTHENTICATED: FaultKind.DENIED,
}

# What gRPC says of a connection that did not come about, and what it means; the first that fits.
_CAUSES = (
    ("certificate has expired", "the Manager's certificate has expired; renew it there"),
    ("certificate is not yet valid",
     "the Manager's certificate is not valid yet; compare the clocks of both hosts"),
    ("certificate_verify_failed",
     "the Manager's certificate is not of an authority in manager.tls.ca_file; write the authority that "
     "signed it"),
    ("hostname verification",
     "the Manager's certificate does not name {name}; write manager.tls.server_name, or have it named there"),
    ("wrong_version_number", "the Manager speaks no TLS on that port; correct manager.address or its TLS"),
    ("unsupported_protocol", "the Manager speaks no TLS 1.3; turn it on there"),
    ("protocol_version", "the Manager speaks no TLS 1.3; turn it on there"),
    ("handshake_failure", "the Manager speaks no TLS 1.3; turn it on there"),
    ("handshake failed", "the TLS handshake failed; compare manager.tls with the Manager's certificates"),
    ("connection refused",
     "nobody listens at {address}; start the Manager or correct manager.address"),
    ("domain name not found", "the name {host} is not known; correct manager.address or the DNS"),
    ("errors resolving", "the name {host} cannot be looked up; check the DNS of this host"),
    ("address lookup failed", "the name {host} cannot be looked up; check the DNS of this host"),
    ("no route to host", "there is no route to {address}; check network and firewall"),
    ("network is unreachable", "the network of {address} cannot be reached; check the routes of this host"),
    ("too many open files", "this process has no file descriptor left; raise LimitNOFILE="),
    ("too_many_pings",
     "something on the way refuses our keepalive (a ping every 10 s); permit it there"),
    ("ping timeout", "the connection to {address} is dead: pings stay unanswered; check the network"),
    ("keepalive watchdog", "the connection to {address} is dead: pings stay unanswered; check the network"),
    ("http1.x", "what listens at {address} speaks HTTP/1, not gRPC; correct manager.address"),
    ("http2 header with status",
     "what answers at {address} is no gRPC server; correct manager.address, or the proxy on the way"),
    ("timed out", "{address} does not answer; check network and firewall"),
)
# What gRPC says of an answer that it could not hand on, whatever the status; the first that fits.
_ODD_ANSWERS = (
    ("larger than max", "its answer is larger than this daemon takes; look at its log"),
    ("deserializing response", "its answer cannot be read; compare the proto files of both"),
    ("http2 header with status",
     "what answers is no gRPC server; correct manager.address, or the proxy on the way"),
    ("rst_stream", "it broke the call off; its log may say why"),
    ("stream removed", "it broke the call off; its log may say why"),
    ("protocol error", "it broke the call off; its log may say why"),
)
# Marks of gRPC's own texts, which change with its version and help no operator. What has none of them are the
# Manager's words.
_ITS_OWN = re.compile(
    r"last error|all addresses|address list|\bipv[46]:|\bunix:|subchannel|transport|recvmsg|sendmsg|grpc_|"
    r"errno|openssl|handshake|\btsi_|ssl_|rst_stream|goaway|endpoint|socket|resolver|lb policy|http2|"
    r"^stream |exception (calling|iterating|serializing|deserializing)",
    re.IGNORECASE,
)
# gRPC tells of the address it tried last alone: where ``localhost`` is ::1 too, a refused ::1 hides why the
# Manager at 127.0.0.1 was left.
_REFUSED_V6 = re.compile(r"ipv6:(\S+): [^:]*: Connection refused")
_NOBODY_AT_ONE = (
    "nobody listens at {refused}, the last tried of the addresses of {address}; start the Manager, or write "
    "the address it listens at into manager.address to see why that one fails"
)
_CLOSED = ("socket closed", "connection reset", "broken pipe", "end of tcp stream", "goaway")
_CLOSED_TLS = (
    "the Manager closed the connection; it stopped, or it does not accept our certificate: compare "
    "manager.tls with the authorities and names it accepts"
)
_CLOSED_PLAIN = "the Manager closed the connection; it stopped, or it wants TLS: write manager.tls"


def connect_cause(details: str, address: str, *, secure: bool, server_name: str = "") -> str:
    """Why there is no connection.

    Args:
        details: gRPC's words.
        address: ``host:port`` of the Manager.
        secure: whether we speak TLS.
        server_name: the name its certificate must have where that is not the host.
    """
    low = details.lower()
    host = address.rpartition(":")[0]
    refused = _REFUSED_V6.search(details)
    if refused is not None and not host.startswith("["):
        return _NOBODY_AT_ONE.format(refused=unquote(refused[1]), address=address)
    for sign, cause in _CAUSES:
        if sign in low:
            return cause.format(host=host, address=address, name=server_name or host)
    if any(sign in low for sign in _CLOSED):
        return _CLOSED_TLS if secure else _CLOSED_PLAIN
    if details and _ITS_OWN.search(details) is None:
        return f"the Manager answered UNAVAILABLE: {plain(details, TEXT_MAX)}"
    return f"{address} cannot be reached; check the Manager and the network"


def call_failed(
    error: grpc.RpcError | ValueError, address: str, *, secure: bool, timeout_s: float, server_name: str = ""
) -> CallFailed:
    """What an error of gRPC's means."""
    if not isinstance(error, grpc.RpcError):
        return CallFailed(FaultKind.AWAY, "the channel to the Manager was closed; it is opened again")
    call: Any = error
    code, details = call.code(), call.details() or ""
    log.debug("gRPC says {code}: {details}", code=code.name, details=plain(details, TEXT_MAX))
    kind = KINDS.get(code, FaultKind.FAULT)
    if kind is FaultKind.AWAY:
        cause = connect_cause(details, address, secure=secure, server_name=server_name)
        return CallFailed(kind, cause, retry_after_s=retry_after(error))
    if kind is FaultKind.SLOW:
        return CallFailed(
            kind, f"the Manager did not answer within {timeout_s:g} s; check its load, the network, and "
            "that a Manager listens at that address",
        )
    return CallFailed(
        kind, f"the Manager answered {code.name}: {answer_said(details)}", retry_after_s=retry_after(error)
    )


def answer_said(details: str) -> str:
    """What the other side said with a status; where gRPC said it, what that means."""
    low = details.lower()
    for sign, meaning in _ODD_ANSWERS:
        if sign in low:
            return meaning
    if not details or _ITS_OWN.search(details) is not None:
        return "it gave no reason; its log may"
    return plain(details, TEXT_MAX)


def retry_after(error: grpc.RpcError) -> float:
    """Seconds of google.rpc.RetryInfo, 0 without one; whatever the Manager sends never raises here."""
    try:
        status = rpc_status.from_call(error)
        for detail in status.details if status is not None else ():
            info = RetryInfo()
            if detail.Unpack(info):
                seconds: float = info.retry_delay.seconds + info.retry_delay.nanos / 1e9
                return min(max(0.0, seconds), RETRY_MAX_S)
    except (ValueError, AttributeError, DecodeError):
        return 0.0  # its status and its details contradict each other, or are none
    return 0.0
