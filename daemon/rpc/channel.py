"""The one channel to the Manager: how it is made, and the calls it carries."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any, Protocol

import grpc
from twisted.internet.defer import Deferred

from daemon import __version__
from daemon.aio.reactor import ThreadReactor
from daemon.config.schema import ManagerConfig
from daemon.model.event import Event
from daemon.rpc import link_wire as wire
from daemon.rpc.calls import unary
from daemon.rpc.link_errors import CallFailed, FaultKind, call_failed
from daemon.rpc.link_wire import LogEntry, NodeCard, Sample, WireState
from daemon.rpc.pb.daemon_pb2_grpc import DaemonServiceStub
from daemon.rpc.pb.manager_pb2_grpc import ManagerServiceStub
from daemon.rpc.pb.reports_pb2_grpc import ReportsStub
from daemon.rpc.status import plain

HEARTBEAT_S = 10.0
REPORT_S = 30.0
SYNC_S = 10.0

ANSWER_MAX_BYTES = 256 * 1024  # an answer is a truth value and a sentence

_OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # The link decides when a call is tried again and when to connect; gRPC's own patience stays below ours.
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.service_config_disable_resolution", 1),  # no TXT record decides how we call
    ("grpc.use_local_subchannel_pool", 1),  # a channel with new certificates shares no old connection
    ("grpc.max_receive_message_length", ANSWER_MAX_BYTES),
    ("grpc.primary_user_agent", f"hostdaemon/{__version__}"),
)


class ManagerCalls(Protocol):
    """The Manager, as the link calls it. Calls fail with :class:`CallFailed`, also for success=false."""

    def register(self, card: NodeCard) -> Awaitable[None]:
        """RegisterNode."""
        ...

    def heartbeat(self, node_id: str, at: float) -> Awaitable[None]:
        """Heartbeat."""
        ...

    def report(self, node_id: str, samples: Sequence[Sample]) -> Awaitable[None]:
        """ReportMetrics."""
        ...

    def sync(self, node_id: str, states: Sequence[WireState]) -> Awaitable[None]:
        """SyncAgentStates."""
        ...

    def report_events(
        self, node_id: str, events: Sequence[Event], logs: Sequence[LogEntry], dropped: int
    ) -> Awaitable[None]:
        """ReportEvents."""
        ...

    def retire(self) -> None:
        """Takes no new calls; closes when those under way have ended."""
        ...

    def close(self) -> None:
        """Closes at once; calls under way end."""
        ...


class ManagerChannel:
    """The real :class:`ManagerCalls`. Connects with the first call, and again by itself with later ones.

    Args:
        reactor: where answers arrive.
        config: address, server name, timeout.
        credentials: None for a plain connection.
    """

    def __init__(
        self, reactor: ThreadReactor, config: ManagerConfig, credentials: grpc.ChannelCredentials | None
    ) -> None:
        self._reactor = reactor
        self._address = config.address
        self._timeout_s = config.timeout
        self._secure = credentials is not None
        self._server_name = config.tls.server_name
        self._in_flight = 0
        self._retired = False
        options = list(_OPTIONS)
        if credentials is None:
            self._channel = grpc.insecure_channel(config.address, options)
        else:
            name = config.tls.server_name
            if name:
                options += [("grpc.ssl_target_name_override", name), ("grpc.default_authority", name)]
            self._channel = grpc.secure_channel(config.address, credentials, options)
        manager, daemon = ManagerServiceStub(self._channel), DaemonServiceStub(self._channel)
        self._register = manager.RegisterNode
        self._heartbeat = manager.Heartbeat
        self._report = manager.ReportMetrics
        self._sync = daemon.SyncAgentStates
        self._events = ReportsStub(self._channel).ReportEvents

    async def register(self, card: NodeCard) -> None:
        """See ManagerCalls."""
        await self._call(self._register, wire.node_request(card), self._timeout_s)

    async def heartbeat(self, node_id: str, at: float) -> None:
        """See ManagerCalls. success=false means that it does not know us."""
        try:
            await self._call(self._heartbeat, wire.beat_request(node_id, at), HEARTBEAT_S)
        except CallFailed as failed:
            if failed.kind is not FaultKind.REFUSED:
                raise
            raise CallFailed(FaultKind.UNKNOWN_NODE, failed.message) from failed

    async def report(self, node_id: str, samples: Sequence[Sample]) -> None:
        """See ManagerCalls."""
        await self._call(self._report, wire.metrics_request(node_id, samples), REPORT_S)

    async def sync(self, node_id: str, states: Sequence[WireState]) -> None:
        """See ManagerCalls."""
        await self._call(self._sync, wire.states_request(node_id, states), SYNC_S)

    async def report_events(
        self, node_id: str, events: Sequence[Event], logs: Sequence[LogEntry], dropped: int
    ) -> None:
        """See ManagerCalls."""
        await self._call(self._events, wire.events_request(node_id, events, logs, dropped), self._timeout_s)

    async def _call(self, method: Any, request: Any, timeout_s: float) -> None:
        self._in_flight += 1
        answer: Deferred[Any] = unary(self._reactor, method, request, timeout_s)
        try:
            response = await answer
        except (grpc.RpcError, ValueError) as error:
            raise call_failed(
                error, self._address, secure=self._secure, timeout_s=timeout_s, server_name=self._server_name
            ) from error
        finally:
            self._in_flight -= 1
            if self._retired and not self._in_flight:
                self._channel.close()
        if not response.success:
            said = plain(response.message, 300) or "it gave no reason; its log may"
            raise CallFailed(FaultKind.REFUSED, f"the Manager answered success=false: {said}")

    def retire(self) -> None:
        """See ManagerCalls."""
        self._retired = True
        if not self._in_flight:
            self._channel.close()

    def close(self) -> None:
        """See ManagerCalls."""
        self._retired = True
        self._channel.close()
