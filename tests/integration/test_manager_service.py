"""The Manager as daemons and operators meet it: real gRPC, real SQLite, real HTTP."""

from __future__ import annotations

import sqlite3
import time
from typing import Any, cast

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults

from daemon.rpc.pb import daemon_pb2 as d
from daemon.rpc.pb import reports_pb2 as r
from tests.integration.manager_support import TIMEOUT_S, ManagerCase, code_of
from tests.integration.rpc_support import Many, reason_of


class ServiceTest(ManagerCase):
    async def test_what_a_daemon_tells_is_what_an_operator_sees(self) -> None:
        await self.serve()
        daemon = self.client()
        self.assertEqual(await self.call(code_of, daemon.beat), ("NOT_FOUND", "node 'n1' is not registered here; register first"))
        now = int(time.time())

        def tell() -> list[Any]:
            return [
                daemon.register(labels={"rack": "7"}), daemon.beat(), daemon.report(now, now - 60), daemon.report(now),
                daemon.daemon.SyncAgentStates(d.SyncAgentStatesRequest(
                    node_id="n1", states=[d.AgentState(agent_id="web", status="running", pid=7)],
                ), timeout=TIMEOUT_S),
                daemon.reports.ReportEvents(r.ReportEventsRequest(
                    node_id="n1", events=[r.EventRecord(id="1-1", at=now, type="t", message="hello")],
                ), timeout=TIMEOUT_S),
            ]

        answers = await self.call(tell)
        self.assertTrue(all(answer.success for answer in answers))
        self.assertEqual(answers[3].message, "1 of them were here already")
        (node,) = (await self.get("/v1/nodes"))["nodes"]
        self.assertEqual((node["node_id"], node["state"], node["agents"]), ("n1", "online", {"running": 1}))
        self.assertEqual((await self.get("/v1/nodes/n1/agents"))["agents"][0]["id"], "web")
        found = (await self.get("/v1/nodes/n1/metrics?type=cpu"))["metrics"]
        self.assertEqual([sample["timestamp"] for sample in found], [now - 60, now])
        self.assertIn("hello", [e["message"] for e in (await self.get("/v1/nodes/n1/events"))["events"]])
        self.assertEqual((await self.get("/readyz"))["status"], "ok")

    async def test_daemons_of_an_older_make_are_served(self) -> None:
        await self.serve()
        daemon = self.client().daemon

        def tell() -> Any:
            found = daemon.Register(d.RegisterRequest(hostname="old", ip="127.0.0.1"), timeout=TIMEOUT_S)
            again = daemon.Register(d.RegisterRequest(hostname="old", ip="127.0.0.1"), timeout=TIMEOUT_S)
            assert found.success and found.node_id == again.node_id
            assert daemon.Heartbeat(d.HeartbeatRequest(node_id=found.node_id, status="ok"), timeout=TIMEOUT_S).success
            data = b'{"cpu":{"name":"cpu","timestamp":5,"values":{"user":1}}}'
            assert daemon.ReportMetrics(d.MetricsRequest(node_id=found.node_id, data=data), timeout=TIMEOUT_S).success
            return found.node_id

        node_id = await self.call(tell)
        found = (await self.get(f"/v1/nodes/{node_id}/metrics?from=0"))["metrics"]
        self.assertEqual(found, [{"type": "cpu", "timestamp": 5, "values": {"user": 1.0}}])

    async def test_what_is_not_served_says_what_is(self) -> None:
        await self.serve()
        daemon = self.client()
        code, details = await self.call(code_of, daemon.daemon.ListAgents, d.ListAgentsRequest())
        self.assertEqual((code, "manager.ManagerService" in details), ("UNIMPLEMENTED", True))
        health = health_pb2_grpc.HealthStub(daemon.channel)
        answer = await self.call(health.Check, health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
        self.assertEqual(answer.status, health_pb2.HealthCheckResponse.SERVING)
        for service in ("manager.ManagerService", "proto.DaemonService", "hostdaemon.v1.Reports"):
            asked = health_pb2.HealthCheckRequest(service=service)
            answer = await self.call(health.Check, asked, timeout=TIMEOUT_S)
            self.assertEqual(answer.status, health_pb2.HealthCheckResponse.SERVING)
        code, details = await self.call(code_of, health.Check, health_pb2.HealthCheckRequest(service="else"))
        self.assertEqual((code, "manager.ManagerService" in details), ("NOT_FOUND", True))

    async def test_a_restart_loses_nothing_that_was_acknowledged(self) -> None:
        await self.serve()
        daemon = self.client()
        now = int(time.time())
        await self.call(lambda: (daemon.register(), daemon.report(*range(now - 100, now))))
        await self.leave()
        code, _ = await self.call(code_of, daemon.beat)
        self.assertEqual(code, "UNAVAILABLE")
        manager = await self.serve()
        self.assertEqual(manager.fleet.presence.online, 1)
        again = self.client()
        answer = await self.call(again.report, *range(now - 100, now))
        self.assertEqual(answer.message, "100 of them were here already")

    async def test_many_share_a_commit(self) -> None:
        manager = await self.serve()
        clients = [self.client() for _ in range(10)]
        await self.call(lambda: [clients[0].register(f"n{number}") for number in range(20)])
        before = manager.intake.batches_total
        answers = await self.call(Many(200, lambda n: clients[n % 10].beat(f"n{n % 20}")).run)
        self.assertEqual([a for a in answers if not getattr(a, "success", False)], [])
        self.assertLess(manager.intake.batches_total - before, 150)

    async def test_what_is_in_hand_at_the_stop_is_committed_and_answered(self) -> None:
        await self.serve()
        daemon = self.client()
        await self.call(daemon.register)
        other = sqlite3.connect(self.config.database_path)
        other.execute("BEGIN IMMEDIATE")  # a backup, say
        calls = [self.call(code_of, daemon.report, at) for at in range(1, 11)]
        await self.until(lambda: daemon and self._waiting() == 10, "the calls")
        left = Deferred.fromCoroutine(self.leave())
        cast(Any, reactor).callLater(0.2, lambda: (other.rollback(), other.close()))
        answers = await gatherResults(calls)
        self.assertEqual({code for code, _ in answers}, {"OK"})
        await left
        with sqlite3.connect(self.config.database_path) as database:
            self.assertEqual(database.execute("SELECT COUNT(*) FROM samples").fetchone()[0], 10)
        database.close()

    def _waiting(self) -> int:
        return self.manager.rpc.in_flight

    async def serve(self) -> Any:
        self.manager = await super().serve()
        return self.manager

    async def test_a_message_that_is_too_large_is_refused_and_the_connection_stays(self) -> None:
        await self.serve()
        daemon = self.client()
        await self.call(daemon.register)
        labels = {str(n): "x" * 1000 for n in range(200)}
        self.assertEqual((await self.call(code_of, lambda: daemon.register(labels=labels)))[0], "INVALID_ARGUMENT")
        huge = r.EventRecord(id="1-1", message="x" * 17 * 1024 * 1024)
        code, _ = await self.call(
            code_of, daemon.reports.ReportEvents, r.ReportEventsRequest(node_id="n1", events=[huge])
        )
        self.assertEqual(code, "RESOURCE_EXHAUSTED")
        self.assertTrue((await self.call(daemon.beat)).success)

    async def test_a_database_that_refuses_acknowledges_nothing_and_is_not_ready(self) -> None:
        manager = await self.serve()
        daemon = self.client()
        await self.call(daemon.register)
        await manager.database.write(lambda tx: tx.execute("DROP TABLE samples") and None)

        def report() -> Any:
            try:
                daemon.report(5)
            except grpc.RpcError as error:
                return reason_of(error)
            raise AssertionError("it was acknowledged")

        self.assertEqual(await self.call(report), ("hostdaemon", "D1004"))
        self.assertEqual((await self.get("/readyz"))["status"], "unavailable")
        self.assertTrue((await self.call(daemon.beat)).success)
        self.assertEqual((await self.get("/readyz"))["status"], "ok")
