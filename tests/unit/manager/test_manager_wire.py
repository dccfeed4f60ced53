"""What daemons may send, and what is refused before it reaches the database."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from daemon.errors import RequestError, RequestFault
from daemon.manager import wire
from daemon.rpc.pb import daemon_pb2 as d
from daemon.rpc.pb import manager_pb2 as m
from daemon.rpc.pb import reports_pb2 as r

READERS: list[Callable[[bytes], Any]] = [
    wire.read_node, wire.read_beat, wire.read_metrics, wire.read_old_node, wire.read_old_beat,
    wire.read_old_metrics, wire.read_states, wire.read_entries,
]


def refused(read: Callable[[bytes], Any], message: Any) -> str:
    with pytest.raises(RequestError) as caught:
        read(message if isinstance(message, bytes) else message.SerializeToString())
    assert caught.value.fault is RequestFault.INVALID
    assert len(caught.value.message) < 400
    return caught.value.message


@pytest.mark.parametrize("read", READERS)
def test_bytes_that_are_no_message_and_a_missing_id_are_refused(read: Callable[[bytes], Any]) -> None:
    assert "compare your proto files" in refused(read, b"\xff\xff\xff")
    assert "missing" in refused(read, b"")


@pytest.mark.parametrize("read", READERS)
def test_whatever_comes_is_read_or_refused(read: Callable[[bytes], Any]) -> None:
    source = random.Random(7)
    whole = m.RegisterNodeRequest(node_id="n1", hostname="h", labels={"a": "b"}).SerializeToString()
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(source.randrange(1, 6)):
            data[source.randrange(len(data))] = source.randrange(256)
        try:
            read(bytes(data))
        except RequestError as error:
            assert error.fault is RequestFault.INVALID


@pytest.mark.parametrize("node_id", ["a/b", "a\nb", "a\0b", "x" * 129, " ", "..", "\u202e"])
def test_an_id_must_fit_a_route(node_id: str) -> None:
    assert refused(wire.read_beat, m.HeartbeatRequest(node_id=node_id)).startswith("node_id")


def test_a_registration_is_cut_and_cleaned() -> None:
    found = wire.read_node(m.RegisterNodeRequest(
        node_id="n 1", hostname="h\x1b[2J" + "x" * 1000, ip="i" * 100, labels={"k" * 300: "v\n"},
    ).SerializeToString())
    assert found.node_id == "n 1"
    assert found.hostname.startswith("h [2Jxxx") and len(found.hostname) <= wire.TEXT_MAX
    assert len(found.ip) <= wire.SHORT_MAX
    assert list(found.labels.values()) == ["v "]
    many = m.RegisterNodeRequest(node_id="n", labels={str(n): "" for n in range(65)})
    assert "labels" in refused(wire.read_node, many)


def metric(**more: Any) -> Any:
    values = {"type": "cpu", "timestamp": 5, "values": {"a": 1.0}} | more
    return m.ReportMetricsRequest(node_id="n", metrics=[m.MetricData(**values)])


def test_samples_hold_finite_numbers_only() -> None:
    nothing = {"nan": float("nan"), "inf": float("inf"), "x": -1.5}
    found = wire.read_metrics(metric(values=nothing).SerializeToString())
    assert found.samples == (("cpu", 5, '{"x":-1.5}'),)


@pytest.mark.parametrize(
    "change", [{"type": ""}, {"type": "x" * 200}, {"timestamp": -1}, {"timestamp": 2**62},
               {"values": {str(n): 0.0 for n in range(wire.VALUES_MAX + 1)}}],
)
def test_a_sample_that_names_no_row_is_refused(change: dict[str, Any]) -> None:
    refused(wire.read_metrics, metric(**change))


def test_too_many_samples_are_refused() -> None:
    many = m.ReportMetricsRequest(node_id="n", metrics=[m.MetricData(type="c", timestamp=1)] * (wire.ENTRIES_MAX + 1))
    assert "at most" in refused(wire.read_metrics, many)


def test_states_are_bounded_and_may_be_none() -> None:
    assert wire.read_states(d.SyncAgentStatesRequest(node_id="n").SerializeToString()) == ("n", ())
    found = wire.read_states(d.SyncAgentStatesRequest(node_id="n", states=[
        d.AgentState(agent_id="a", status="running" * 20, pid=-4, last_heartbeat=-(2**63), version="v" * 99),
    ]).SerializeToString())
    (agent,) = found.agents
    assert (agent.pid, agent.last_heartbeat) == (0, 0)
    assert len(agent.status) <= 32 and len(agent.version) <= 64
    refused(wire.read_states, d.SyncAgentStatesRequest(node_id="n", states=[d.AgentState(status="x")]))


def test_events_and_log_entries() -> None:
    found = wire.read_entries(r.ReportEventsRequest(
        node_id="n", dropped=2**64 - 1,
        events=[
            r.EventRecord(id="5-1", at=float("nan"), type="t", message="m" * 9000, data=b'{"a": [1]}'),
            r.EventRecord(id="5-2", at=1e300, data=b"[1]"), r.EventRecord(id="5-3", data=b"{" * 5000),
            r.EventRecord(id="5-4", data=b'{"a":"' + b"x" * 20000 + b'"}'), r.EventRecord(id="5-5", data=b"\xff"),
        ],
        logs=[r.LogRecord(id="5-1", at=7.5, level="warn", message="w", fields={"agent_id": "web", "x": "y"})],
    ).SerializeToString())
    assert [each.data for each in found.entries[:5]] == ['{"a":[1]}', "{}", "{}", "{}", "{}"]
    assert found.entries[0].at == 0.0 and len(found.entries[0].message) < 4200
    log = found.entries[5]
    assert (log.source, log.at, log.severity, log.agent_id) == ("log", 7.5, "warn", "web")
    assert json.loads(log.data) == {"agent_id": "web", "x": "y"}
    assert found.lost == 2**53
    refused(wire.read_entries, r.ReportEventsRequest(node_id="n", events=[r.EventRecord()]))


@pytest.mark.parametrize(
    "content",
    [
        {"cpu": {"name": "cpu", "timestamp": 9, "values": {"user": 1, "load": [1, {"x": 2}], "model": "m", "ht": True}}},
        [{"type": "cpu", "timestamp": 9.7, "values": {"user": 1, "load": [1, {"x": 2}], "ht": True}}],
    ],
)
def test_the_json_of_older_daemons(content: Any) -> None:
    request = d.MetricsRequest(node_id="n", timestamp=5, data=json.dumps(content).encode())
    (sample,) = wire.read_old_metrics(request.SerializeToString()).samples
    assert (sample.type, sample.at) == ("cpu", 9)
    assert json.loads(sample.values) == {"user": 1, "load[0]": 1, "load[1].x": 2, "ht": 1}


def test_values_without_a_time_have_that_of_the_request() -> None:
    request = d.MetricsRequest(node_id="n", timestamp=5, data=b'{"cpu":{"user":1},"mem":{"total":"1"}}')
    found = wire.read_old_metrics(request.SerializeToString()).samples
    assert found == (("cpu", 5, '{"user":1.0}'), ("mem", 5, "{}"))


@pytest.mark.parametrize("data", [b"", b"5", b"[5]", b'{"a":1}', b"[{}]", b"{", b"[" * 100_000, b'[{"values":{},"type":5}]'])
def test_other_json_is_refused(data: bytes) -> None:
    refused(wire.read_old_metrics, d.MetricsRequest(node_id="n", data=data))


def test_deep_json_is_cut_off() -> None:
    data = b'{"a":' + b'{"b":' * 50 + b"1" + b"}" * 51
    (sample,) = wire.read_old_metrics(d.MetricsRequest(node_id="n", data=data).SerializeToString()).samples
    assert sample.values == "{}"


def test_an_older_daemon_keeps_its_id_from_start_to_start() -> None:
    one = wire.read_old_node(d.RegisterRequest(hostname="h", ip="192.0.2.1").SerializeToString())
    assert one.node_id == ""
    first = wire.old_node_id(one)
    assert first == wire.old_node_id(one._replace(daemon_version="9"))
    assert first != wire.old_node_id(one._replace(ip="192.0.2.2"))
    owned = one._replace(owner="host-1")
    assert wire.old_node_id(owned) == wire.old_node_id(owned._replace(ip="192.0.2.2"))
    assert "hostname" in refused(wire.read_old_node, d.RegisterRequest(ip="192.0.2.1"))
