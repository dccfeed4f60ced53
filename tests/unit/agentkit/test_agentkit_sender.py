"""The heartbeat library on a host in memory."""

from __future__ import annotations

from typing import Any

import pytest
from agentkit_fakes import FakeDaemon, FakeHost
from twisted.internet.defer import Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase

from daemon.agentkit.channel import NotDelivered, UnixChannel
from daemon.agentkit.sender import HeartbeatSender, SenderSettings, retry_delay_s
from daemon.agentkit.usage import OwnUsage

PATH = "/run/h.sock"


@pytest.mark.parametrize(
    ("attempt", "interval_s", "unit", "want"),
    [(0, 30, 0.0, 0.25), (0, 30, 1.0, 0.5), (3, 30, 1.0, 4.0), (9, 30, 1.0, 30.0), (9, 3600, 1.0, 30.0),
     (9, 5, 1.0, 5.0), (9, 0.1, 1.0, 1.0), (10_000, 30, 0.0, 15.0)],
)
def test_retry_delay_doubles_up_to_the_interval_and_half_of_it_is_chance(
    attempt: int, interval_s: float, unit: float, want: float
) -> None:
    assert retry_delay_s(attempt, interval_s, unit) == want


class SenderTests(SynchronousTestCase):
    """One sender and its daemons."""

    def setUp(self) -> None:
        self.host = FakeHost()
        self.daemon = FakeDaemon()
        self.good: list[float] = []
        self.bad: list[str] = []

    def sender(self, **changes: Any) -> HeartbeatSender:
        settings = SenderSettings(**{"socket_path": PATH, "interval_s": 30.0, "version": "1.2", **changes})
        usage = OwnUsage(self.host, cpu_seconds=lambda: 0.0, statm=lambda: "1 5", page_bytes=2)
        return HeartbeatSender(
            self.host, lambda: 1000.0 + self.host.seconds(), settings, usage=usage, pid=77,
            on_success=lambda: self.good.append(self.host.seconds()), on_failure=self.bad.append,
            random_unit=lambda: 1.0,
        )

    def started(self, **changes: Any) -> HeartbeatSender:
        sender = self.sender(**changes)
        sender.start()
        self.host.settle()
        return sender

    def stopped(self, sender: HeartbeatSender, seconds: float = 1.5) -> None:
        done = Deferred.fromCoroutine(sender.stop())
        self.host.settle(seconds)
        self.successResultOf(done)
        self.assertEqual(self.host.getDelayedCalls(), [])

    def test_the_first_heartbeat_goes_out_at_once(self) -> None:
        self.host.daemons[PATH] = self.daemon
        sender = self.started(agent_id="a")
        self.assertEqual(self.host.seconds(), 0.0)
        self.assertEqual(self.daemon.messages, [{
            "pid": 77, "timestamp": "1970-01-01T00:16:40.000Z", "version": "1.2", "status": "running",
            "cpu": 0.0, "memory": 10, "agent_id": "a",
        }])
        self.assertEqual(sender.stats.delivered_total, 1)
        self.stopped(sender)

    def test_one_follows_each_interval_on_the_same_connection(self) -> None:
        self.host.daemons[PATH] = self.daemon
        sender = self.started()
        self.host.settle(90.5)
        self.assertEqual(len(self.daemon.messages), 4)
        self.assertEqual(self.daemon.connections_total, 1)
        self.assertEqual([round(at) for at in self.good], [0, 30, 60, 90])
        self.assertNotIn("agent_id", self.daemon.messages[0])
        self.stopped(sender)

    def test_without_a_daemon_it_keeps_trying_and_reaches_a_late_one(self) -> None:
        sender = self.started()
        self.host.settle(100)
        tries = len(self.bad)
        self.assertTrue(5 <= tries <= 10, tries)
        self.assertEqual(sender.stats.failures_total, tries)
        self.assertIn("No such file", self.bad[0])
        self.assertAlmostEqual(sender.stats.silent_s, 100, delta=0.2)
        self.host.daemons[PATH] = self.daemon
        self.host.settle(30.1)
        self.assertEqual(len(self.daemon.messages), 1)
        self.assertLess(sender.stats.silent_s, 30)
        self.stopped(sender)

    def test_a_daemon_that_returns_hears_soon(self) -> None:
        self.host.daemons[PATH] = self.daemon
        sender = self.started()
        self.host.settle(35)
        del self.host.daemons[PATH]
        self.daemon.hang_up()
        self.assertEqual(self.bad, [])
        self.host.settle(0.3)
        self.host.daemons[PATH] = successor = FakeDaemon()
        self.host.settle(0.5)
        self.assertEqual(len(successor.messages), 1)
        self.assertEqual(sender.stats.failures_total, 0)
        self.stopped(sender)

    def test_a_daemon_that_hangs_up_each_time_is_not_stormed(self) -> None:
        self.host.daemons[PATH] = self.daemon
        sender = self.started()
        for _ in range(600):
            self.daemon.hang_up()
            self.host.settle(0.1)
        self.assertLess(self.daemon.connections_total, 9)
        self.stopped(sender)

    def test_earlier_failures_are_forgotten_after_ten_good_seconds(self) -> None:
        sender = self.started()
        self.host.settle(60)
        self.host.daemons[PATH] = self.daemon
        self.host.settle(60)
        del self.host.daemons[PATH]
        self.daemon.hang_up()
        before = len(self.bad)
        self.host.settle(0.6)
        self.assertEqual(len(self.bad), before + 1)
        self.stopped(sender)

    def test_a_daemon_that_never_reads_makes_nothing_grow(self) -> None:
        self.daemon.reads = False
        self.host.daemons[PATH] = self.daemon
        sender = self.started(interval_s=1.0)
        self.host.settle(300)
        (line,) = self.daemon.connections
        self.assertEqual(line.waiting.count(b"\n"), 1)
        self.assertEqual(sender.stats.delivered_total, 0)
        self.assertTrue(298 <= sender.stats.skipped_total <= 300, sender.stats)
        self.assertEqual(sender.stats.failures_total, sender.stats.skipped_total)
        self.assertIn("does not read", self.bad[0])
        self.assertEqual(self.daemon.connections_total, 1)
        self.daemon.reads = True
        line.flush()
        self.host.settle(1.1)
        self.assertGreaterEqual(len(self.daemon.messages), 2)
        self.assertEqual(sender.stats.delivered_total, len(self.daemon.messages))
        self.stopped(sender)

    def test_stopping_is_the_last_word_and_comes_before_the_end(self) -> None:
        self.host.daemons[PATH] = self.daemon
        sender = self.started()
        self.stopped(sender)
        self.assertEqual([m["status"] for m in self.daemon.messages], ["running", "stopping"])
        self.assertEqual(self.daemon.connections, [])
        self.assertEqual(sender.status, "stopping")

    def test_the_heartbeat_under_way_is_brought_over_before_the_last_word(self) -> None:
        self.daemon.reads = False
        self.host.daemons[PATH] = self.daemon
        sender = self.started()
        done = Deferred.fromCoroutine(sender.stop())
        self.host.settle(0.5)
        self.daemon.reads = True
        self.daemon.connections[0].flush()
        self.host.settle()
        self.successResultOf(done)
        self.assertEqual([m["status"] for m in self.daemon.messages], ["running", "stopping"])

    def test_the_end_takes_a_second_at_most_whatever_the_daemon_does(self) -> None:
        self.daemon.reads = False
        self.host.daemons[PATH] = self.daemon
        sender = self.started()
        done = Deferred.fromCoroutine(sender.stop())
        self.host.settle(0.9)
        self.assertNoResult(done)
        self.host.settle(0.2)
        self.successResultOf(done)
        self.assertEqual(self.daemon.connections, [])
        self.assertEqual(self.host.getDelayedCalls(), [])

    def test_a_socket_that_nobody_reads_any_more_does_not_hold_the_orderly_end(self) -> None:
        self.host.daemons[PATH] = self.daemon
        self.daemon.deaf_after = b"stopping"
        sender = self.started()
        done = Deferred.fromCoroutine(sender.stop())
        self.host.settle(0.9)
        self.assertNoResult(done)
        self.assertEqual(self.daemon.messages[-1]["status"], "stopping")
        self.host.settle(0.3)
        self.successResultOf(done)

    def test_without_a_daemon_the_end_is_quick(self) -> None:
        sender = self.started()
        failures = len(self.bad)
        done = Deferred.fromCoroutine(sender.stop())
        self.host.settle()
        self.successResultOf(done)
        self.assertEqual(len(self.bad), failures)
        self.assertEqual(self.host.getDelayedCalls(), [])

    def test_an_end_during_the_wait_for_a_retry_still_tells_a_daemon_that_is_back(self) -> None:
        sender = self.started()
        self.host.settle(20)
        self.host.daemons[PATH] = self.daemon
        self.stopped(sender)
        self.assertEqual([m["status"] for m in self.daemon.messages], ["stopping"])

    def test_a_second_stop_and_a_stop_without_start_are_harmless(self) -> None:
        sender = self.sender()
        self.successResultOf(Deferred.fromCoroutine(sender.stop()))
        with self.assertRaises(RuntimeError):
            sender.start()
        other = self.started()
        self.stopped(other)
        self.stopped(other)

    def test_it_starts_once(self) -> None:
        sender = self.started()
        with self.assertRaises(RuntimeError):
            sender.start()
        self.stopped(sender)

    def test_another_interval_counts_from_now(self) -> None:
        self.host.daemons[PATH] = self.daemon
        sender = self.started()
        sender.reconfigure(SenderSettings(socket_path=PATH, interval_s=5.0, version="2"))
        self.host.settle(10.1)
        self.assertEqual([m["version"] for m in self.daemon.messages], ["1.2", "2", "2", "2"])
        self.assertEqual(self.daemon.connections_total, 1)
        self.stopped(sender)

    def test_another_socket_gets_a_heartbeat_at_once_and_the_old_one_is_left(self) -> None:
        self.host.daemons[PATH] = self.daemon
        self.host.daemons["/other"] = other = FakeDaemon()
        sender = self.started()
        sender.reconfigure(SenderSettings(socket_path="/other"))
        self.host.settle()
        self.assertEqual((len(self.daemon.messages), len(other.messages)), (1, 1))
        self.assertEqual(self.daemon.connections, [])
        self.stopped(sender)

    def test_leaving_a_socket_that_is_not_read_holds_up_nothing(self) -> None:
        self.daemon.reads = False
        self.host.daemons[PATH] = self.daemon
        self.host.daemons["/other"] = other = FakeDaemon()
        sender = self.started()
        sender.reconfigure(SenderSettings(socket_path="/other"))
        self.host.settle()
        self.assertEqual(len(other.messages), 1)
        self.assertEqual(sender.stats.failures_total, 0)
        self.host.settle(1.1)
        self.assertEqual(self.daemon.connections, [])
        self.stopped(sender)

    def test_reconfiguring_before_the_start_only_takes_note(self) -> None:
        self.host.daemons["/other"] = self.daemon
        sender = self.sender()
        sender.reconfigure(SenderSettings(socket_path="/other"))
        self.assertEqual(self.host.getDelayedCalls(), [])
        sender.start()
        self.host.settle()
        self.assertEqual(len(self.daemon.messages), 1)
        self.stopped(sender)

    def test_answers_are_read_and_dropped(self) -> None:
        self.host.daemons[PATH] = self.daemon
        sender = self.started()
        for _ in range(100):
            self.daemon.connections[0].protocol.dataReceived(b"x" * 65536)
        self.host.settle(30.1)
        self.assertEqual(len(self.daemon.messages), 2)
        self.stopped(sender)

    def test_a_callback_that_raises_is_logged_and_ends_nothing(self) -> None:
        self.host.daemons[PATH] = self.daemon
        settings = SenderSettings(socket_path=PATH, interval_s=1.0)
        sender = HeartbeatSender(self.host, lambda: 0.0, settings, on_success=lambda: 1 / 0)
        sender.start()
        self.host.settle(2.1)
        self.assertEqual(len(self.daemon.messages), 3)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 3)
        self.stopped(sender)
        self.flushLoggedErrors(ZeroDivisionError)

    def test_a_bug_in_a_channel_is_logged_and_the_next_heartbeat_comes(self) -> None:
        class Broken:
            target = "broken"
            calls = 0

            def deliver(self, payload: bytes) -> Deferred[None]:
                Broken.calls += 1
                raise LookupError

            def close(self, within_s: float) -> Deferred[None]:
                return fail(LookupError())

        sender = HeartbeatSender(
            self.host, lambda: 0.0, SenderSettings(socket_path=PATH, interval_s=1.0),
            channels=lambda _reactor, _settings, _lost: Broken(),
        )
        sender.start()
        self.host.settle(2.1)
        self.assertEqual(Broken.calls, 3)
        done = Deferred.fromCoroutine(sender.stop())
        self.successResultOf(done)
        self.assertEqual(len(self.flushLoggedErrors(LookupError)), 5)  # three, the last word, the close

    def test_a_daemon_that_asks_for_patience_gets_it(self) -> None:
        tries: list[float] = []
        host = self.host

        class Busy:
            target = "busy"

            def deliver(self, payload: bytes) -> Deferred[None]:
                tries.append(host.seconds())
                return fail(NotDelivered("HTTP 503", wait_s=50.0))

            def close(self, within_s: float) -> Deferred[None]:
                return succeed(None)

        sender = HeartbeatSender(
            self.host, lambda: 0.0, SenderSettings(socket_path=PATH),
            channels=lambda _reactor, _settings, _lost: Busy(),
        )
        sender.start()
        self.host.settle(101)
        self.assertEqual([round(at) for at in tries], [0, 50, 100])
        self.stopped(sender)

    def test_an_outage_is_warned_about_once_and_again_after_ten_minutes(self) -> None:
        from twisted.logger import globalLogPublisher

        warnings: list[float] = []

        def observe(event: Any) -> None:
            if event["log_level"].name == "warn":
                warnings.append(self.host.seconds())

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        sender = self.started()
        self.host.settle(700)
        self.assertEqual(len(warnings), 2)
        self.assertGreaterEqual(warnings[1], 600)
        self.stopped(sender)


class UnixChannelTests(SynchronousTestCase):
    """The channel's own promises."""

    def setUp(self) -> None:
        self.host = FakeHost()
        self.daemon = self.host.daemons[PATH] = FakeDaemon()
        self.lost: list[str] = []
        self.channel = UnixChannel(self.host, PATH, self.lost.append)

    def test_one_message_at_a_time(self) -> None:
        first = self.channel.deliver(b"1\n")
        with self.assertRaises(RuntimeError):
            self.channel.deliver(b"2\n")
        self.host.settle()
        self.successResultOf(first)
        self.assertEqual(self.daemon.received, b"1\n")

    def test_a_connection_lost_under_way_fails_the_message_and_says_nothing_else(self) -> None:
        self.daemon.reads = False
        sent = self.channel.deliver(b"1\n")
        self.host.settle()
        self.daemon.hang_up()
        self.assertIn("connection lost", str(self.failureResultOf(sent, NotDelivered).value))
        self.assertEqual(self.lost, [])

    def test_a_connection_lost_at_rest_is_told(self) -> None:
        self.channel.deliver(b"1\n")
        self.host.settle()
        self.daemon.hang_up()
        self.assertEqual(len(self.lost), 1)

    def test_closing_while_connecting_gives_up(self) -> None:
        sent = self.channel.deliver(b"1\n")
        closed = self.channel.close(1.0)
        self.failureResultOf(sent, NotDelivered)
        self.successResultOf(closed)
        self.host.settle()
        self.assertEqual(self.daemon.connections_total, 0)
        with self.assertRaises(RuntimeError):
            self.channel.deliver(b"2\n")

    def test_closing_twice_or_without_a_connection_is_done_at_once(self) -> None:
        self.successResultOf(self.channel.close(1.0))
        self.successResultOf(self.channel.close(1.0))
