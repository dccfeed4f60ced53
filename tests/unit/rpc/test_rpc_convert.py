"""Between the wire and our values: hostile bytes in, sound bytes out, the list written once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from msgspec.structs import replace

from daemon.agents.metadata import AgentMetadata
from daemon.errors import RequestError, RequestFault
from daemon.model.agent import AgentState
from daemon.model.usage import UsagePoint
from daemon.rpc import convert
from daemon.rpc.pb import daemon_pb2 as pb

METADATA = AgentMetadata(id="web", version="1.0", started_at=1000.9, restart_count=2)
READERS = [
    convert.read_register, convert.read_heartbeat, convert.read_report, convert.read_config, convert.read_update,
    convert.read_list, convert.read_operate, convert.read_usage, convert.read_sync,
]


@dataclass
class Agent:
    """An agent as the list reads it."""

    agent_id: str = "web"
    type: str = "custom"
    state: AgentState = AgentState.RUNNING
    pid: int = 77
    heartbeat_at: float = 0.0
    metadata: AgentMetadata = METADATA
    spec: object = None


def listed(*agents: Agent, by: convert.AgentList | None = None) -> list[pb.AgentInfo]:
    """The agents of a written list."""
    return list(pb.ListAgentsResponse.FromString((by or convert.AgentList()).write(agents)).agents)


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("data", [b"\xff", b"\x0a\xff\xff\xff\xff\x0f", b"\x0a\x05ab", b"\x0a\x02\xff\xfe"])
def test_bytes_that_are_no_message_are_the_callers_fault(read: object, data: bytes) -> None:
    if data == b"\x0a\x02\xff\xfe" and read is convert.read_list:
        return  # a field it does not have: skipped, as the format wants
    with pytest.raises(RequestError) as caught:
        read(data)  # type: ignore[operator]  # a reader
    assert caught.value.fault is RequestFault.INVALID


@pytest.mark.parametrize("read", READERS)
def test_no_byte_at_all_is_a_message_of_zero_values(read: object) -> None:
    found = read(b"")  # type: ignore[operator]  # a reader
    assert all(value in ("", 0, b"") for value in found)


@pytest.mark.parametrize("read", READERS)
def test_unknown_fields_of_a_later_contract_are_skipped(read: object) -> None:
    read(b"\x98\x06\x05")  # type: ignore[operator]  # field 99


def test_fields_arrive() -> None:
    update = {
        "node_id": "n", "component": "web", "version": "2", "download_url": "https://h/x", "hash": "aa",
        "signature": "c2ln", "update_data": b"\x00\xff",
    }
    assert convert.read_update(pb.UpdateRequest(**update).SerializeToString())._asdict() == update
    assert convert.read_operate(
        pb.AgentOperationRequest(agent_id="a", operation="stop").SerializeToString()
    ) == ("a", "stop")
    assert convert.read_usage(
        pb.AgentMetricsRequest(agent_id="a", duration_seconds=-5).SerializeToString()
    ) == ("a", -5)
    assert convert.read_report(pb.MetricsRequest(node_id="n", data=b"12345").SerializeToString()) == ("n", 5)
    states = [pb.AgentState(), pb.AgentState()]
    assert convert.read_sync(pb.SyncAgentStatesRequest(node_id="n", states=states).SerializeToString()) == ("n", 2)


class TestAgentList:
    def test_an_agent_as_the_contract_lists_it(self) -> None:
        (info,) = listed(Agent(heartbeat_at=2000.7))
        assert (info.id, info.type, info.version, info.status, info.pid) == ("web", "custom", "1.0", "running", 77)
        assert (info.start_time, info.restart_count, info.last_heartbeat) == (1000, 2, 2000)

    def test_one_that_does_not_run_has_neither_pid_nor_start(self) -> None:
        (info,) = listed(Agent(state=AgentState.STOPPED, pid=0))
        assert (info.status, info.pid, info.start_time, info.last_heartbeat) == ("stopped", 0, 0, 0)

    def test_order_is_kept_and_none_is_lost(self) -> None:
        names = [f"a{n}" for n in range(50)]
        assert [info.id for info in listed(*(Agent(agent_id=name) for name in names))] == names
        assert listed() == []

    def test_every_change_shows(self) -> None:
        by, agent = convert.AgentList(), Agent()
        listed(agent, by=by)
        changes: list[tuple[str, object, str, object]] = [
            ("state", AgentState.FAILED, "status", "failed"), ("pid", 78, "pid", 78),
            ("heartbeat_at", 9.5, "last_heartbeat", 9),
        ]
        for name, value, shown, expected in changes:
            setattr(agent, name, value)
            assert getattr(listed(agent, by=by)[0], shown) == expected
        for name, value, shown, expected in (
            ("version", "2", "version", "2"), ("started_at", 5.0, "start_time", 5), ("restart_count", 3, "restart_count", 3),
        ):
            agent.metadata = replace(agent.metadata, **{name: value})
            assert getattr(listed(agent, by=by)[0], shown) == expected
        agent.type, agent.spec = "filebeat", object()  # the type comes with the specification
        assert listed(agent, by=by)[0].type == "filebeat"

    def test_agents_that_left_are_forgotten(self) -> None:
        by = convert.AgentList()
        listed(*(Agent(agent_id=f"a{n}") for n in range(9)), by=by)
        assert [info.id for info in listed(Agent(agent_id="a3"), by=by)] == ["a3"]
        assert list(by._written) == ["a3"]

    def test_what_the_wire_cannot_say_is_clamped_and_replaced(self) -> None:
        agent = Agent(agent_id="é", heartbeat_at=1e300)
        agent.metadata = replace(agent.metadata, version="1.0\udcff", restart_count=2**40, started_at=-5.0)
        (info,) = listed(agent)
        assert (info.id, info.version, info.restart_count) == ("é", "1.0?", 2**31 - 1)
        assert (info.start_time, info.last_heartbeat) == (0, 2**63 - 1)

    def test_the_state_for_the_manager_says_the_same(self) -> None:
        state = convert.agent_state(Agent(heartbeat_at=5.0))
        assert (state.agent_id, state.status, state.pid) == ("web", "running", 77)
        assert (state.last_heartbeat, state.type, state.version) == (5, "custom", "1.0")


def test_points_of_a_history_are_clamped_and_zero_where_unknown() -> None:
    data = convert.write_usage("web", [
        UsagePoint(timestamp=5),
        UsagePoint(timestamp=6, cpu=math.inf, memory_rss=2**70, memory_vms=-1, open_files=2**40),
    ])
    unknown, wild = pb.AgentMetricsResponse.FromString(data).data_points
    assert (unknown.cpu, unknown.memory_rss, unknown.disk_read_bytes, unknown.open_files) == (0, 0, 0, 0)
    assert (wild.memory_rss, wild.memory_vms, wild.open_files) == (2**64 - 1, 0, 2**31 - 1)
