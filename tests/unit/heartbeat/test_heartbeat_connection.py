"""One connection, from bytes to recorded heartbeats."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import LogLevel, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from daemon.heartbeat.connection import HeartbeatConnection
from daemon.heartbeat.framing import MAX_LENGTH
from daemon.heartbeat.socket_receiver import HeartbeatReceiver
from daemon.model.heartbeat import Heartbeat
from tests.fakes.directory import FakeDirectory, FakeEvents, FakePeer, FakeTarget
from tests.fakes.notify import FakeNotifier

NOW = 1_795_140_000.0
BEAT = b'{"pid":10,"timestamp":"2026-11-20T02:00:00Z","version":"1","status":"running","cpu":1.5,"memory":9}'
RECORDED = Heartbeat(pid=10, timestamp=NOW, version="1", status="running", cpu=1.5, memory=9)


def rpc(method: str, request_id: int | None = 7, **params: Any) -> bytes:
    request: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
    if request_id is not None:
        request["id"] = request_id
    if params:
        request["params"] = params
    return json.dumps(request).encode()


class SlowTarget(FakeTarget):
    """Each record takes a millisecond of the loop's time."""

    clock: Clock

    def record(self, beat: Heartbeat) -> None:
        super().record(beat)
        self.clock.rightNow += 0.001


class ConnectionCase(SynchronousTestCase):
    require_pid_match = True
    max_rate = 0
    connections_max = 100

    def setUp(self) -> None:
        self.clock = Clock()
        self.mine = FakeTarget("mine", 10, 11)
        self.other = FakeTarget("other", 20)
        self.directory = FakeDirectory(self.mine, self.other)
        self.events = FakeEvents()
        self.peer: FakePeer = FakePeer(10)
        self.receiver = HeartbeatReceiver(
            self.clock, lambda: NOW, self.directory, self.events, [], cores=2, max_rate=self.max_rate,
            require_pid_match=self.require_pid_match, connections_max=self.connections_max,
            peer_of=lambda _transport: self.peer, notifier=FakeNotifier(),
        )
        self.logged: list[Any] = []
        globalLogPublisher.addObserver(self.logged.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.logged.append)

    def connect(self, pid: int = 10) -> tuple[HeartbeatConnection, StringTransport]:
        self.peer = FakePeer(pid)
        connection = self.receiver.factory.buildProtocol(None)
        transport = StringTransport()
        connection.makeConnection(transport)
        return connection, transport

    def lose(self, connection: HeartbeatConnection) -> None:
        connection.connectionLost(Failure(ConnectionDone()))

    def warnings(self) -> list[Any]:
        return [event for event in self.logged if event["log_level"] is LogLevel.warn]

    def errors(self) -> dict[str, int]:
        return dict(self.receiver.stats().errors_total)

    def answers(self, transport: StringTransport) -> list[Any]:
        answers = [json.loads(line) for line in transport.value().splitlines()]
        transport.clear()
        return answers


class MessagesTest(ConnectionCase):
    def test_a_bare_heartbeat_is_recorded_and_not_answered(self) -> None:
        connection, transport = self.connect()
        connection.dataReceived(BEAT + b"\n")
        self.assertEqual(self.mine.beats, [RECORDED])
        self.assertEqual(transport.value(), b"")
        self.assertEqual(self.errors(), {})

    def test_an_object_without_a_line_end_is_recorded_as_soon_as_it_is_complete(self) -> None:
        connection, _ = self.connect()
        connection.dataReceived(BEAT[:-1])
        self.assertEqual(self.mine.beats, [])
        connection.dataReceived(b"}" + BEAT + BEAT)
        self.assertEqual(self.mine.beats, [RECORDED] * 3)

    def test_any_cutting_records_the_same(self) -> None:
        stream = BEAT + b"\n" + BEAT + BEAT + b"\nrubbish\n" + b'{"pid":\n10}\n' + BEAT + b"\r\n" + BEAT
        for size in (1, 2, 5, 17, 100, 1000):
            with self.subTest(size=size):
                connection, _ = self.connect()
                before = self.receiver.stats()
                self.mine.beats.clear()
                for start in range(0, len(stream), size):
                    connection.dataReceived(stream[start : start + size])
                    self.clock.advance(0)
                self.assertEqual(self.mine.beats, [RECORDED] * 5)
                after = self.receiver.stats()
                self.assertEqual(after.received_total - before.received_total, 8)
                self.assertEqual(after.accepted_total - before.accepted_total, 5)
                refused = sum(after.errors_total.values()) - sum(before.errors_total.values())
                self.assertEqual(refused, 3)

    def test_the_quick_and_the_careful_way_record_the_same(self) -> None:
        kinds = [
            b'{"pid":10,"cpu":1e9}', b'{"pid":10,"timestamp":"0001-01-01T00:00:00Z"}', b'{"pid":11}',
            b'{"pid":10,"agent_id":"mine","status":"stopping"}', b'{"pid":20}',
            b'{"pid":10,"agent_id":"other"}', b'{"pid":10,"memory":0,"cpu":0}',
        ]
        connection, _ = self.connect()
        connection.dataReceived(b"".join(kind + b"\n" for kind in kinds))
        quick, self.mine.beats = self.mine.beats, []
        self.assertEqual(self.errors(), {"foreign_pid": 1, "foreign_agent": 1})
        connection.dataReceived(b"".join(kinds))
        self.assertEqual(quick, self.mine.beats)
        self.assertEqual([beat.cpu for beat in quick], [200.0, None, None, None, 0.0])
        self.assertEqual({beat.timestamp for beat in quick}, {NOW})
        self.assertEqual(self.errors(), {"foreign_pid": 2, "foreign_agent": 2})
        self.assertEqual(self.receiver.stats().accepted_total, 10)
        self.assertEqual(self.other.beats, [])

    def test_a_bad_line_is_counted_and_logged_once_a_minute_and_the_connection_stays(self) -> None:
        connection, transport = self.connect()
        for _ in range(5):
            connection.dataReceived(b"\x00\xff\n" + b'{"pid":0}\n')
        self.assertEqual(self.errors(), {"malformed": 5, "invalid": 5})
        self.assertEqual(len(self.warnings()), 1)
        self.clock.advance(60)
        connection.dataReceived(b"nonsense\n" + BEAT + b"\n")
        self.assertEqual([event["kept_back"] for event in self.warnings()], [0, 9])
        self.assertEqual(self.mine.beats, [RECORDED])
        self.assertEqual(transport.value(), b"")
        self.assertFalse(transport.disconnecting)

    def test_an_overlong_message_ends_the_connection_and_nothing_after_it_counts(self) -> None:
        connection, transport = self.connect()
        connection.dataReceived(BEAT + b"x" * (MAX_LENGTH + 1) + b"\n" + BEAT)
        self.assertTrue(transport.disconnecting)
        connection.dataReceived(BEAT + b"\n")
        self.lose(connection)
        self.assertEqual(self.mine.beats, [RECORDED])
        self.assertEqual(self.errors(), {"too_long": 1})

    def test_a_connection_that_ends_within_a_message_is_counted(self) -> None:
        connection, _ = self.connect()
        connection.dataReceived(BEAT + b'{"pid"')
        self.lose(connection)
        self.assertEqual(self.errors(), {"truncated": 1})
        self.assertEqual(self.receiver.stats().connections, 0)

    def test_a_record_that_fails_costs_that_heartbeat_only(self) -> None:
        connection, transport = self.connect()
        self.mine.failing = RuntimeError("broken")
        connection.dataReceived((BEAT + b"\n") * 3)
        connection.dataReceived(BEAT + BEAT)
        self.assertEqual(self.errors(), {"internal": 5})
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.mine.failing = None
        connection.dataReceived(BEAT + b"\n")
        self.assertEqual(self.mine.beats, [RECORDED])
        self.assertFalse(transport.disconnecting)


class PeerRulesTest(ConnectionCase):
    def test_a_stranger_is_heard_by_nobody_and_told_once(self) -> None:
        connection, transport = self.connect(pid=99)
        for _ in range(3):
            connection.dataReceived(b'{"pid":10,"agent_id":"mine"}\n{"pid":20}\n')
        self.assertEqual(self.mine.beats + self.other.beats, [])
        self.assertEqual(self.errors(), {"stranger": 6})
        self.assertEqual([event.agent_id for event in self.events.published], ["mine"])
        self.assertEqual(self.events.published[0].data, {"reason": "stranger", "pid": 99, "uid": 1000})
        self.assertEqual(len(self.warnings()), 1)
        self.assertFalse(transport.disconnecting)

    def test_an_agent_does_not_speak_for_another(self) -> None:
        connection, _ = self.connect(pid=20)
        connection.dataReceived(BEAT + b"\n" + b'{"pid":20,"agent_id":"mine"}\n' + rpc("heartbeat", pid=10))
        self.assertEqual(self.mine.beats + self.other.beats, [])
        self.assertEqual(self.errors(), {"foreign_pid": 2, "foreign_agent": 1})

    def test_an_event_names_only_agents_that_exist(self) -> None:
        connection, _ = self.connect(pid=99)
        connection.dataReceived(b'{"pid":10,"agent_id":"<script>"}\n')
        self.assertEqual([event.agent_id for event in self.events.published], [""])

    def test_a_peer_the_kernel_does_not_name_is_turned_away(self) -> None:
        def nobody(_transport: object) -> FakePeer:
            raise OSError("not a socket")

        receiver = HeartbeatReceiver(
            self.clock, lambda: NOW, self.directory, self.events, [], peer_of=nobody,
            notifier=FakeNotifier(),
        )
        connection = receiver.factory.buildProtocol(None)
        transport = StringTransport()
        connection.makeConnection(transport)
        connection.dataReceived(BEAT)
        self.assertTrue(transport.disconnecting)
        self.lose(connection)
        self.assertEqual(self.mine.beats, [])
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)


class RelaxedTest(ConnectionCase):
    require_pid_match = False

    def test_an_unknown_peer_speaks_for_the_agent_it_names(self) -> None:
        connection, _ = self.connect(pid=0)
        connection.dataReceived(b'{"pid":1,"agent_id":"mine"}\n{"pid":1,"agent_id":"other"}\n{"pid":1}\n')
        connection.dataReceived(b'{"pid":1,"agent_id":"nobody"}\n')
        self.assertEqual((len(self.mine.beats), len(self.other.beats)), (1, 1))
        self.assertEqual(self.errors(), {"unnamed": 1, "unknown_agent": 1})


class JsonRpcTest(ConnectionCase):
    def test_heartbeat_and_ping_are_answered_with_our_time(self) -> None:
        connection, transport = self.connect()
        connection.dataReceived(rpc("heartbeat", 1, pid=10) + b"\n" + rpc("ping", 2))
        result = {"success": True, "timestamp": "2026-11-20T02:00:00.000Z"}
        self.assertEqual(transport.value().count(b"\n"), 2)
        self.assertEqual(
            self.answers(transport),
            [{"jsonrpc": "2.0", "id": 1, "result": result}, {"jsonrpc": "2.0", "id": 2, "result": result}],
        )
        self.assertEqual([beat.pid for beat in self.mine.beats], [10])

    def test_notifications_are_carried_out_and_not_answered(self) -> None:
        connection, transport = self.connect()
        connection.dataReceived(rpc("heartbeat", None, pid=10) + rpc("heartbeat", None, pid=20) + b"\n")
        self.assertEqual(transport.value(), b"")
        self.assertEqual(len(self.mine.beats), 1)

    def test_errors_have_their_codes(self) -> None:
        connection, transport = self.connect()
        for message, code in [
            (b'{"jsonrpc":"2.0","id":7,\n', -32700),
            (b'[{"jsonrpc":"2.0","id":7,"method":"ping"}]', -32600),
            (rpc("shutdown"), -32601),
            (rpc("heartbeat"), -32602),
            (rpc("heartbeat", pid=0), -32602),
            (rpc("heartbeat", pid=20), -32000),
            (rpc("heartbeat", pid=10, agent_id="other"), -32000),
        ]:
            with self.subTest(message=message):
                connection.dataReceived(message)
                (answer,) = self.answers(transport)
                self.assertEqual(answer["error"]["code"], code)
                d_code = {"code": "D3003"} if code == -32000 else None
                self.assertEqual(answer["error"].get("data"), d_code)
        self.assertFalse(transport.disconnecting)

    def test_a_bare_heartbeat_that_mentions_the_word_is_recorded(self) -> None:
        connection, transport = self.connect()
        connection.dataReceived(b'{"pid":10,"status":"jsonrpc"}\n')
        self.assertEqual([beat.status for beat in self.mine.beats], ["jsonrpc"])
        self.assertEqual(transport.value(), b"")

    def test_a_request_we_fail_to_carry_out_is_answered_all_the_same(self) -> None:
        connection, transport = self.connect()
        self.mine.failing = RuntimeError("broken")
        connection.dataReceived(rpc("heartbeat", pid=10))
        (answer,) = self.answers(transport)
        self.assertEqual((answer["id"], answer["error"]["code"]), (7, -32603))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_broken_text_without_the_word_is_not_answered(self) -> None:
        connection, transport = self.connect()
        connection.dataReceived(b'{"id":7,"method":"ping",\n[1]\n')
        self.assertEqual(transport.value(), b"")

    def test_a_client_that_does_not_read_is_not_read_from(self) -> None:
        connection, transport = self.connect()
        connection.dataReceived(rpc("ping"))
        self.assertIs(transport.producer, connection)
        connection.pauseProducing()
        self.assertEqual(transport.producerState, "paused")
        transport.clear()
        connection.dataReceived(rpc("ping") * 3)
        self.assertEqual(transport.value(), b"")
        connection.resumeProducing()
        self.assertEqual(len(self.answers(transport)), 3)
        self.assertEqual(transport.producerState, "producing")

    def test_a_half_closed_connection_gets_its_answers_and_ends(self) -> None:
        connection, transport = self.connect()
        connection.dataReceived(rpc("ping"))
        connection.readConnectionLost()
        self.assertEqual(len(self.answers(transport)), 1)
        self.assertTrue(transport.disconnecting)
        self.assertIsNone(transport.producer)
        connection.writeConnectionLost()
        connection.stopProducing()
        self.lose(connection)
        self.assertEqual(self.errors(), {})


class TurnsTest(ConnectionCase):
    def setUp(self) -> None:
        super().setUp()
        self.slow = SlowTarget("slow", 30)
        self.slow.clock = self.clock
        self.directory.agents["slow"] = self.slow

    def test_a_flooding_writer_waits_while_others_are_heard(self) -> None:
        flood, flooding = self.connect(pid=30)
        quiet, _ = self.connect(pid=10)
        flood.dataReceived(b'{"pid":30}\n' * 4000)
        self.assertLess(len(self.slow.beats), 4000)
        self.assertEqual(flooding.producerState, "paused")
        seen = len(self.slow.beats)
        quiet.dataReceived(BEAT + b"\n")
        self.clock.advance(0)
        self.assertEqual(self.mine.beats, [RECORDED])
        self.assertGreater(len(self.slow.beats), seen)
        self.assertEqual(len(self.slow.beats), 4000)
        self.assertEqual(flooding.producerState, "producing")

    def test_what_a_waiting_connection_had_sent_is_recorded_when_it_ends(self) -> None:
        flood, _ = self.connect(pid=30)
        flood.dataReceived(b'{"pid":30}\n' * 4000 + b'{"pid":30,"status":"stopping"}\n')
        self.lose(flood)
        self.assertEqual(len(self.slow.beats), 4001)
        self.assertEqual(self.slow.beats[-1].status, "stopping")
        self.clock.advance(1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_many_bad_messages_end_a_turn_too(self) -> None:
        connection, transport = self.connect(pid=30)
        self.slow.clock = self.clock
        connection.dataReceived(b'{"pid":30,"x":{}}' * 900)
        self.assertEqual(len(self.slow.beats), 64)
        self.assertEqual(transport.producerState, "paused")


class RateTest(ConnectionCase):
    max_rate = 10

    def test_a_connection_is_read_no_faster_than_its_rate(self) -> None:
        connection, transport = self.connect()
        connection.dataReceived((BEAT + b"\n") * 25)
        self.assertEqual(len(self.mine.beats), 10)
        self.assertEqual(transport.producerState, "paused")
        for expected in (20, 25):
            for _ in range(21):
                self.clock.advance(0.05)
            self.assertEqual(len(self.mine.beats), expected)
        self.assertEqual(transport.producerState, "producing")

    def test_quiet_connections_save_up_one_second_at_most(self) -> None:
        connection, _ = self.connect()
        self.clock.advance(3600)
        connection.dataReceived((BEAT + b"\n") * 25)
        self.assertEqual(len(self.mine.beats), 10)

    def test_what_waited_is_recorded_when_the_connection_ends(self) -> None:
        connection, _ = self.connect()
        connection.dataReceived((BEAT + b"\n") * 25)
        self.lose(connection)
        self.assertEqual(len(self.mine.beats), 25)
        self.clock.advance(0)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class CrowdTest(ConnectionCase):
    connections_max = 3

    def test_too_many_of_one_are_refused_and_counted(self) -> None:
        transports = [self.connect(pid=99)[1] for _ in range(5)]
        self.assertEqual([transport.disconnecting for transport in transports], [False] * 3 + [True] * 2)
        stats = self.receiver.stats()
        self.assertEqual((stats.connections, stats.connections_total, stats.refused_total), (3, 5, 2))
        self.assertEqual(len(self.warnings()), 1)

    def test_an_agent_gets_in_and_what_the_evicted_had_sent_counts(self) -> None:
        held = [self.connect(pid=10) for _ in range(3)]
        held[2][0].dataReceived(BEAT[:-1])
        connection, transport = self.connect(pid=20)
        connection.dataReceived(b'{"pid":20}\n')
        self.assertEqual(len(self.other.beats), 1)
        self.assertFalse(transport.disconnecting)
        self.assertTrue(held[2][1].disconnecting)
        self.assertEqual(self.receiver.stats().refused_total, 1)


class StopTest(ConnectionCase):
    max_rate = 1

    def test_stop_records_what_had_arrived_and_waits_for_the_connections(self) -> None:
        connection, transport = self.connect()
        connection.dataReceived((BEAT + b"\n") * 5 + b'{"pid"')
        done = self.receiver.stopService()
        self.clock.advance(0)
        self.assertEqual(len(self.mine.beats), 5)
        self.assertEqual(self.errors(), {"truncated": 1})
        self.assertTrue(transport.disconnecting)
        self.assertNoResult(done)
        self.lose(connection)
        self.successResultOf(done)
        self.clock.advance(0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stop_and_a_half_close_together_end_a_connection_once(self) -> None:
        connection, _ = self.connect()
        connection.dataReceived(b'{"pid"')
        connection.readConnectionLost()
        done = self.receiver.stopService()
        self.clock.advance(0)
        self.lose(connection)
        self.successResultOf(done)
        self.assertEqual(self.errors(), {"truncated": 1})

    def test_stop_aborts_who_lingers(self) -> None:
        connection, transport = self.connect()
        connection.dataReceived(rpc("ping"))
        done = self.receiver.stopService()
        self.clock.advance(0)
        self.assertFalse(transport.disconnected)
        self.clock.advance(1)
        self.assertTrue(transport.disconnected)
        self.lose(connection)
        self.successResultOf(done)
