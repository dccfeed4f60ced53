"""The gRPC server under load: many callers, long stops, callers that vanish or say nothing, and the end."""

from __future__ import annotations

import time
from typing import Any

import grpc
from twisted.internet.threads import deferToThread

from daemon.rpc.pb import daemon_pb2 as pb
from daemon.rpc.pb.daemon_pb2_grpc import DaemonServiceStub
from daemon.rpc.refusals import LONG_MAX
from daemon.rpc.workers import CALLS_MAX, WORKERS
from tests.integration.rpc_support import Many, RpcCase, reason_of, retry_after, unanswered

Code = grpc.StatusCode
AGENTS = 12


class LoadTest(RpcCase):
    def prepare(self) -> None:
        for number in range(AGENTS):
            self.lab.spec(f"a{number}", stop_timeout=2000.0)
            self.lab.program(f"a{number}").stop_takes_s = 1200.0  # a minute at the laboratory's pace

    def stop(self, number: int, channel: grpc.Channel) -> Any:
        """The stop of an agent that takes long, not waited for."""
        request = pb.AgentOperationRequest(agent_id=f"a{number}", operation="stop")
        return DaemonServiceStub(channel).OperateAgent.future(request, timeout=60)

    async def test_200_callers_at_the_same_time_are_answered_or_told_to_come_back(self) -> None:
        server = await self.serve()
        channels = [self.channel() for _ in range(20)]

        def work(number: int) -> Any:
            stub = DaemonServiceStub(channels[number % 20])
            answers = []
            for _ in range(5):
                try:
                    answers.append(len(stub.ListAgents(pb.ListAgentsRequest(), timeout=10).agents))
                except grpc.RpcError as error:
                    answers.append((error.code(), reason_of(error), retry_after(error)))
            return answers

        results = await deferToThread(Many(200, work).run)
        answers = [answer for result in results for answer in result]
        self.assertEqual(len(answers), 1000)
        kinds = set(answers)
        self.assertIn(AGENTS, kinds)
        self.assertLessEqual(kinds, {AGENTS, (Code.RESOURCE_EXHAUSTED, ("hostdaemon", "BUSY"), 1)})
        stats = server.stats()
        self.assertLessEqual(stats.threads, WORKERS + 1)
        self.assertEqual(sum(stats.calls_total.values()), 1000)
        await self.until(lambda: server.stats().in_flight == 0 and server.stats().waiting == 0, "the end of all")

    async def test_long_stops_starve_neither_reads_nor_each_other(self) -> None:
        server = await self.serve()
        channel = self.channel()
        calls = [self.stop(number, channel) for number in range(LONG_MAX)]
        await self.until(lambda: server.stats().waiting == LONG_MAX, "the stops")
        error = await self.refused(
            self.stub(channel).OperateAgent, pb.AgentOperationRequest(agent_id="a9", operation="stop")
        )
        self.assertEqual((error.code(), reason_of(error)[1], retry_after(error)), (Code.RESOURCE_EXHAUSTED, "BUSY", 5))
        stub, slowest = self.stub(channel), 0.0
        for _ in range(50):
            begun = time.monotonic()
            await self.ask(stub.ListAgents)
            slowest = max(slowest, time.monotonic() - begun)
        self.assertLess(slowest, 1.0)
        self.assertFalse(any(call.done() for call in calls))
        calls[0].cancel()  # one caller leaves: its place is free
        await self.until(lambda: server.stats().waiting == LONG_MAX - 1, "the place")
        late = self.stop(9, channel)
        await self.until(lambda: server.stats().waiting == LONG_MAX, "the late one")
        self.assertFalse(late.done())

    async def test_callers_that_vanish_free_their_workers_and_what_they_asked_for_goes_on(self) -> None:
        server = await self.serve()
        channel = self.channel()
        calls = [self.stop(number, channel) for number in range(4)]
        await self.until(lambda: server.stats().waiting == 4, "the stops")
        for call in calls[:2]:
            call.cancel()
        channel.close()  # the others lose their connection
        await self.until(lambda: server.stats().waiting == 0 and server.stats().in_flight == 0, "the workers")
        self.assertEqual(self.lab.life.agent("a1").state.value, "stopping")
        error = await self.refused(
            self.stub().OperateAgent, pb.AgentOperationRequest(agent_id="a5", operation="stop"), timeout=0.3
        )
        self.assertIs(error.code(), Code.DEADLINE_EXCEEDED)
        await self.until(lambda: server.stats().in_flight == 0, "the one with a deadline")
        self.lab.clock.advance(1300)
        await self.until(lambda: self.lab.life.agent("a5").state.value == "stopped", "its stop")
        self.assertTrue((await self.ask(self.stub().ListAgents)).agents)

    async def test_callers_that_say_nothing_are_sent_away(self) -> None:
        server = await self.serve()
        headers = bytes.fromhex("83 86 44")  # :method POST, :scheme http, :path ...
        path = b"/proto.DaemonService/ListAgents"
        block = headers + bytes([len(path)]) + path + b"\x41\x01x" + b"\x5f\x10application/grpc" + b"\x40\x02te\x08trailers"
        with unanswered(self.port) as client:
            for stream in range(1, 2 * (CALLS_MAX + 4), 2):
                client.sendall(len(block).to_bytes(3, "big") + b"\x01\x04" + stream.to_bytes(4, "big") + block)
            await self.until(lambda: server.stats().in_flight == CALLS_MAX, "every place to be held")
            error = await self.refused(self.stub().ListAgents)
            self.assertEqual((error.code(), reason_of(error)[1]), (Code.RESOURCE_EXHAUSTED, "BUSY"))
            deadlines: Any = server._listener.deadlines
            for context in tuple(deadlines._ends):
                deadlines._ends[context] -= 11.0  # ten seconds later
            deadlines.sweep()  # what the timer does every two seconds while somebody owes a message
            self.assertGreaterEqual(server.stats().slow_total, WORKERS)
        await self.until(lambda: server.stats().in_flight == 0, "the places")
        self.assertTrue((await self.ask(self.stub().ListAgents)).agents)

    async def test_a_stop_with_calls_in_flight_releases_all_within_a_second(self) -> None:
        server = await self.serve()
        channel = self.channel()
        calls = [self.stop(number, channel) for number in range(LONG_MAX)]
        await self.until(lambda: server.stats().waiting == LONG_MAX, "the stops")
        with unanswered(self.port):
            begun = time.monotonic()
            await server.stopService()
            self.assertLess(time.monotonic() - begun, 1.0)
        for call in calls:
            error = await deferToThread(call.exception)
            self.assertIs(error.code(), Code.UNAVAILABLE)
            self.assertEqual(reason_of(error)[1], "STOPPING")
        self.assertLess(time.monotonic() - begun, 1.0)
        self.assertEqual((server.stats().waiting, server.stats().in_flight), (0, 0))
        self.assertEqual(self.lab.life.agent("a0").state.value, "stopping")  # carried on by the daemon, not by us

    async def test_refusing_lets_calls_in_hand_end(self) -> None:
        server = await self.serve()
        channel = self.channel()
        call = self.stop(0, channel)
        await self.until(lambda: server.stats().waiting == 1, "the stop")
        server.refuse()
        error = await self.refused(self.stub(channel).ListAgents)
        self.assertEqual((error.code(), reason_of(error)[1]), (Code.UNAVAILABLE, "STOPPING"))
        self.lab.clock.advance(1200)
        answer = await deferToThread(call.result)
        self.assertTrue(answer.success)

    async def test_calls_during_the_stop_never_hang(self) -> None:
        server = await self.serve()

        def work(_number: int) -> Any:
            stub = DaemonServiceStub(channel)
            try:
                while True:
                    stub.ListAgents(pb.ListAgentsRequest(), timeout=10)
            except grpc.RpcError as error:
                return error.code()

        channel = self.channel()
        running = deferToThread(Many(20, work).run)
        await self.until(lambda: server.stats().calls_total.get(("ListAgents", "OK"), 0) > 50, "the calls")
        begun = time.monotonic()
        await server.stopService()
        codes = set(await running)
        self.assertLess(time.monotonic() - begun, 2.0)
        self.assertLessEqual(codes, {Code.UNAVAILABLE, Code.CANCELLED})
