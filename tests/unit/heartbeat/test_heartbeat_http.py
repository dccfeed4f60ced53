"""``POST /heartbeat`` behind its route: every status of the contract, the queue and its workers."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from daemon.heartbeat.framing import MAX_LENGTH
from daemon.heartbeat.http_receiver import HeartbeatAnswer, HTTPHeartbeatReceiver, Record
from daemon.interfaces import HeartbeatTarget
from daemon.model.heartbeat import Heartbeat
from tests.fakes.directory import FakeDirectory, FakeTarget

NOW = 1_795_140_000.0


def body(**changes: Any) -> bytes:
    said = {"agent_id": "mine", "pid": 10, "status": "running", "cpu": 1.5, "memory": 9,
            "timestamp": "2026-11-20T02:00:00Z"}
    return json.dumps({key: value for key, value in (said | changes).items() if value != "absent"}).encode()


class Held:
    """A record that holds its worker until it is let go."""

    def __init__(self) -> None:
        self.under_way: list[Deferred[None]] = []

    async def __call__(self, target: HeartbeatTarget, beat: Heartbeat) -> None:
        waiting: Deferred[None] = Deferred()
        self.under_way.append(waiting)
        await waiting
        target.record(beat)

    def let_go(self) -> None:
        self.under_way.pop(0).callback(None)


class HttpCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.mine = FakeTarget("mine", 10, 11)
        self.other = FakeTarget("other", 20)
        self.directory = FakeDirectory(self.mine, self.other)

    def receiver(self, *, started: bool = True, **named: Any) -> HTTPHeartbeatReceiver:
        receiver = HTTPHeartbeatReceiver(self.clock, lambda: NOW, self.directory, cores=2, **named)
        if started:
            receiver.startService()
        return receiver

    def turn(self) -> None:
        """One turn of the loop, where Clock.advance would run all that follow too."""
        due, self.clock.calls = self.clock.calls, []
        for call in due:
            call.func(*call.args, **call.kw)


class StatusTest(HttpCase):
    def test_an_accepted_heartbeat_is_answered_at_once_and_recorded_in_the_next_turn(self) -> None:
        receiver = self.receiver()
        answer = receiver.submit(body())
        self.assertEqual(
            answer,
            HeartbeatAnswer(status=200, success=True, message="heartbeat accepted",
                            timestamp="2026-11-20T02:00:00.000Z"),
        )
        self.assertEqual(
            answer.body(),
            b'{"success":true,"message":"heartbeat accepted","timestamp":"2026-11-20T02:00:00.000Z"}',
        )
        self.assertEqual(self.mine.beats, [])
        self.turn()
        self.assertEqual(
            self.mine.beats, [Heartbeat(pid=10, timestamp=NOW, status="running", cpu=1.5, memory=9)]
        )

    def test_refusals_have_their_status_and_say_why(self) -> None:
        receiver = self.receiver()
        for text, status, word in [
            (b"", 400, "truncated"),
            (b"\xff\x00", 400, "malformed"),
            (b"[" * 16000, 400, "object"),
            (b'{"x":' + b"[" * 16000, 400, "deep"),
            (body(pid="absent"), 400, "pid"),
            (body(pid=0), 400, "pid"),
            (body(cpu=-1), 400, "cpu"),
            (body(memory="9"), 400, "memory"),
            (body(agent_id="nobody"), 400, "nobody"),
            (body(agent_id="other"), 403, "10"),
            (body(pid=20), 403, "mine"),
            (body(pid=99), 403, "99"),
            (body() + b" " * MAX_LENGTH, 413, "16384"),
        ]:
            with self.subTest(text=text[:60]):
                answer = receiver.submit(text)
                self.assertEqual((answer.status, answer.success, answer.retry_after_s), (status, False, None))
                self.assertIn(word, answer.message)
                self.assertEqual(set(json.loads(answer.body())), {"success", "message", "timestamp"})
        self.turn()
        self.assertEqual(self.mine.beats + self.other.beats, [])

    def test_the_longest_body_passes(self) -> None:
        self.assertEqual(self.receiver().submit(body().ljust(MAX_LENGTH)).status, 200)

    def test_an_unreadable_timestamp_is_replaced_by_our_clock(self) -> None:
        receiver = self.receiver()
        for timestamp in ("absent", None, "later", 7):
            self.assertEqual(receiver.submit(body(timestamp=timestamp)).status, 200)
        self.turn()
        self.assertEqual([beat.timestamp for beat in self.mine.beats], [NOW] * 4)

    def test_before_the_start_and_while_stopping_everything_is_refused(self) -> None:
        receiver = self.receiver(started=False)
        self.assertEqual(receiver.submit(body()).status, 503)
        receiver.startService()
        self.assertEqual(receiver.submit(body()).status, 200)
        receiver.stopService()
        for text in (body(), b"rubbish"):
            answer = receiver.submit(text)
            self.assertEqual((answer.status, answer.success), (503, False))
            self.assertGreater(answer.retry_after_s or 0, 0)

    def test_the_edge_gets_the_same_form_for_what_it_refuses_itself(self) -> None:
        receiver = self.receiver()
        answer = receiver.refuse(405, "use POST")
        self.assertEqual((answer.status, answer.success, answer.message), (405, False, "use POST"))
        self.assertEqual(receiver.stats().total_errors, 1)


class QueueTest(HttpCase):
    def accepted(self, receiver: HTTPHeartbeatReceiver, count: int) -> int:
        return sum(receiver.submit(body()).status == 200 for _ in range(count))

    def test_a_full_queue_answers_503_at_once_to_everybody(self) -> None:
        held = Held()
        receiver = self.receiver(workers=1, queue_size=10, record=held)
        self.assertEqual(self.accepted(receiver, 1), 1)
        self.turn()  # the one worker takes it, and is held
        self.assertEqual(self.accepted(receiver, 10), 10)
        for _ in range(201):
            answer = receiver.submit(body())
            self.assertEqual((answer.status, answer.retry_after_s), (503, 1))
        self.turn()
        self.assertEqual(receiver.stats().queue_depth, 10)
        self.assertEqual(len(held.under_way), 1)
        for _ in range(11):
            held.let_go()
            self.turn()
        self.assertEqual(len(self.mine.beats), 11)
        self.assertEqual(self.accepted(receiver, 11), 10)

    def test_workers_take_one_each_in_a_turn(self) -> None:
        receiver = self.receiver(workers=3, queue_size=100)
        self.accepted(receiver, 8)
        seen = []
        for _ in range(4):
            self.turn()
            seen.append(len(self.mine.beats))
        self.assertEqual(seen, [3, 6, 8, 8])
        self.assertEqual(self.clock.calls, [])

    def test_a_held_worker_does_not_hold_the_others(self) -> None:
        held = Held()

        def record(target: HeartbeatTarget, beat: Heartbeat) -> Any:
            return held(target, beat) if beat.status == "slow" else target.record(beat)

        receiver = self.receiver(workers=2, record=record)
        receiver.submit(body(status="slow"))
        self.accepted(receiver, 5)
        for _ in range(6):
            self.turn()
        self.assertEqual(len(self.mine.beats), 5)
        held.let_go()
        self.assertEqual(len(self.mine.beats), 6)

    def test_a_record_that_fails_is_counted_and_the_next_one_goes_on(self) -> None:
        def broken(_target: HeartbeatTarget, beat: Heartbeat) -> None:
            raise RuntimeError(beat.status)

        async def broken_later(_target: HeartbeatTarget, beat: Heartbeat) -> None:
            raise RuntimeError(beat.status)

        records: list[Record] = [broken, broken_later]
        for record in records:
            receiver = self.receiver(workers=1, record=record)
            self.accepted(receiver, 3)
            for _ in range(3):
                self.turn()
            self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 3)
            stats = receiver.stats()
            self.assertEqual((stats.total_processed, stats.total_errors, stats.queue_depth), (0, 3, 0))

    def test_stop_waits_until_what_was_accepted_is_recorded(self) -> None:
        held = Held()
        receiver = self.receiver(workers=1, record=held)
        self.accepted(receiver, 2)
        self.turn()
        done = receiver.stopService()
        held.let_go()
        self.turn()
        self.assertNoResult(done)
        held.let_go()
        self.successResultOf(done)
        self.assertEqual(len(self.mine.beats), 2)
        self.assertEqual(self.clock.calls, [])

    def test_stop_with_nothing_to_do_is_done(self) -> None:
        self.successResultOf(self.receiver().stopService())

    def test_a_cancelled_stop_gives_up_what_waits(self) -> None:
        held = Held()
        receiver = self.receiver(workers=1, record=held)
        self.accepted(receiver, 3)
        self.turn()
        done = receiver.stopService()
        done.cancel()
        self.failureResultOf(done, CancelledError)
        held.let_go()
        self.assertEqual(receiver.stats().total_errors, 2)
        self.assertEqual(receiver.stats().queue_depth, 0)
        self.assertEqual(len(self.mine.beats), 1)

    def test_a_stop_cancelled_before_the_first_turn_leaves_no_timer(self) -> None:
        receiver = self.receiver()
        self.accepted(receiver, 3)
        done = receiver.stopService()
        done.cancel()
        self.failureResultOf(done, CancelledError)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class StatsTest(HttpCase):
    def test_stats_have_exactly_the_keys_of_the_contract(self) -> None:
        receiver = self.receiver(workers=4, queue_size=7)
        stats = receiver.stats()
        self.assertEqual(
            stats.__struct_fields__,
            ("total_received", "total_processed", "total_errors", "last_received_time", "average_latency",
             "queue_depth", "queue_size", "workers"),
        )
        self.assertEqual((stats.last_received_time, stats.average_latency), (None, 0.0))
        self.assertEqual((stats.queue_size, stats.workers), (7, 4))

    def test_stats_add_up(self) -> None:
        receiver = self.receiver(workers=1)
        for text in (body(), body(), b"rubbish"):
            receiver.submit(text)
        self.clock.rightNow += 0.5
        self.turn()
        stats = receiver.stats()
        self.assertEqual(
            (stats.total_received, stats.total_processed, stats.total_errors, stats.queue_depth), (3, 1, 1, 1)
        )
        self.assertEqual(stats.last_received_time, "2026-11-20T02:00:00.000Z")
        self.assertAlmostEqual(stats.average_latency, 0.5)
        self.clock.rightNow += 1
        self.turn()
        self.assertAlmostEqual(receiver.stats().average_latency, 1.0)
