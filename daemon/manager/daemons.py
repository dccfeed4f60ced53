"""The Manager as a client of a daemon's DaemonService: whom to call, and how to understand the answer."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Any

import grpc
import msgspec
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_status import rpc_status

from daemon.aio.reactor import ThreadReactor
from daemon.aio.threads import LaneBusy, LaneTimeout, Threads
from daemon.config.rules import is_loopback
from daemon.config.schema import MAX_PORT
from daemon.errors import ErrorCode, ManagerConnectError, RequestError, RequestFault
from daemon.manager.causes import connect_cause
from daemon.manager.config import ManagerConfig
from daemon.manager.model import CommandState, NodeRow
from daemon.rpc.calls import unary
from daemon.rpc.listen import server_address
from daemon.rpc.pb import daemon_pb2 as pb
from daemon.rpc.pb.daemon_pb2_grpc import DaemonServiceStub
from daemon.rpc.servicer import IN_PROGRESS
from daemon.rpc.status import DOMAIN, plain
from daemon.rpc.tls import client_credentials, load_identity

PORT_LABEL = "grpc_port"
PROBE_S = 10.0
OPERATE_S = 110.0  # a daemon answers after 95 s at the latest
FILES_S = 10.0
MESSAGE_MAX = 1000
LANE = "daemon-tls"
_CONNECT = ErrorCode.MANAGER_CONNECT.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A daemon to call.

    Attributes:
        host: an address of the node.
        server_name: the name its certificate must have; empty: the address.
    """

    node_id: str
    host: str
    port: int
    server_name: str = ""

    def __str__(self) -> str:
        return server_address(self.host, self.port)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came of a call.

    Attributes:
        status: the status code's name; ``OK``, or how the call ended.
        code: the D-code of a fault of the daemon, else the reason it gave, else empty.
    """

    state: CommandState
    message: str = ""
    status: str = "OK"
    code: str = ""


def target_of(node: NodeRow, config: ManagerConfig) -> Target:
    """Where a node's daemon is called; pure.

    The address it registered with (the one it came from, where that is none), and the port of its label
    ``grpc_port``, which tells two daemons of one host apart, else the configured one.

    Raises:
        RequestError: PRECONDITION; no address is known, or plain text would leave this host.
    """
    host = next((found for found in map(_address, (node.ip, node.peer)) if found), "")
    if not host:
        raise RequestError(
            RequestFault.PRECONDITION,
            f"node {node.node_id!r} registered without an address ({node.ip!r}); correct it on that host",
        )
    if not (config.client_tls.ca_file or is_loopback(host) or config.grpc.insecure):
        raise RequestError(
            RequestFault.PRECONDITION,
            f"{host} is another host, and the Manager has no certificate; write manager.daemon_tls",
        )
    labels: dict[str, str] = msgspec.json.decode(node.labels)
    label = labels.get(PORT_LABEL, "")
    named = label.isascii() and label.isdigit() and 0 < int(label[:6]) <= MAX_PORT
    name = config.client_tls.server_name
    name = name.replace("{hostname}", node.hostname).replace("{node_id}", node.node_id)
    return Target(
        node_id=node.node_id, host=host, port=int(label) if named else config.daemon_port, server_name=name
    )


def _address(text: str) -> str:
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return ""
    return "" if found.is_unspecified or found.is_multicast else text


class Daemons:
    """Calls daemons, each call on a channel of its own: operations are rare, certificates may be renewed.

    Args:
        reactor: hears of answers.
        threads: reads certificates.
        config: whose files to use.
        name: how the Manager calls itself.
    """

    def __init__(self, reactor: ThreadReactor, threads: Threads, config: ManagerConfig, name: str) -> None:
        self._reactor = reactor
        self._threads = threads
        self._config = config
        self._name = name

    async def operate(self, target: Target, agent_id: str, operation: str) -> Answer:
        """Starts, stops or restarts an agent; every outcome is an answer.

        Before that the daemon is asked who it is: an address may have become another host's, and an agent of
        the same name may run there.
        """
        try:
            channel = await self._channel(target)
        except ManagerConnectError as error:
            return _failed("FAILED_PRECONDITION", error.message, error.code.value)
        request = pb.AgentOperationRequest(agent_id=agent_id, operation=operation)
        asked = False
        try:
            stub = DaemonServiceStub(channel)
            found = await self._who_is_there(stub)
            if found and found != target.node_id:
                return _failed(
                    "FAILED_PRECONDITION",
                    f"{target} is node {plain(found, 64)!r} now, so nothing was done; the node must "
                    "register with its new address",
                )
            asked = True
            response = await unary(self._reactor, stub.OperateAgent, request, OPERATE_S)
        except grpc.RpcError as error:
            return self._refused(error, target, asked=asked)
        finally:
            channel.close()
        if not response.success:
            return _failed("INTERNAL", plain(response.error_message, MESSAGE_MAX) or "the daemon refused")
        remark = plain(response.error_message, MESSAGE_MAX)
        state = CommandState.IN_PROGRESS if remark == IN_PROGRESS else CommandState.DONE
        return Answer(state=state, message=remark)

    async def _who_is_there(self, stub: Any) -> str:
        """The id of the node that answers; empty for a daemon that does not tell."""
        try:
            asked = pb.RegisterRequest(hostname=self._name)
            answer = await unary(self._reactor, stub.Register, asked, PROBE_S)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                return ""
            raise
        return str(answer.node_id)

    async def _channel(self, target: Target) -> Any:
        tls = self._config.client_tls
        options: list[tuple[str, Any]] = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
        if not tls.ca_file:
            return grpc.insecure_channel(str(target), options=options)
        try:
            pem = await self._threads.run(
                LANE, FILES_S, load_identity, tls.cert_file, tls.key_file, tls.ca_file,
                section="manager.daemon_tls",
            )
        except (LaneBusy, LaneTimeout) as error:
            raise ManagerConnectError(f"manager.daemon_tls: the files cannot be read: {error}") from error
        if target.server_name:
            options.append(("grpc.ssl_target_name_override", target.server_name))
        return grpc.secure_channel(str(target), client_credentials(pem), options=options)


    def _refused(self, error: Any, target: Target, *, asked: bool) -> Answer:
        """A call that ended with a status; ``asked``: it was the operation, not the question before it."""
        status, reason = error.code(), _reason(error)
        said = plain(error.details() or "", MESSAGE_MAX)
        if status is grpc.StatusCode.UNAVAILABLE and not reason:
            tls = self._config.client_tls
            cause = connect_cause(
                error.details() or "", secure=bool(tls.ca_file), name=target.server_name or target.host,
                section="manager.daemon_tls" if self._config.daemon_tls.ca_file else "manager.grpc.tls",
            )
            left = "what was asked may have happened: look at the agent" if asked else "nothing was done"
            message, reason = f"no daemon answers at {target}: {cause}; {left}", _CONNECT
        elif status is grpc.StatusCode.DEADLINE_EXCEEDED and not asked:
            message = (
                f"{target} did not answer within {PROBE_S:g} s, so nothing was done; check network, firewall "
                "and the load of that host"
            )
            reason = _CONNECT
        elif status is grpc.StatusCode.DEADLINE_EXCEEDED:
            message = (
                f"the daemon at {target} did not answer within {OPERATE_S:g} s; what was asked may still "
                "happen: look at the agent before asking again"
            )
        elif status in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED):
            message = (
                f"the daemon at {target} does not let the Manager in; write a name of the Manager's "
                f"certificate into daemon.grpc.allowed_clients on that host; it said: {said}"
            )
        elif status is grpc.StatusCode.UNIMPLEMENTED:
            message = (
                f"what answers at {target} takes no operations, so nothing was done; see that its label "
                "grpc_port names the daemon's own port, and update a daemon that is older"
            )
        elif status is grpc.StatusCode.UNKNOWN:
            message = f"the daemon at {target} met a fault of its own; look at its log and at the agent"
        else:
            message = said or f"the daemon at {target} refused: {status.name}"
        return _failed(status.name, message, reason)


def _failed(status: str, message: str, code: str = "") -> Answer:
    return Answer(state=CommandState.FAILED, message=message, status=status, code=code)


def _reason(error: Any) -> str:
    """The reason in its ErrorInfo, where a daemon of ours gave one."""
    try:
        status = rpc_status.from_call(error)
    except ValueError:
        return ""  # details that contradict the status
    for detail in status.details if status is not None else ():
        info = ErrorInfo()
        if detail.Is(ErrorInfo.DESCRIPTOR) and detail.Unpack(info) and info.domain == DOMAIN:
            return plain(str(info.reason), 32)
    return ""
