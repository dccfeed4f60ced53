"""Between protobuf and our own values for the daemon's service; protobuf types go no further than here.

Requests are read into small tuples, answers are written to bytes. Numbers the wire cannot hold are clamped,
text it cannot say is replaced: what an agent reported must never make an answer fail.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

from google.protobuf.message import DecodeError

from daemon.errors import RequestError, RequestFault
from daemon.model.agent import AgentState
from daemon.model.usage import UsagePoint
from daemon.rpc.pb import daemon_pb2 as pb

_INT32_MAX = 2**31 - 1
_INT64_MAX = 2**63 - 1
_UINT64_MAX = 2**64 - 1


# --- requests -----------------------------------------------------------------------------------------


class RegisterCall(NamedTuple):
    """Register: who asks."""

    hostname: str
    daemon_version: str


class HeartbeatCall(NamedTuple):
    """Heartbeat."""

    node_id: str


class ReportCall(NamedTuple):
    """ReportMetrics; the data itself is not kept."""

    node_id: str
    size_bytes: int


class ConfigCall(NamedTuple):
    """GetConfig."""

    config_type: str


class UpdateCall(NamedTuple):
    """PushUpdate; the fields as they came."""

    node_id: str
    component: str
    version: str
    download_url: str
    hash: str
    signature: str
    update_data: bytes


class ListCall(NamedTuple):
    """ListAgents."""


class OperateCall(NamedTuple):
    """OperateAgent."""

    agent_id: str
    operation: str


class UsageCall(NamedTuple):
    """GetAgentMetrics."""

    agent_id: str
    duration_s: int


class SyncCall(NamedTuple):
    """SyncAgentStates; how many states came, they are not kept."""

    node_id: str
    states: int


def read_register(data: bytes) -> RegisterCall:
    """Reads a RegisterRequest."""
    found = _read(pb.RegisterRequest, data)
    return RegisterCall(found.hostname, found.daemon_version)


def read_heartbeat(data: bytes) -> HeartbeatCall:
    """Reads a HeartbeatRequest."""
    return HeartbeatCall(_read(pb.HeartbeatRequest, data).node_id)


def read_report(data: bytes) -> ReportCall:
    """Reads a MetricsRequest."""
    found = _read(pb.MetricsRequest, data)
    return ReportCall(found.node_id, len(found.data))


def read_config(data: bytes) -> ConfigCall:
    """Reads a ConfigRequest."""
    return ConfigCall(_read(pb.ConfigRequest, data).config_type)


def read_update(data: bytes) -> UpdateCall:
    """Reads an UpdateRequest."""
    found = _read(pb.UpdateRequest, data)
    return UpdateCall(
        node_id=found.node_id, component=found.component, version=found.version,
        download_url=found.download_url, hash=found.hash, signature=found.signature,
        update_data=found.update_data,
    )


def read_list(data: bytes) -> ListCall:
    """Reads a ListAgentsRequest."""
    if data:  # the usual one has no byte
        _read(pb.ListAgentsRequest, data)
    return ListCall()


def read_operate(data: bytes) -> OperateCall:
    """Reads an AgentOperationRequest."""
    found = _read(pb.AgentOperationRequest, data)
    return OperateCall(found.agent_id, found.operation)


def read_usage(data: bytes) -> UsageCall:
    """Reads an AgentMetricsRequest."""
    found = _read(pb.AgentMetricsRequest, data)
    return UsageCall(found.agent_id, found.duration_seconds)


def read_sync(data: bytes) -> SyncCall:
    """Reads a SyncAgentStatesRequest."""
    found = _read(pb.SyncAgentStatesRequest, data)
    return SyncCall(found.node_id, len(found.states))


def _read(kind: Any, data: bytes) -> Any:
    """A message of that kind.

    Raises:
        RequestError: INVALID; the bytes are none.
    """
    try:
        return kind.FromString(data)
    except DecodeError as error:
        name = kind.DESCRIPTOR.name
        raise RequestError(
            RequestFault.INVALID, f"the message is no {name}; compare your daemon.proto with ours"
        ) from error


# --- answers ------------------------------------------------------------------------------------------


def write_registered(node_id: str, message: str) -> bytes:
    """A RegisterResponse."""
    return _bytes(pb.RegisterResponse(node_id=node_id, success=True, message=message))


def write_beaten(message: str) -> bytes:
    """A HeartbeatResponse."""
    return _bytes(pb.HeartbeatResponse(success=True, message=message))


def write_reported(message: str) -> bytes:
    """A MetricsResponse."""
    return _bytes(pb.MetricsResponse(success=True, message=message))


def write_config(data: bytes) -> bytes:
    """A ConfigResponse."""
    return _bytes(pb.ConfigResponse(success=True, config_data=data))


def write_operated(remark: str) -> bytes:
    """An AgentOperationResponse of a success."""
    return _bytes(pb.AgentOperationResponse(success=True, error_message=remark))


def write_pushed(update_id: str) -> bytes:
    """An UpdateResponse of an update that was taken."""
    return _bytes(pb.UpdateResponse(success=True, message=update_id))


def write_synced(message: str) -> bytes:
    """A SyncAgentStatesResponse."""
    return _bytes(pb.SyncAgentStatesResponse(success=True, message=message))


def write_usage(agent_id: str, points: Iterable[UsagePoint]) -> bytes:
    """An AgentMetricsResponse; what is not known is 0, as the wire has no null."""
    found = [_data_point(point) for point in points]
    return _bytes(pb.AgentMetricsResponse(agent_id=agent_id, data_points=found))


def _bytes(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data


def _data_point(point: UsagePoint) -> pb.ResourceDataPoint:
    return pb.ResourceDataPoint(
        timestamp=point.timestamp,
        cpu=point.cpu or 0.0,
        memory_rss=_within(point.memory_rss, _UINT64_MAX),
        memory_vms=_within(point.memory_vms, _UINT64_MAX),
        disk_read_bytes=_within(point.disk_read_bytes, _UINT64_MAX),
        disk_write_bytes=_within(point.disk_write_bytes, _UINT64_MAX),
        open_files=_within(point.open_files, _INT32_MAX),
    )


# --- agents -------------------------------------------------------------------------------------------


class _Metadata(Protocol):
    """Frozen: a change is another object."""

    @property
    def version(self) -> str: ...
    @property
    def started_at(self) -> float: ...
    @property
    def restart_count(self) -> int: ...


class ListedAgent(Protocol):
    """What the wire says of an agent; :class:`daemon.agents.instance.AgentInstance` is one."""

    @property
    def agent_id(self) -> str:
        """Its id."""
        ...

    @property
    def type(self) -> str:
        """Its type."""
        ...

    @property
    def spec(self) -> object:
        """What it was configured as, frozen; None when it has left the configuration."""
        ...

    @property
    def state(self) -> AgentState:
        """Its state."""
        ...

    @property
    def pid(self) -> int:
        """Its leader's pid, 0 when none runs."""
        ...

    @property
    def heartbeat_at(self) -> float:
        """Wall time of its last heartbeat, 0 for never."""
        ...

    @property
    def metadata(self) -> _Metadata:
        """What is kept of it."""
        ...


class _Entry:
    """One agent as it was written last."""

    __slots__ = ("data", "heartbeat_s", "metadata", "pid", "spec", "state")

    def __init__(self, agent: ListedAgent) -> None:
        self.spec = agent.spec
        self.metadata = agent.metadata
        self.state = agent.state
        self.pid = agent.pid
        self.heartbeat_s = int(agent.heartbeat_at)
        self.data = _list_entry(agent)


class AgentList:
    """Writes ListAgentsResponse; what did not change since the last time is not written again.

    A Manager asks every few seconds and most agents are as they were. Used on the reactor's thread only.
    """

    def __init__(self) -> None:
        self._written: dict[str, _Entry] = {}

    def write(self, agents: Sequence[ListedAgent]) -> bytes:
        """The whole response, in the order given."""
        written = self._written
        parts = []
        for agent in agents:
            kept = written.get(agent.agent_id)
            # Specification and metadata are frozen: a change of either is another object.
            if (
                kept is None or kept.metadata is not agent.metadata or kept.state is not agent.state
                or kept.pid != agent.pid or kept.heartbeat_s != int(agent.heartbeat_at)
                or kept.spec is not agent.spec
            ):
                kept = written[agent.agent_id] = _Entry(agent)
            parts.append(kept.data)
        if len(written) > len(agents):  # some have left the configuration
            here = {agent.agent_id for agent in agents}
            self._written = {name: kept for name, kept in written.items() if name in here}
        return b"".join(parts)


def _list_entry(agent: ListedAgent) -> bytes:
    """A response of this agent alone: in protobuf, repeated fields of messages put together add up."""
    pid = agent.pid
    info = pb.AgentInfo(
        id=_text(agent.agent_id),
        type=_text(agent.type),
        version=_text(agent.metadata.version),
        status=agent.state.value,
        pid=pid,
        start_time=_within(agent.metadata.started_at, _INT64_MAX) if pid else 0,
        restart_count=_within(agent.metadata.restart_count, _INT32_MAX),
        last_heartbeat=_within(agent.heartbeat_at, _INT64_MAX),
    )
    return _bytes(pb.ListAgentsResponse(agents=[info]))


def agent_state(agent: ListedAgent) -> pb.AgentState:
    """The agent as SyncAgentStates tells the Manager of it."""
    return pb.AgentState(
        agent_id=_text(agent.agent_id),
        status=agent.state.value,
        pid=agent.pid,
        last_heartbeat=_within(agent.heartbeat_at, _INT64_MAX),
        type=_text(agent.type),
        version=_text(agent.metadata.version),
    )


def _within(number: float | None, most: int) -> int:
    """A whole number from 0 to ``most``; None is 0."""
    return max(0, min(int(number or 0), most))


def _text(text: str) -> str:
    """What UTF-8 can say of it."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
