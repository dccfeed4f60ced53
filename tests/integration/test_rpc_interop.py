"""Others on the wire: clients and Managers that have nothing of ours but the contract's field numbers."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from typing import Any

import grpc
import yaml
from twisted.internet.threads import deferToThread

from daemon.model.usage import UsagePoint
from tests.fakes.bare_manager import GOOD, BareManager
from tests.fakes.bare_wire import UNKNOWN, entries, one, read, write
from tests.integration.manager_support import ManagerCase
from tests.integration.rpc_support import RpcCase
from tests.integration.test_rpc_link_real import LinkCase

Code = grpc.StatusCode
Fields = dict[int, list[Any]]
NOW = int(time.time())


def call(channel: grpc.Channel, path: str, message: Mapping[int, Any], timeout: float = 10.0) -> Fields:
    """One call of a client without stubs."""
    return read(channel.unary_unary(f"/{path}")(write(message), timeout=timeout))


class BareClientTest(RpcCase):
    """Somebody's Manager calls our daemon."""

    def ask(self, method: str, message: Mapping[int, Any] | None = None, **_how: Any) -> Any:
        return deferToThread(call, self.bare, f"proto.DaemonService/{method}", {**(message or {}), **UNKNOWN})

    async def test_the_calls_of_the_contract_by_their_numbers(self) -> None:
        await self.serve()
        self.bare = self.channel()
        self.room.records.points["web"] = (
            UsagePoint(
                timestamp=7, cpu=1.5, memory_rss=2**40, memory_vms=2**41, disk_read_bytes=3, disk_write_bytes=4,
                open_files=5,
            ),
        )
        answer = await self.ask("Register", {1: "manager", 2: "10.0.0.1", 5: {1: "k", 2: "v"}})
        self.assertEqual((one(answer, 1), one(answer, 2)), (b"node-1", 1))
        answer = await self.ask("Heartbeat", {1: "node-1", 2: 1_700_000_000, 3: "running"})
        self.assertEqual(one(answer, 1), 1)
        answer = await self.ask("ReportMetrics", {1: "node-1", 2: 5, 3: b"{}"})
        self.assertEqual(one(answer, 1), 1)
        answer = await self.ask("GetConfig", {2: "agent"})
        self.assertEqual(one(answer, 1), 1)
        self.assertEqual(yaml.safe_load(one(answer, 3)), {"agents": self.room.effective["agents"]})

        web = read(one(await self.ask("ListAgents"), 1))
        pid = self.lab.life.agent("web").pid
        self.assertEqual((one(web, 1), one(web, 2), one(web, 4), one(web, 5)), (b"web", b"custom", b"running", pid))
        self.assertGreater(one(web, 6), 1_700_000_000)
        self.assertLessEqual(set(web), set(range(1, 9)))

        answer = await self.ask("GetAgentMetrics", {1: "web", 2: 60})
        self.assertEqual(one(answer, 1), b"web")
        point = read(one(answer, 2))
        self.assertEqual(
            [one(point, number) for number in range(1, 8)], [7, 1.5, 2**40, 2**41, 3, 4, 5]
        )
        answer = await self.ask("OperateAgent", {1: "web", 2: "restart"})
        self.assertEqual((one(answer, 1), one(answer, 2)), (1, b""))
        self.assertNotEqual(self.lab.life.agent("web").pid, pid)
        answer = await self.ask("SyncAgentStates", {1: "node-1", 2: [{1: "x", 2: "running"}, {1: "y"}]})
        self.assertEqual(one(answer, 1), 1)

    async def test_empty_messages_mean_what_zero_means(self) -> None:
        await self.serve()
        self.bare = self.channel()
        for method in ("Register", "Heartbeat", "ReportMetrics"):
            self.assertTrue(await deferToThread(call, self.bare, f"proto.DaemonService/{method}", {}), method)
        for method in ("GetConfig", "OperateAgent", "GetAgentMetrics", "SyncAgentStates"):
            with self.assertRaises(grpc.RpcError) as caught:
                await deferToThread(call, self.bare, f"proto.DaemonService/{method}", {})
            self.assertIs(caught.exception.code(), Code.INVALID_ARGUMENT, method)

    async def test_negative_and_huge_numbers_are_read(self) -> None:
        await self.serve()
        self.bare = self.channel()
        self.assertEqual(one(await self.ask("Heartbeat", {1: "node-1", 2: -(2**63)}), 1), 1)
        with self.assertRaises(grpc.RpcError) as caught:
            await self.ask("GetAgentMetrics", {1: "web", 2: -5})
        self.assertIs(caught.exception.code(), Code.INVALID_ARGUMENT)


class BareManagerTest(LinkCase):
    """Our link calls somebody's Manager."""

    def bare(self, *args: Any, **how: Any) -> BareManager:
        made = BareManager(self.port, *args, **how)
        self.addCleanup(made.stop)
        return made

    async def delivered(self, count: int) -> None:
        await self.until(lambda: self.made.state.delivered == count, f"{count} reports")

    def seen(self, *managers: BareManager) -> list[tuple[str, int]]:
        return [(kind, at) for manager in managers for kind, at, _values in manager.samples]

    async def test_what_it_is_told_is_where_the_contract_says(self) -> None:
        manager = self.bare()
        self.agents.states.update(web="running", db="stopped")
        self.collectors.sample("cpu", 1_700_000_000, usage_percent=12.5, cores=4)
        link = self.link()
        await self.delivered(1)
        await self.until(lambda: manager.states and manager.beats, "states and heartbeats")
        (node,) = manager.nodes
        self.assertEqual((node["os"], node["arch"], node["ip"]), ("linux", "amd64", "127.0.0.1"))
        self.assertEqual(node["daemon_version"], "2.0.0")
        self.assertEqual(manager.beats[0][0], node["node_id"])
        self.assertEqual(manager.samples, [("cpu", 1_700_000_000, {"usage_percent": 12.5, "cores": 4.0})])
        self.assertEqual(
            sorted((state[1], state[2]) for state in manager.states[0]), [(b"db", b"stopped"), (b"web", b"running")]
        )
        self.assertEqual(link.state.last_error, "")

    async def test_answers_of_a_later_version_are_successes(self) -> None:
        manager = self.bare(lambda _method, _request: {**GOOD, **UNKNOWN})
        link = self.link()
        await self.measure(3)
        await self.delivered(3)
        self.assertEqual(self.seen(manager), self.keys)
        self.assertEqual((link.state.connected, link.state.last_error), (True, ""))

    async def test_an_empty_answer_is_no_success_and_loses_nothing(self) -> None:
        empty = True
        manager = self.bare(lambda _method, _request: b"" if empty else GOOD)
        link = self.link()
        await self.measure(3)
        await self.until(lambda: link.state.failures_total > 2, "refusals")
        self.assertIn("answered success=false", link.state.last_error)
        self.assertEqual((link.state.delivered, link.state.dropped, link.state.queued), (0, 0, 3))
        empty = False
        await self.delivered(3)
        self.assertEqual(self.seen(manager), self.keys)

    async def test_connections_that_are_sent_away_all_the_time_cost_no_call(self) -> None:
        # GOAWAY after 100 ms of each connection, whatever is under way on it.
        manager = self.bare(options={"grpc.max_connection_age_ms": 100, "grpc.max_connection_age_grace_ms": 5000})
        link = self.link(self.config(heartbeat_interval=0.02))
        await self.measure(3)
        await self.until(lambda: len(manager.peers) > 4, "several connections")
        await self.measure(3)
        await self.delivered(6)
        self.assertEqual(self.seen(manager), self.keys)
        self.assertEqual((link.state.failures_total, link.state.connects_total), (0, 1))

    async def test_a_manager_that_leaves_with_a_report_in_hand_answers_it_and_the_next_one_goes_on(self) -> None:
        inside, go = threading.Event(), threading.Event()

        def slow(method: str, _request: Fields) -> Mapping[int, Any]:
            if method == "ReportMetrics":
                inside.set()
                go.wait(10)
            return GOOD

        first = self.bare(slow)
        link = self.link()
        await self.measure(1)
        await self.until(inside.is_set, "a report in hand")
        leaving = deferToThread(first.stop, 10.0)  # GOAWAY now, the report is still answered
        for _ in range(3):
            await self.measure(1)
        go.set()
        await leaving
        await self.delivered(1)
        second = self.bare()
        await self.delivered(4)
        self.assertEqual(self.seen(first, second), self.keys)
        self.assertEqual(link.state.dropped, 0)


class BareDaemonTest(ManagerCase):
    """Somebody's daemons report to our Manager."""

    async def asked(self, path: str, message: Mapping[int, Any]) -> Fields:
        answer: Fields = await self.call(call, self.client().channel, path, {**message, **UNKNOWN})
        return answer

    async def test_a_daemon_of_the_contract_is_shown(self) -> None:
        await self.serve()
        service = "manager.ManagerService"
        node = {1: "n7", 2: "host7", 3: "10.0.0.7", 4: "linux", 5: "arm64", 6: [{1: "rack", 2: "r1"}], 7: "0.1"}
        self.assertEqual(one(await self.asked(f"{service}/RegisterNode", node), 1), 1)
        self.assertEqual(one(await self.asked(f"{service}/Heartbeat", {1: "n7", 2: NOW}), 1), 1)
        metric = {1: "cpu", 2: NOW, 3: [{1: "usage_percent", 2: 12.5}, {1: "cores", 2: 4.0}]}
        self.assertEqual(one(await self.asked(f"{service}/ReportMetrics", {1: "n7", 2: [metric]}), 1), 1)
        state = {1: "web", 2: "running", 3: 4711, 4: NOW, 5: "filebeat", 6: "8.1"}
        self.assertEqual(one(await self.asked("proto.DaemonService/SyncAgentStates", {1: "n7", 2: [state]}), 1), 1)

        (shown,) = (await self.get("/v1/nodes"))["nodes"]
        self.assertEqual((shown["node_id"], shown["hostname"], shown["labels"]), ("n7", "host7", {"rack": "r1"}))
        (sample,) = (await self.get("/v1/nodes/n7/metrics?type=cpu"))["metrics"]
        self.assertEqual((sample["timestamp"], sample["values"]), (NOW, {"usage_percent": 12.5, "cores": 4.0}))
        (agent,) = (await self.get("/v1/nodes/n7/agents"))["agents"]
        self.assertEqual((agent["id"], agent["status"], agent["pid"], agent["type"]), ("web", "running", 4711, "filebeat"))

    async def test_a_daemon_of_an_older_make_is_shown(self) -> None:
        await self.serve()
        answer = await self.asked("proto.DaemonService/Register", {1: "old-host", 2: "10.0.0.8", 3: "linux", 6: "0.0.9"})
        node_id = one(answer, 1).decode()
        self.assertTrue(node_id)
        self.assertEqual(one(answer, 2), 1)
        beat = {1: node_id, 2: NOW, 3: "running"}
        self.assertEqual(one(await self.asked("proto.DaemonService/Heartbeat", beat), 1), 1)
        data = json.dumps({"cpu": {"usage_percent": 50.0}}).encode()
        report = {1: node_id, 2: NOW, 3: data}
        self.assertEqual(one(await self.asked("proto.DaemonService/ReportMetrics", report), 1), 1)
        self.assertEqual([each["node_id"] for each in (await self.get("/v1/nodes"))["nodes"]], [node_id])
        (sample,) = (await self.get(f"/v1/nodes/{node_id}/metrics?type=cpu"))["metrics"]
        self.assertEqual(sample["values"], {"usage_percent": 50.0})


def test_the_bare_wire_reads_what_it_writes() -> None:
    message = {1: "text", 2: -1, 3: 2.5, 4: [b"a", b""], 5: {1: True}, 6: {1: "k", 2: 7.0}, 7: 0}
    found = read(write(message))
    assert found == {1: [b"text"], 2: [-1], 3: [2.5], 4: [b"a", b""], 5: [b"\x08\x01"], 6: [write({1: "k", 2: 7.0})]}
    assert entries(found, 6) == {"k": 7.0}
