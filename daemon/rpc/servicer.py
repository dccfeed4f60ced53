"""The nine RPCs of ``proto.DaemonService``: what each means on the daemon.

Every method runs in a gRPC worker, asks :mod:`daemon.control` through the bridge and raises our own errors;
:mod:`daemon.rpc.gate` around it turns them into statuses. ``success`` in an answer is always true: what
fails is a status, so that no caller takes one for the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import yaml
from twisted.internet.defer import Deferred

from daemon import __version__
from daemon.agents.operations import Verb
from daemon.control.control import Operated, parse_verb
from daemon.control.node import NodeFacts
from daemon.errors import RequestError, RequestFault
from daemon.model.update import UpdateRequest
from daemon.model.usage import UsagePoint
from daemon.rpc import convert
from daemon.rpc.bridge import Asked, Bridge, BridgeTimeout, CallContext
from daemon.rpc.convert import ListedAgent
from daemon.rpc.method import SMALL_BYTES, Call, Method
from daemon.rpc.recent import RecentAnswer

SERVICE = "proto.DaemonService"

ANSWER_CAP_S = 10.0  # of the reactor, for what it knows by heart
HISTORY_CAP_S = 30.0  # for what is read from disk
SUBMIT_CAP_S = 60.0  # an inline package is synced before the answer
OPERATION_CAP_S = 95.0  # Control answers "in progress" after 90 s; this is for a reactor that does not
POINTS_MAX = 20_000  # in one answer: about 1 MB; clients refuse more than 4 MiB by default
LARGE_BYTES = 4 * 1024 * 1024  # of one that lists or holds data, gRPC's own default
IN_PROGRESS = "in progress"

Effective = Callable[[], Mapping[str, Any]]


class Registry(Protocol):
    """Where the agents are."""

    def list(self) -> tuple[ListedAgent, ...]:
        """All of them."""
        ...


class Operator(Protocol):
    """What is asked of :class:`daemon.control.control.Control`."""

    def operate(self, agent_id: str, verb: Verb, *, peer: str) -> Deferred[Operated]:
        """Starts, stops or restarts an agent."""
        ...


class History(Protocol):
    """What is asked of :class:`daemon.control.records.Records`."""

    async def usage(self, agent_id: str, duration_s: int = 0, step_s: int = 0) -> tuple[UsagePoint, ...]:
        """What an agent used."""
        ...


class Updater(Protocol):
    """What is asked of :class:`daemon.updater.manager.UpdateManager`."""

    async def submit(self, request: UpdateRequest, *, peer: str) -> str:
        """Takes an update; its id."""
        ...


class DaemonServicer:
    """Answers the Manager.

    Args:
        bridge: to the reactor.
        registry: which agents there are.
        control: operates them.
        records: their history.
        updates: takes updates.
        facts: who this node is.
        effective: the configuration in force, redacted, as plain data; called on the reactor's thread.
        uptime_s: seconds since the daemon started, from any thread.
        max_inline_bytes: of ``update_data``.
    """

    def __init__(
        self, *, bridge: Bridge, registry: Registry, control: Operator, records: History, updates: Updater,
        facts: NodeFacts, effective: Effective, uptime_s: Callable[[], float], max_inline_bytes: int,
    ) -> None:
        self._bridge = bridge
        self._registry = registry
        self._control = control
        self._records = records
        self._updates = updates
        self._facts = facts
        self._effective = effective
        self._uptime_s = uptime_s
        self._max_inline_bytes = max_inline_bytes
        self._list = convert.AgentList()
        self._listed = RecentAnswer()

    def methods(self) -> tuple[Method, ...]:
        """All nine."""
        return (
            Method(name="Register", read=convert.read_register, answer=self.register),
            Method(name="Heartbeat", read=convert.read_heartbeat, answer=self.heartbeat),
            Method(
                name="ReportMetrics", read=convert.read_report, answer=self.report_metrics,
                max_bytes=LARGE_BYTES,
            ),
            Method(name="GetConfig", read=convert.read_config, answer=self.get_config),
            Method(
                name="PushUpdate", read=convert.read_update, answer=self.push_update, mutates=True,
                about=lambda request: str(request.component),
                max_bytes=self._max_inline_bytes + SMALL_BYTES, large=True,
            ),
            Method(
                name="ListAgents", read=convert.read_list, answer=self.list_agents, ahead=self._ask_for_list
            ),
            Method(
                name="OperateAgent", read=convert.read_operate, answer=self.operate_agent,
                mutates=True, long=True,
                about=lambda request: str(request.agent_id),
            ),
            Method(name="GetAgentMetrics", read=convert.read_usage, answer=self.get_agent_metrics),
            Method(
                name="SyncAgentStates", read=convert.read_sync, answer=self.sync_agent_states,
                max_bytes=LARGE_BYTES,
            ),
        )

    # ------------------------------------------------- a Manager's probe, and what others tell us

    def register(self, request: convert.RegisterCall, call: Call) -> bytes:
        """This node's id, and that it lives; registering is what a daemon does at its Manager."""
        self._alive(call)
        version = f", version {request.daemon_version}" if request.daemon_version else ""
        call.note(f"{request.hostname or 'a caller without a name'}{version} asked who this node is")
        return convert.write_registered(
            self._facts.node_id, f"hostdaemon {__version__} on {self._facts.hostname}, {self._up()}"
        )

    def heartbeat(self, request: convert.HeartbeatCall, call: Call) -> bytes:
        """Alive, and who; also to a caller that holds us for another node."""
        self._alive(call)
        ours = self._facts.node_id
        other = f"; this is not {request.node_id[:64]}" if request.node_id not in ("", ours) else ""
        return convert.write_beaten(f"node {ours} is alive, {self._up()}{other}")

    def report_metrics(self, request: convert.ReportCall, call: Call) -> bytes:
        """Acknowledged and noted: a daemon keeps no metrics of others."""
        call.note(f"{request.size_bytes} bytes of metrics of node {request.node_id!r}; not kept")
        return convert.write_reported(
            f"{request.size_bytes} bytes noted; a daemon keeps no metrics of others"
        )

    def sync_agent_states(self, request: convert.SyncCall, call: Call) -> bytes:
        """Acknowledged and noted: a daemon keeps no agents of others.

        Raises:
            RequestError: INVALID without a node_id.
        """
        _required(request.node_id, "node_id", "the node the states are of")
        call.note(f"{request.states} agent states of node {request.node_id!r}; not kept")
        return convert.write_synced(f"{request.states} states noted; a daemon keeps no agents of others")

    def _alive(self, call: Call) -> None:
        """Liveness is the reactor's: a probe that never reaches it must not say that all is well."""
        self._bridge.call(call.context, _nothing, cap_s=ANSWER_CAP_S, share=_nothing)

    def _up(self) -> str:
        return f"up {self._uptime_s():.0f} s"

    # --------------------------------------------------------------------------------- reads

    def get_config(self, request: convert.ConfigCall, call: Call) -> bytes:
        """The effective configuration as YAML, secrets redacted: all of it, or its ``agents``.

        Raises:
            RequestError: INVALID for another config_type.
        """
        kind = request.config_type
        if kind not in ("daemon", "agent"):
            said = f"not {kind[:64]!r}" if kind else "and is missing"
            raise RequestError(RequestFault.INVALID, f"config_type is 'daemon' or 'agent', {said}")
        whole = self._bridge.call(call.context, self._effective, cap_s=ANSWER_CAP_S, share=self._effective)
        shown = whole if kind == "daemon" else {"agents": whole.get("agents", [])}
        return convert.write_config(to_yaml(shown))

    def agents_changed(self) -> None:
        """An agent is in another state, has another process or has left; on the reactor's thread, cheap."""
        self._listed.forget()

    def list_agents(self, _request: convert.ListCall, call: Call) -> bytes:
        """All agents; callers who ask at nearly the same time share one look."""
        asked = call.asked
        if asked is None:
            recent = self._listed.get()
            if recent is not None:
                return recent
            asked = self._ask(call.context)
        found: bytes = self._bridge.wait(asked, ANSWER_CAP_S)
        return found

    def _ask_for_list(self, context: CallContext) -> Asked | None:
        return None if self._listed.get() is not None else self._ask(context)

    def _ask(self, context: CallContext) -> Asked:
        return self._bridge.ask(context, self._write_list, share=self._list)

    def _write_list(self) -> bytes:
        return self._listed.keep(self._list.write(self._registry.list()))

    def get_agent_metrics(self, request: convert.UsageCall, call: Call) -> bytes:
        """The history of one agent; averaged over steps where it has more points than an answer takes.

        Raises:
            RequestError: unknown agent, or a duration out of range.
            StorageError: the history cannot be read.
        """
        agent_id = _required(request.agent_id, "agent_id", "the agent's id")
        if request.duration_s < 0:
            raise RequestError(
                RequestFault.INVALID,
                f"duration_seconds is 0 (an hour) or more, not {request.duration_s}",
            )
        points = self._bridge.call(
            call.context, lambda: self._usage(agent_id, request.duration_s), cap_s=HISTORY_CAP_S
        )
        return convert.write_usage(agent_id, points)

    async def _usage(self, agent_id: str, duration_s: int) -> tuple[UsagePoint, ...]:
        points = await self._records.usage(agent_id, duration_s)
        if len(points) <= POINTS_MAX:
            return points
        span_s = points[-1].timestamp - points[0].timestamp + 1
        return await self._records.usage(agent_id, duration_s, math.ceil(span_s / POINTS_MAX) + 1)

    # ------------------------------------------------------------------------------ mutations

    def operate_agent(self, request: convert.OperateCall, call: Call) -> bytes:
        """Starts, stops or restarts an agent; one that goes on past 90 s is a success ``in progress``.

        Raises:
            RequestError: a field is missing or no operation, the agent is unknown, or another request
                superseded this one.
            AgentStartError, AgentStopError: it failed.
        """
        agent_id = _required(request.agent_id, "agent_id", "the agent's id")
        verb = parse_verb(_required(request.operation, "operation", "start, stop or restart"))
        peer = f"gRPC {call.peer()}"
        try:
            done: Operated = self._bridge.call(
                call.context, lambda: self._control.operate(agent_id, verb, peer=peer), cap_s=OPERATION_CAP_S
            )
        except BridgeTimeout:
            return convert.write_operated(IN_PROGRESS)
        return convert.write_operated(IN_PROGRESS if done.in_progress else "")

    def push_update(self, request: convert.UpdateCall, call: Call) -> bytes:
        """Takes an update; the answer's message is its id, and events tell what becomes of it.

        Raises:
            RequestError: what is wrong with it, or stands against it just now.
            StorageError: it cannot be written down.
        """
        ours = self._facts.node_id
        if request.node_id not in ("", ours):
            raise RequestError(
                RequestFault.PRECONDITION,
                f"this is node {ours}, not {request.node_id[:64]!r}; send the update to that one",
            )
        asked = UpdateRequest(
            component=request.component, version=request.version, hash=request.hash,
            signature=request.signature, download_url=request.download_url, update_data=request.update_data,
        )
        peer = f"gRPC {call.peer()}"
        update_id: str = self._bridge.call(
            call.context, lambda: self._updates.submit(asked, peer=peer), cap_s=SUBMIT_CAP_S
        )
        return convert.write_pushed(update_id)


def to_yaml(plain: Mapping[str, Any]) -> bytes:
    """Plain data as YAML in its own order; the C emitter where PyYAML has it."""
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text: str = yaml.dump(dict(plain), Dumper=dumper, sort_keys=False, allow_unicode=True)
    return text.encode("utf-8", "replace")


def _required(value: str, field: str, what: str) -> str:
    """A field that must say something.

    Raises:
        RequestError: INVALID; it is empty or only spaces.
    """
    if not value.strip():
        raise RequestError(RequestFault.INVALID, f"{field} is missing: {what}")
    return value


def _nothing() -> None:
    """A turn of the reactor, nothing else."""
