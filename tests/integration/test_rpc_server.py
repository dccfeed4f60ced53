"""The gRPC server with real clients: what each RPC answers, what a hostile caller gets."""

from __future__ import annotations

import hashlib
from typing import Any

import grpc
import yaml
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from daemon.config.schema import GrpcConfig
from daemon.errors import ErrorCode, ListenError, StorageError
from daemon.model.usage import UsagePoint
from daemon.rpc.pb import daemon_pb2 as pb
from tests.fakes.lab import EPOCH_S
from tests.integration.rpc_support import RpcCase, free_port, reason_of

Code = grpc.StatusCode


class AnswersTest(RpcCase):
    def prepare(self) -> None:
        self.lab.spec("web")
        self.lab.spec("idle", enabled=False)
        self.lab.spec("slow", stop_timeout=1000.0)
        self.lab.program("slow").stop_takes_s = 120.0

    async def test_list_agents_tells_what_the_contract_lists(self) -> None:
        await self.serve()
        stub = self.stub()
        web, idle, _slow = (await self.ask(stub.ListAgents)).agents
        self.assertEqual((web.id, web.type, web.status, web.restart_count), ("web", "custom", "running", 0))
        self.assertEqual(web.pid, self.lab.life.agent("web").pid)
        self.assertAlmostEqual(web.start_time, EPOCH_S + 1000, delta=2)
        self.assertEqual(web.last_heartbeat, 0)
        self.assertEqual((idle.id, idle.status, idle.pid, idle.start_time), ("idle", "stopped", 0, 0))
        await self.ask(stub.OperateAgent, pb.AgentOperationRequest(agent_id="web", operation="stop"))
        web, idle, _slow = (await self.ask(stub.ListAgents)).agents
        self.assertEqual((web.status, web.pid), ("stopped", 0))

    async def test_a_flood_of_lists_shares_looks_and_shows_each_change_at_once(self) -> None:
        server = await self.serve()
        stub, looks = self.stub(), [0]
        registry = self.room.control.agents.registry
        written = registry.list

        def counted() -> Any:
            looks[0] += 1
            return written()

        self.patch(registry, "list", counted)
        for _ in range(5):
            before = looks[0]
            answers = await deferToThread(
                lambda: [stub.ListAgents.future(pb.ListAgentsRequest()).result().agents[0].status for _ in range(50)]
            )
            self.assertEqual(answers, ["running"] * 50)
            self.assertLess(looks[0] - before, 50)
            await self.ask(stub.OperateAgent, pb.AgentOperationRequest(agent_id="web", operation="stop"))
            self.assertEqual((await self.ask(stub.ListAgents)).agents[0].status, "stopped")
            await self.ask(stub.OperateAgent, pb.AgentOperationRequest(agent_id="web", operation="start"))
            self.assertEqual((await self.ask(stub.ListAgents)).agents[0].status, "running")
        self.assertEqual(server.stats().calls_total["ListAgents", "OK"], 260)

    async def test_register_and_heartbeat_say_who_this_is_and_that_it_lives(self) -> None:
        await self.serve()
        stub = self.stub()
        answer = await self.ask(stub.Register, pb.RegisterRequest(hostname="manager"))
        self.assertEqual((answer.node_id, answer.success), ("node-1", True))
        answer = await self.ask(stub.Heartbeat, pb.HeartbeatRequest(node_id="node-1"))
        self.assertTrue(answer.success)
        self.assertIn("node-1 is alive", answer.message)
        answer = await self.ask(stub.Heartbeat, pb.HeartbeatRequest(node_id="node-2"))
        self.assertTrue(answer.success)
        self.assertIn("not node-2", answer.message)

    async def test_metrics_and_states_are_acknowledged(self) -> None:
        await self.serve()
        stub = self.stub()
        self.assertTrue((await self.ask(stub.ReportMetrics, pb.MetricsRequest(data=b"not json"))).success)
        self.assertTrue((await self.ask(stub.SyncAgentStates, pb.SyncAgentStatesRequest(node_id="n"))).success)
        error = await self.refused(stub.SyncAgentStates, pb.SyncAgentStatesRequest())
        self.assertEqual((error.code(), reason_of(error)), (Code.INVALID_ARGUMENT, ("hostdaemon", "INVALID")))
        self.assertIn("node_id", error.details())

    async def test_get_config_is_yaml_of_all_or_of_the_agents(self) -> None:
        await self.serve()
        stub = self.stub()
        answer = await self.ask(stub.GetConfig, pb.ConfigRequest(config_type="daemon"))
        self.assertEqual(yaml.safe_load(answer.config_data), self.room.effective)
        self.assertIn(b"umask: '022'", answer.config_data)
        answer = await self.ask(stub.GetConfig, pb.ConfigRequest(config_type="agent"))
        self.assertEqual(yaml.safe_load(answer.config_data), {"agents": self.room.effective["agents"]})
        for kind in ("", "manager", "x" * 50_000):
            error = await self.refused(stub.GetConfig, pb.ConfigRequest(config_type=kind))
            self.assertIs(error.code(), Code.INVALID_ARGUMENT)
            self.assertLess(len(error.details()), 1100)

    async def test_push_update_is_accepted_with_its_id_and_its_outcome_is_events(self) -> None:
        await self.serve()
        stub = self.stub()
        data = b"x" * 10**6
        asked = pb.UpdateRequest(
            node_id="node-1", component="web", version="1.1.0", hash=hashlib.sha256(data).hexdigest(),
            signature="c2ln", update_data=data,
        )
        answer = await self.ask(stub.PushUpdate, asked)
        self.assertTrue(answer.success)
        view = self.room.updates.get(answer.message)
        self.assertEqual((view.state.value, view.new_version), ("succeeded", "1.1.0"))
        (event,) = self.room.calls()
        self.assertEqual((event.data["method"], event.data["agent"], event.data["code"]), ("PushUpdate", "web", "OK"))

    async def test_push_update_says_what_stands_against_it(self) -> None:
        await self.serve()
        stub = self.stub()
        good = {"component": "web", "version": "1.1.0", "hash": "ab" * 32, "signature": "c2ln", "update_data": b"x"}
        for changes, code, part in (
            ({"component": "nobody"}, Code.NOT_FOUND, "neither 'daemon' nor"),
            ({"component": ""}, Code.INVALID_ARGUMENT, "component is missing"),
            ({"version": ""}, Code.INVALID_ARGUMENT, "version"), ({"hash": "x"}, Code.INVALID_ARGUMENT, "64 hex"),
            ({"signature": ""}, Code.INVALID_ARGUMENT, "base64"), ({"update_data": b""}, Code.INVALID_ARGUMENT, "one of"),
            ({"download_url": "https://updates.example.org/x"}, Code.INVALID_ARGUMENT, "one of"),
            ({"update_data": b"", "download_url": "https://evil.example/x"}, Code.PERMISSION_DENIED, "evil.example"),
            ({"node_id": "node-9"}, Code.FAILED_PRECONDITION, "this is node node-1"),
        ):
            with self.subTest(changes=changes):
                error = await self.refused(stub.PushUpdate, pb.UpdateRequest(**(good | changes)))
                self.assertIs(error.code(), code)
                self.assertIn(part, error.details())
        self.assertEqual(self.room.updates.list(), ())

    async def test_agent_metrics_are_points_of_the_history(self) -> None:
        await self.serve()
        stub = self.stub()
        self.room.records.points["web"] = (
            UsagePoint(timestamp=7, cpu=150.5, memory_rss=2**40, memory_vms=5, disk_read_bytes=6, open_files=8),
            UsagePoint(timestamp=8),
        )
        answer = await self.ask(stub.GetAgentMetrics, pb.AgentMetricsRequest(agent_id="web"))
        first, second = answer.data_points
        self.assertEqual(answer.agent_id, "web")
        self.assertEqual(
            (first.timestamp, first.cpu, first.memory_rss, first.disk_read_bytes, first.open_files),
            (7, 150.5, 2**40, 6, 8),
        )
        self.assertEqual((second.timestamp, second.cpu, second.memory_rss), (8, 0.0, 0))
        self.assertEqual(self.room.records.asked, [(0, 0)])

    async def test_agent_metrics_refuse_what_makes_no_sense(self) -> None:
        await self.serve()
        stub = self.stub()
        self.room.records.points["web"] = ()
        wrong = [
            (pb.AgentMetricsRequest(agent_id="web", duration_seconds=-1), Code.INVALID_ARGUMENT, "INVALID"),
            (pb.AgentMetricsRequest(duration_seconds=5), Code.INVALID_ARGUMENT, "INVALID"),
            (pb.AgentMetricsRequest(agent_id="none"), Code.NOT_FOUND, "UNKNOWN"),
        ]
        for request, code, reason in wrong:
            error = await self.refused(stub.GetAgentMetrics, request)
            self.assertEqual((error.code(), reason_of(error)), (code, ("hostdaemon", reason)))
        self.room.records.failing = StorageError("the history cannot be read: I/O error; look at the disk")
        error = await self.refused(stub.GetAgentMetrics, pb.AgentMetricsRequest(agent_id="web"))
        self.assertEqual((error.code(), reason_of(error)[1]), (Code.INTERNAL, ErrorCode.STORAGE.value))

    async def test_a_history_too_long_for_an_answer_comes_in_steps(self) -> None:
        await self.serve()
        self.room.records.points["web"] = tuple(UsagePoint(timestamp=n, cpu=1.0) for n in range(86_400))
        answer = await self.ask(self.stub().GetAgentMetrics, pb.AgentMetricsRequest(agent_id="web", duration_seconds=86400))
        self.assertEqual(self.room.records.asked, [(86400, 0), (86400, 6)])
        self.assertLess(len(answer.data_points), 20_000)
        self.assertLess(answer.ByteSize(), 4 * 2**20)

    async def operate(self, operation: str, agent_id: str = "web") -> Any:
        return await self.ask(self.stub().OperateAgent, pb.AgentOperationRequest(agent_id=agent_id, operation=operation))

    async def test_operations_wait_for_their_outcome(self) -> None:
        await self.serve()
        pid = self.lab.life.agent("web").pid
        for operation, state in (("restart", "running"), ("stop", "stopped"), ("stop", "stopped"), ("start", "running")):
            answer = await self.operate(operation)
            self.assertEqual((answer.success, answer.error_message), (True, ""))
            self.assertEqual(self.lab.life.agent("web").state.value, state)
        self.assertNotEqual(self.lab.life.agent("web").pid, pid)
        self.assertEqual([e.data["code"] for e in self.room.calls()], ["OK"] * 4)
        event = self.room.calls()[0]
        self.assertEqual((event.data["method"], event.data["agent"], event.data["peer"]), ("OperateAgent", "web", "127.0.0.1"))
        self.assertGreater(event.data["duration_s"], 0)

    async def test_operations_that_cannot_be_are_statuses(self) -> None:
        await self.serve()
        stub = self.stub()
        wrong = [
            ({"operation": "stop"}, Code.INVALID_ARGUMENT, "INVALID", "agent_id is missing"),
            ({"agent_id": "web"}, Code.INVALID_ARGUMENT, "INVALID", "operation is missing"),
            ({"agent_id": "web", "operation": "kill"}, Code.INVALID_ARGUMENT, "INVALID", "start, stop or restart"),
            ({"agent_id": "web", "operation": "STOP"}, Code.INVALID_ARGUMENT, "INVALID", "start, stop or restart"),
            ({"agent_id": "none", "operation": "stop"}, Code.NOT_FOUND, "UNKNOWN", "no agent 'none'"),
        ]
        for fields, code, reason, words in wrong:
            error = await self.refused(stub.OperateAgent, pb.AgentOperationRequest(**fields))
            self.assertEqual((error.code(), reason_of(error)), (code, ("hostdaemon", reason)))
            self.assertIn(words, error.details())

    async def test_a_failed_operation_is_internal_with_its_d_code(self) -> None:
        await self.serve()
        await self.operate("stop")
        self.lab.program("web").error = 13
        error = await self.refused(self.stub().OperateAgent, pb.AgentOperationRequest(agent_id="web", operation="start"))
        self.assertEqual((error.code(), reason_of(error)[1]), (Code.INTERNAL, "D3001"))
        (event,) = [e for e in self.room.calls() if e.data["code"] != "OK"]
        self.assertEqual((event.data["code"], event.severity.value), ("INTERNAL", "warn"))

    async def test_a_superseded_operation_is_aborted(self) -> None:
        await self.serve()
        await self.operate("stop")
        start = self.refused(self.stub().OperateAgent, pb.AgentOperationRequest(agent_id="web", operation="start"))
        waiting = Deferred.fromCoroutine(start)
        await self.until(lambda: self.lab.life.agent("web").pid, "the start")
        await self.operate("stop")
        error = await waiting
        self.assertEqual((error.code(), reason_of(error)[1]), (Code.ABORTED, "SUPERSEDED"))

    async def test_an_operation_that_goes_on_past_90_s_is_a_success_in_progress(self) -> None:
        await self.serve()
        waiting = Deferred.fromCoroutine(self.operate("stop", "slow"))
        await self.until(lambda: self.lab.life.agent("slow").state.value == "stopping", "the stop")
        self.lab.clock.advance(91)
        answer = await waiting
        self.assertEqual((answer.success, answer.error_message), (True, "in progress"))
        self.assertEqual(self.lab.life.agent("slow").state.value, "stopping")
        self.lab.clock.advance(60)  # and it goes on to its end
        await self.until(lambda: self.lab.life.agent("slow").state.value == "stopped", "its end")

    async def test_health_and_unknown_methods(self) -> None:
        server = await self.serve()
        channel = self.channel()
        stub = HealthStub(channel)
        for service in ("", "proto.DaemonService"):
            answer = await self.ask(stub.Check, health_pb2.HealthCheckRequest(service=service))
            self.assertEqual(answer.status, health_pb2.HealthCheckResponse.SERVING)
        error = await self.refused(stub.Check, health_pb2.HealthCheckRequest(service="other"))
        self.assertIs(error.code(), Code.NOT_FOUND)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service="proto.DaemonService"), timeout=20)
        first = await self.ask(lambda _request, timeout: next(watch))
        self.assertEqual(first.status, health_pb2.HealthCheckResponse.SERVING)
        await self.until(lambda: server.stats().in_flight == 0, "the watch to hold no worker")
        for path in ("/proto.DaemonService/Nothing", "/x/y", "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"):
            error = await self.refused(channel.unary_unary(path), b"")
            self.assertEqual((error.code(), reason_of(error)[1]), (Code.UNIMPLEMENTED, "UNKNOWN_METHOD"))
        await server.stopService()
        with self.assertRaises(grpc.RpcError):
            await self.ask(lambda _request, timeout: next(watch))

    async def test_reflection_is_served_where_it_is_written(self) -> None:
        from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
            ProtoReflectionDescriptorDatabase,
        )

        await self.serve(GrpcConfig(reflection=True))
        channel = self.channel()
        services = await self.ask(lambda _r, timeout: ProtoReflectionDescriptorDatabase(channel).get_services())
        self.assertIn("proto.DaemonService", services)
        self.assertTrue((await self.ask(self.stub().ListAgents)).agents)

    async def test_counts_are_by_method_and_code(self) -> None:
        server = await self.serve()
        stub = self.stub()
        for _ in range(3):
            await self.ask(stub.ListAgents)
        await self.refused(stub.GetConfig, pb.ConfigRequest())
        counts = server.stats().calls_total
        self.assertEqual(counts["ListAgents", "OK"], 3)
        self.assertEqual(counts["GetConfig", "INVALID_ARGUMENT"], 1)
        self.assertEqual(self.room.calls(), [])  # reads are counted and leave no event


class HostileTest(RpcCase):
    async def test_bytes_that_are_no_message_are_the_callers_fault(self) -> None:
        await self.serve()
        channel = self.channel()
        for method in ("Register", "Heartbeat", "ReportMetrics", "GetConfig", "PushUpdate", "ListAgents",
                       "OperateAgent", "GetAgentMetrics", "SyncAgentStates"):
            call = channel.unary_unary(f"/proto.DaemonService/{method}")
            error = await self.refused(call, b"\x0a\xff\xff\xff\xff\x0f garbage")
            self.assertEqual((error.code(), reason_of(error)[1]), (Code.INVALID_ARGUMENT, "INVALID"), method)

    async def test_texts_of_any_kind_come_back_short_and_clean(self) -> None:
        await self.serve()
        stub = self.stub()
        for name in ("../../etc/passwd", "a\x00b", "x\r\ninjected: header", "\u202egnp", "é" * 1000, "z" * 60_000):
            request = pb.AgentOperationRequest(agent_id=name, operation="stop")
            error = await self.refused(stub.OperateAgent, request)
            self.assertIs(error.code(), Code.NOT_FOUND)
            self.assertLess(len(error.details()), 1100)
            self.assertFalse(set(error.details()) & set("\x00\r\n\u202e"))
        for event in self.room.calls():
            self.assertLessEqual(len(event.data["agent"]), 64)

    async def test_large_messages_are_refused_and_the_server_goes_on(self) -> None:
        await self.serve(max_inline_bytes=8 * 2**20)
        stub = self.stub()
        error = await self.refused(stub.OperateAgent, pb.AgentOperationRequest(agent_id="x" * 70_000, operation="stop"))
        self.assertEqual((error.code(), reason_of(error)[1]), (Code.INVALID_ARGUMENT, "TOO_LARGE"))
        error = await self.refused(stub.ReportMetrics, pb.MetricsRequest(data=b"x" * (5 * 2**20)))
        self.assertEqual((error.code(), reason_of(error)[1]), (Code.INVALID_ARGUMENT, "TOO_LARGE"))
        error = await self.refused(stub.PushUpdate, pb.UpdateRequest(update_data=b"x" * (8 * 2**20)))
        self.assertIn("version", error.details())  # as large as configured: it is looked at
        error = await self.refused(stub.PushUpdate, pb.UpdateRequest(update_data=b"x" * (9 * 2**20)))
        self.assertIs(error.code(), Code.RESOURCE_EXHAUSTED)  # gRPC's own: it never comes into memory
        self.assertTrue((await self.ask(stub.ListAgents)).agents)

    async def test_many_states_are_counted_not_kept(self) -> None:
        await self.serve()
        states = [pb.AgentState(agent_id=f"a{n}", status="\x07" * 50) for n in range(20_000)]
        answer = await self.ask(self.stub().SyncAgentStates, pb.SyncAgentStatesRequest(node_id="n\n" * 99, states=states))
        self.assertTrue(answer.success)
        self.assertIn("20000", answer.message)

    async def test_a_call_without_a_message_is_refused(self) -> None:
        await self.serve()
        call = self.channel().stream_unary("/proto.DaemonService/ListAgents")
        error = await self.refused(lambda _r, timeout: call(iter(()), timeout=timeout))
        self.assertIs(error.code(), Code.INVALID_ARGUMENT)


class ListenTest(RpcCase):
    async def test_a_taken_port_is_one_line_with_its_d_code(self) -> None:
        await self.serve()
        second = self.make()
        with self.assertRaises(ListenError) as caught:
            await second.open()
        self.assertEqual(caught.exception.code.value, "D1003")
        self.assertIn(f"127.0.0.1:{self.port} cannot be listened to: Address already in use", str(caught.exception))
        self.assertIn("ss -ltnp", second.error)
        self.assertEqual(second.listening, "")

    async def test_addresses_that_are_not_ours_are_refused(self) -> None:
        for host in ("192.0.2.1", "no-such-host.invalid"):
            server = self.make(GrpcConfig(insecure=True), host=host)
            with self.assertRaises(ListenError):
                await server.open()
            self.assertIn("grpc_host", server.error)

    async def test_plain_text_beyond_loopback_needs_to_be_written(self) -> None:
        for host in ("0.0.0.0", "", "::"):
            server = self.make(host=host)
            with self.assertRaises(ListenError) as caught:
                await server.open()
            self.assertIn("would obey anybody", str(caught.exception))
        server = await self.serve(GrpcConfig(insecure=True), host="0.0.0.0")
        self.assertIn("plain text", server.listening)
        self.assertTrue((await self.ask(self.stub().ListAgents)).agents)

    async def test_readiness_follows_the_life_of_the_server(self) -> None:
        server = self.make()
        self.assertEqual((server.error, server.listening), ("not listening yet", ""))
        await server.open()
        self.assertEqual((server.error, server.listening), ("", f"127.0.0.1:{self.port} (plain text)"))
        await server.stopService()
        self.assertEqual((server.error, server.listening), ("stopped", ""))
        self.port = free_port()
        again = await self.serve()
        self.assertEqual(again.error, "")

    async def test_ipv6_loopback(self) -> None:
        await self.serve(host="::1")
        channel = grpc.insecure_channel(f"[::1]:{self.port}")
        self.channels.append(channel)
        self.assertTrue((await self.ask(self.stub(channel).ListAgents)).agents)

    async def test_a_port_of_0_is_off(self) -> None:
        self.port = 0
        server = await self.serve()
        self.assertEqual((server.error, server.listening, server.stats().in_flight), ("", "", 0))
