"""The care of many logs: looked at while they grow, rotated, kept, followed; trouble is told and tried again."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from logs_support import append, lines, rotated_text
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from daemon import faults
from daemon.config.schema import LogsConfig
from daemon.errors import StorageError
from daemon.logs.agent_log import AgentLog
from daemon.logs.following import LogFollower, LogStreamClosed
from daemon.logs.layout import rotated_files
from daemon.logs.manager import LogManager
from tests.fakes.directory import FakeEvents
from tests.fakes.notify import FakeNotifier
from tests.fakes.supervised import FakeAlerts
from tests.fakes.threads import InlineThreads

LIMITS = LogsConfig(max_size=10_000, max_files=3, compress=False)


class LogsCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.root = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.root)
        self.addCleanup(faults.arm, {})
        self.clock = Clock()
        self.threads, self.notifier = InlineThreads(self.clock), FakeNotifier()
        self.events, self.alerts = FakeEvents(), FakeAlerts()
        self.logs = LogManager(self.root, self.clock, lambda: 1e9 + self.clock.seconds(), self.threads, self.notifier,
                               self.events, self.alerts, lambda agent_id: ())
        self.logs.apply({"a": LIMITS, "b": LIMITS})
        (self.root / "a").mkdir()
        self.live = self.root / "a" / "agent.log"

    def start(self) -> None:
        self.logs.startService()
        self.addCleanup(self.stop)

    def stop(self) -> None:
        self.successResultOf(self.logs.stopService())
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.notifier.watches, 0)

    def write(self, data: bytes) -> None:
        append(self.live, data)
        self.notifier.touch(self.live)

    def wait(self, seconds: int) -> None:
        for _ in range(seconds):
            self.clock.advance(1)

    def tail(self, lines_wanted: int, grep: str = "") -> list[bytes]:
        return list(self.successResultOf(Deferred.fromCoroutine(self.logs.tail("a", lines_wanted, grep))))


class Care(LogsCase):
    def test_a_quiet_log_is_watched_and_not_looked_at(self) -> None:
        self.write(b"x\n")
        self.start()
        self.wait(10)
        self.assertEqual(self.notifier.watches, 1)
        looks = len(self.threads.calls)
        self.wait(100)
        self.assertEqual((len(self.threads.calls) - looks, self.clock.getDelayedCalls()[1:]), (0, []))  # the sweep alone
        self.write(b"y\n")
        self.assertEqual(self.notifier.watches, 0)

    def test_it_is_rotated_a_second_after_it_became_too_large_and_bounded(self) -> None:
        self.start()
        for n in range(6):
            self.write(lines(n * 700, n * 700 + 700))
            self.wait(3)
        self.assertEqual(self.logs.stats().rotations_total, 6)
        self.assertEqual(len(rotated_files(self.root / "a")), 3)
        self.assertEqual(self.logs.stats().removed_files_total, 3)
        self.assertGreater(self.logs.stats().removed_bytes_total, 10_000)
        self.assertEqual(self.tail(2)[-1], b"line 4199 of the log")
        self.assertEqual(self.tail(3, "line 3500 "), [b"line 3500 of the log"])
        self.assertEqual(self.tail(0), [])

    def test_rotated_files_are_compressed_and_read(self) -> None:
        self.logs.apply({"a": LogsConfig(max_size=10_000)})
        self.start()
        for n in range(3):
            self.write(lines(n * 700, n * 700 + 700))
            self.wait(3)
        self.assertEqual([f.compressed for f in rotated_files(self.root / "a")], [True] * 3)
        self.assertEqual(self.tail(10_000), lines(0, 2100).split(b"\n")[:-1])
        self.assertEqual(rotated_text(self.root / "a")[:18], lines(0, 1))

    def test_bounds_are_live_and_age_is_looked_at_hourly(self) -> None:
        self.start()
        for n in range(3):
            self.write(lines(n * 700, n * 700 + 700))
            self.wait(3)
        self.logs.apply({"a": LogsConfig(max_size=10_000, max_files=2, compress=False)})
        self.assertEqual(len(rotated_files(self.root / "a")), 2)
        for each in rotated_files(self.root / "a"):
            os.utime(each.path, (1e9 - 500, 1e9 - 500))
        self.logs.apply({"a": LogsConfig(max_size=10_000, max_age=3600.0, compress=False)})
        self.assertEqual(len(rotated_files(self.root / "a")), 2)
        self.clock.advance(3601)
        self.assertEqual(len(rotated_files(self.root / "a")), 0)

    def test_an_agent_that_left_is_let_alone_and_keeps_its_files(self) -> None:
        self.write(lines(0, 10))
        self.start()
        self.logs.apply({})
        self.write(lines(10, 700))
        self.wait(10)
        self.assertEqual(rotated_files(self.root / "a"), [])
        self.assertTrue(self.live.exists())
        self.assertEqual(self.tail(10), [])

    def test_a_log_that_grows_now_and_then_is_looked_at_twice_each_time(self) -> None:
        self.start()
        self.wait(10)
        for n in range(5):
            looks = len(self.threads.calls)
            self.write(lines(n, n + 1))
            self.logs.process_changed("a")
            self.wait(10)
            self.assertEqual(self.threads.calls[looks:], ["logs"] * 2)
            self.assertEqual(self.notifier.watches, 1)

    def test_all_logs_are_mended_and_bounded_on_one_lane(self) -> None:
        for each in "abcdefgh":
            (self.root / each).mkdir(exist_ok=True)
            append(self.root / each / "agent.log", lines(0, 10))
        self.logs.apply({each: LogsConfig(max_size=10_000, max_age=3600.0) for each in "abcdefgh"})
        self.start()
        self.wait(10)
        self.clock.advance(3600)
        self.assertEqual(set(self.threads.calls), {"logs", "logs-care"})
        self.assertEqual(self.threads.calls.count("logs-care"), 16)

    def test_a_log_that_is_too_large_at_the_start_is_rotated_at_once(self) -> None:
        self.write(lines(0, 700))
        self.start()
        self.assertEqual(self.logs.stats().rotations_total, 1)
        self.wait(3)
        self.assertEqual(self.logs.stats().rotations_total, 1)

    def test_a_log_that_comes_with_its_first_process_is_found(self) -> None:
        self.start()
        self.wait(20)
        self.write(lines(0, 700))
        self.logs.process_changed("a")
        self.wait(2)
        self.assertEqual(self.logs.stats().rotations_total, 1)

    def test_without_watches_it_is_looked_at_every_second(self) -> None:
        self.notifier.refused = True
        self.live.touch()
        self.start()
        self.wait(20)
        append(self.live, lines(0, 700))
        self.wait(2)
        self.assertEqual(self.logs.stats().rotations_total, 1)


class Trouble(LogsCase):
    def test_a_broken_disk_is_told_once_tried_with_growing_delays_and_recovers(self) -> None:
        self.start()
        faults.arm({"HOSTDAEMON_FAULT": "logs.copy:1:eio"})
        self.write(lines(0, 700))
        self.wait(60)
        stats = self.logs.stats()
        self.assertEqual(stats.rotation_failures_total, 4, stats)
        self.assertIn("cannot be rotated: Input/output error", self.alerts.standing["a", "log_storage"].message)
        self.assertEqual(list(self.logs.failing), ["a"])
        faults.arm({})
        self.wait(60)
        self.assertEqual((self.alerts.standing, dict(self.logs.failing)), ({}, {}))
        self.assertEqual(self.tail(10_000), lines(0, 700).split(b"\n")[:-1])

    def break_off(self, fault: str, upto: int) -> None:
        """A rotation that breaks off at that step, of a log of that many lines."""
        faults.arm({"HOSTDAEMON_FAULT": fault})
        self.write(lines(upto - 700, upto))
        self.wait(2)
        self.assertEqual(list(self.logs.failing), ["a"])

    def test_a_rotation_that_broke_off_is_finished_by_a_look_counted_once_and_ends_the_alert(self) -> None:
        self.start()
        self.write(lines(0, 700))
        self.wait(3)  # from now on a part of the live file is copied already
        for n, point in enumerate(["logs.collapsed", "logs.rename"], start=2):
            with self.subTest(point=point):
                self.break_off(f"{point}:1:eio", n * 700)
                self.assertEqual(self.logs.stats().rotations_total, n - 1)
                faults.arm({})
                self.wait(10)  # the live file is small by now: nothing is to be rotated
                self.assertEqual((self.alerts.standing, dict(self.logs.failing)), ({}, {}))
                self.assertEqual(self.logs.stats().rotations_total, n)
                self.assertIn("broken off is finished", self.alerts.told[-1].message)
                self.wait(60)
                self.assertEqual(self.logs.stats().rotations_total, n)
                self.assertEqual(self.tail(10_000), lines(0, n * 700).split(b"\n")[:-1])
                self.assertEqual(self.notifier.watches, 1)

    def test_a_rotation_that_broke_off_is_finished_by_a_reader_and_counted(self) -> None:
        self.start()
        self.break_off("logs.rename:1:eio", 700)
        faults.arm({})
        self.assertEqual(self.tail(10_000), lines(0, 700).split(b"\n")[:-1])
        self.wait(1)
        self.assertEqual((self.logs.stats().rotations_total, self.alerts.standing), (1, {}))

    def test_a_rotation_that_a_dead_daemon_left_is_counted_by_the_next_one(self) -> None:
        for way in ("collapse", "drop"):
            with self.subTest(way=way):
                log = AgentLog(self.root / "a", lambda: ())
                log.recover()
                append(self.live, lines(0, 700))
                fault = {"collapse": "logs.rename:1:eio", "drop": "logs.copy:1:enospc,logs.collapsed:1:eio"}[way]
                faults.arm({"HOSTDAEMON_FAULT": fault})
                with self.assertRaises(OSError):
                    log.rotate(LIMITS)
                log.close()
                faults.arm({})
                before = self.logs.stats().rotations_total
                self.logs.apply({})
                self.logs.apply({"a": LIMITS})
                if not self.logs.running:
                    self.start()
                self.wait(5)
                self.assertEqual(self.logs.stats().rotations_total - before, 1)
        self.assertGreater(self.logs.stats().dropped_lines_total, 600)
        self.assertEqual([e.type for e in self.events.published], ["agent.log_dropped"])

    def test_a_rotation_that_comes_through_after_its_deadline_is_counted_once_and_ends_the_alert(self) -> None:
        self.logs.apply({"a": LogsConfig(max_size=10_000)})
        self.start()
        self.threads.hang("logs:a")
        self.write(lines(0, 700))
        self.wait(305)
        self.assertIn("no answer within 300 s", self.alerts.standing["a", "log_storage"].message)
        failures = self.logs.stats().rotation_failures_total
        self.assertEqual((self.logs.stats().rotations_total, failures), (0, 1))
        self.threads.release("logs:a")
        self.wait(2)
        self.assertEqual((self.alerts.standing, dict(self.logs.failing)), ({}, {}))
        self.assertIn("ended after its deadline", self.alerts.told[-1].message)
        self.assertEqual([f.compressed for f in rotated_files(self.root / "a")], [True])  # as after every rotation
        self.wait(400)
        self.assertEqual((self.logs.stats().rotations_total, self.logs.stats().rotation_failures_total), (1, 1))
        self.assertEqual(self.tail(10_000), lines(0, 700).split(b"\n")[:-1])

    def test_one_log_that_hangs_at_the_start_is_told_and_holds_the_others_up_once(self) -> None:
        (self.root / "b").mkdir()
        append(self.root / "b" / "agent.log", lines(0, 700))
        self.threads.hang("logs-care")  # in the first one, a
        self.start()
        self.wait(10)
        self.assertEqual(rotated_files(self.root / "b"), [])
        self.wait(11)
        self.assertIn("cannot be mended", self.alerts.standing["a", "log_storage"].message)
        self.assertEqual(list(self.logs.failing), ["a"])
        self.assertEqual(len(rotated_files(self.root / "b")), 1)
        self.assertEqual(self.threads.stuck, ("logs-care",))
        self.logs.apply({"a": LIMITS, "b": LIMITS, "c": LIMITS})  # nor does it hold up a new one
        self.assertIn("logs:c", self.threads.calls)
        self.threads.release("logs-care")
        self.wait(10)
        self.assertEqual((self.alerts.standing, dict(self.logs.failing)), ({}, {}))

    def test_bounds_that_cannot_be_held_are_told_and_tried_again(self) -> None:
        self.write(lines(0, 10))
        self.start()
        self.wait(5)
        self.threads.hang("logs-care")
        self.threads.hang("logs:a")
        self.logs.apply({"a": LogsConfig(max_size=10_000, max_files=1, compress=False)})
        self.wait(25)
        self.assertIn("within their bounds: logs-care: no answer", self.alerts.standing["a", "log_storage"].message)
        self.threads.release("logs-care")
        self.threads.release("logs:a")
        self.wait(10)
        self.assertEqual((self.alerts.standing, self.notifier.watches), ({}, 1))
        self.assertEqual(self.logs.stats().rotation_failures_total, 0)

    def test_a_full_disk_drops_and_says_how_much(self) -> None:
        self.start()
        faults.arm({"HOSTDAEMON_FAULT": "logs.copy:1:enospc"})
        self.write(lines(0, 700))
        self.wait(2)
        [event] = self.events.published
        self.assertEqual((event.type, event.data["lines"]), ("agent.log_dropped", self.logs.stats().dropped_lines_total))
        self.assertIn(("a", "log_storage"), self.alerts.standing)
        faults.arm({})
        self.write(lines(700, 1400))
        self.wait(2)
        self.assertEqual(self.alerts.standing, {})

    def test_a_log_somebody_else_truncates_or_removes_is_told(self) -> None:
        self.write(lines(0, 100))
        self.start()
        self.wait(2)
        os.truncate(self.live, 0)
        self.notifier.touch(self.live)
        self.wait(2)
        self.assertIn("truncated or replaced", self.events.published[-1].message)
        self.write(lines(0, 100))
        self.wait(2)
        self.live.unlink()
        self.notifier.touch(self.live)
        self.wait(2)
        self.assertIn("removed while it writes", self.events.published[-1].message)
        self.assertEqual(self.logs.stats().truncations_total, 2)

    def test_what_a_reader_noticed_first_is_told_too(self) -> None:
        self.write(lines(0, 100))
        self.start()
        self.wait(1)
        os.truncate(self.live, 0)
        self.notifier.touch(self.live)
        self.tail(10)
        self.wait(1)
        self.assertEqual((self.logs.stats().truncations_total, len(self.events.published)), (1, 1))

    def test_a_hanging_disk_holds_neither_the_others_nor_the_stop(self) -> None:
        self.start()
        self.threads.hang("logs:a")
        self.write(lines(0, 700))
        self.wait(3)
        (self.root / "b").mkdir()
        append(self.root / "b" / "agent.log", lines(0, 700))
        self.logs.process_changed("b")
        self.wait(3)
        self.assertEqual(len(rotated_files(self.root / "b")), 1)
        asked = Deferred.fromCoroutine(self.logs.tail("a", 5))
        self.wait(31)
        self.failureResultOf(asked, StorageError)
        stopping = self.logs.stopService()
        self.wait(300)
        self.successResultOf(stopping)

    def test_compression_that_fails_is_counted_and_the_file_stays(self) -> None:
        self.logs.apply({"a": LogsConfig(max_size=10_000)})
        faults.arm({"HOSTDAEMON_FAULT": "logs.compress:1:enospc"})
        self.start()
        self.write(lines(0, 700))
        self.wait(3)
        self.assertEqual(self.logs.stats().compress_failures_total, 1)
        self.assertEqual([f.compressed for f in rotated_files(self.root / "a")], [False])


class Following(LogsCase):
    def follow(self, lines_wanted: int = 0, grep: str = "") -> LogFollower:
        return self.logs.follow("a", lines_wanted, grep)

    def ask(self, follower: LogFollower) -> Deferred[bytes]:
        return Deferred.fromCoroutine(follower.next())

    def test_the_last_lines_then_every_new_one_once_over_rotations(self) -> None:
        self.write(lines(0, 10))
        self.start()
        follower = self.follow(2)
        got = self.successResultOf(self.ask(follower))
        self.assertEqual(got, lines(8, 10))
        for n in range(10, 4000, 399):
            waiting = self.ask(follower)
            self.assertNoResult(waiting)
            self.write(lines(n, n + 399))
            got += self.successResultOf(waiting)
            self.wait(1)
        self.assertGreater(self.logs.stats().rotations_total, 3)
        self.assertEqual(got, lines(8, 10 + 399 * 10))
        follower.close()

    def test_a_reader_behind_several_rotations_gets_all_of_it_compressed_or_not(self) -> None:
        for compress in (False, True):
            with self.subTest(compress=compress):
                shutil.rmtree(self.root / "a")
                (self.root / "a").mkdir()
                self.logs.apply({})
                self.logs.apply({"a": LogsConfig(max_size=10_000, max_files=100, compress=compress)})
                if not self.logs.running:
                    self.start()
                self.write(lines(0, 10))
                follower = self.follow(10)
                got = self.successResultOf(self.ask(follower))
                for n in range(10, 2810, 700):
                    self.write(lines(n, n + 700))
                    self.wait(3)
                while len(got) < len(lines(0, 2810)):
                    got += self.successResultOf(self.ask(follower))
                self.assertEqual(got, lines(0, 2810))
                follower.close()

    def test_what_a_bound_took_is_told_with_its_size(self) -> None:
        self.start()
        self.write(lines(0, 10))
        follower = self.follow(1)
        self.successResultOf(self.ask(follower))
        self.logs.apply({"a": LogsConfig(max_size=10_000, max_files=1, compress=False)})
        for n in range(10, 2810, 700):
            self.write(lines(n, n + 700))
            self.wait(3)
        text = self.successResultOf(self.ask(follower))
        self.assertRegex(text, rb"^hostdaemon: \d+ bytes were removed before they were read\n$")
        got = b""
        while not got.endswith(lines(2809, 2810)):
            got += self.successResultOf(self.ask(follower))
        self.assertEqual(int(text.split()[1]) + len(got), len(lines(10, 2810)))
        follower.close()

    def test_grep_keeps_what_holds_the_text_and_an_unfinished_line_waits_five_seconds(self) -> None:
        self.start()
        self.live.touch()
        follower = self.follow(5, "7")
        waiting = self.ask(follower)
        self.write(lines(0, 5))
        self.assertNoResult(waiting)
        self.write(lines(5, 20) + b"prompt 7> ")
        self.assertEqual(self.successResultOf(waiting), lines(7, 8) + lines(17, 18))
        waiting = self.ask(follower)
        self.assertNoResult(waiting)
        self.wait(11)
        self.assertEqual(self.successResultOf(waiting), b"prompt 7> \n")
        follower.close()

    def test_closing_ends_whoever_waits_and_leaves_no_watch(self) -> None:
        self.start()
        follower = self.follow(5)
        waiting = self.ask(follower)
        self.assertEqual(self.logs.stats().followers, 1)
        follower.close()
        self.failureResultOf(waiting, LogStreamClosed)
        self.failureResultOf(self.ask(follower), LogStreamClosed)
        self.assertEqual(self.logs.stats().followers, 0)
        other = self.follow(5)
        waiting = self.ask(other)
        self.successResultOf(self.logs.stopService())
        self.failureResultOf(waiting, LogStreamClosed)

    def test_a_disk_that_does_not_answer_is_said(self) -> None:
        self.start()
        follower = self.follow(5)
        self.threads.hang("logs:a")
        waiting = self.ask(follower)
        self.wait(11)
        self.failureResultOf(waiting, StorageError)
        follower.close()
