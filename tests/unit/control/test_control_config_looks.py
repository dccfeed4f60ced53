"""When the watch looks, what it takes and what it says; by a clock, a fake kernel and real files."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from daemon.config.load import LoadedConfig, load
from daemon.config.schema import Config
from daemon.control.config_file import LANE, READ_DEADLINE_S, look_at
from daemon.control.config_manager import ConfigManager, Step
from daemon.control.config_watch import LOOK_EVERY_S, PATIENCE_S, QUIET_S, ConfigWatch, delay_s
from daemon.errors import RequestError
from tests.fakes.directory import FakeEvents
from tests.fakes.notify import FakeNotifier
from tests.fakes.supervised import FakeAlerts
from tests.fakes.threads import InlineThreads


class Mount(InlineThreads):
    """Threads that read a mount; with ``answers_looks_only`` it hangs after the first look."""

    answers_looks_only = False

    def run(self, lane: str, deadline_s: float, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self.answers_looks_only and call is not look_at:
            self.hang(lane)
        return super().run(lane, deadline_s, call, *args, **kwargs)


class WatchCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.root = Path(tempfile.mkdtemp()).resolve()
        self.addCleanup(shutil.rmtree, self.root)
        self.conf = self.root / "conf"
        self.conf.mkdir()
        self.path = self.conf / "daemon.yaml"
        self.write("v0")
        self.clock = Clock()
        self.threads = Mount(self.clock)
        self.notifier = FakeNotifier()
        self.alerts = FakeAlerts()
        self.loads = 0
        self.gate: Deferred[None] | None = None
        self.manager = ConfigManager(
            load(self.path), self.load, self.threads, lambda: 1.0, FakeEvents(), self.alerts, self.root / "keep.yaml"
        )
        self.manager.applied_by([Step(name="slow", apply=self.apply)])
        self.watch = ConfigWatch(self.clock, self.notifier, self.threads, self.manager)
        self.logged: list[LogEvent] = []
        globalLogPublisher.addObserver(self.logged.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.logged.append)

    def load(self, path: Path) -> LoadedConfig:
        self.loads += 1
        return load(path)

    def apply(self, _old: Config, _new: Config) -> Deferred[None] | None:
        return self.gate

    def write(self, name: str) -> None:
        agent = f"{{id: a, type: custom, binary_path: /bin/true, name: {name}}}"
        self.path.write_text(f"daemon: {{work_dir: {self.root}/w}}\nagents: [{agent}]\n")

    def changed(self, name: str) -> None:
        """The file is written, and the kernel says so."""
        self.write(name)
        self.notifier.touch(self.path)

    @property
    def name(self) -> str:
        return self.manager.in_force.agents[0].name

    def said(self, words: str) -> int:
        return sum(words in f"{event.get('log_format')}{event.get('what')}" for event in self.logged)

    def stopped(self) -> None:
        self.successResultOf(self.watch.stopService())
        self.assertEqual((self.clock.getDelayedCalls(), self.notifier.watches), ([], 0))


class Looks(WatchCase):
    def test_what_changed_before_the_watch_stood_is_taken(self) -> None:
        self.write("v1")
        self.watch.startService()
        self.assertEqual(self.name, "v1")
        self.stopped()

    def test_an_unchanged_file_is_read_by_nobody_and_nothing_waits(self) -> None:
        self.watch.startService()
        self.notifier.touch(self.conf / "other.yaml")
        self.notifier.touch(self.conf / "w")
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.notifier.touch(self.path)
        self.clock.advance(QUIET_S)
        self.assertEqual((self.loads, self.manager.state().reloads_total), (0, 0))
        self.stopped()

    def test_a_burst_is_one_reload_after_its_end(self) -> None:
        self.watch.startService()
        for number in range(5):
            self.changed(f"v{number}")
            self.clock.advance(QUIET_S * 0.9)
        self.assertEqual(self.name, "v0")
        self.clock.advance(QUIET_S * 0.1)
        self.assertEqual((self.name, self.loads), ("v4", 1))
        self.stopped()

    def test_a_burst_without_end_is_looked_at_after_two_seconds(self) -> None:
        self.watch.startService()
        elapsed_s = 0.0
        while self.name != "busy" and elapsed_s < 10:
            self.changed("busy")
            self.clock.advance(0.1)
            elapsed_s += 0.1
        self.assertEqual(elapsed_s, pytest.approx(PATIENCE_S))
        self.stopped()

    def test_a_change_while_a_reload_runs_is_looked_at_after_it(self) -> None:
        self.gate = Deferred()
        self.watch.startService()
        self.changed("v1")
        self.clock.advance(QUIET_S)
        gate, self.gate = self.gate, None
        self.changed("v2")
        self.clock.advance(QUIET_S)
        self.assertEqual(self.loads, 1)
        gate.callback(None)
        self.assertEqual((self.name, self.loads), ("v2", 2))
        self.stopped()

    def test_a_refused_file_is_refused_once_and_the_old_text_ends_the_refusal(self) -> None:
        self.watch.startService()
        self.path.write_text("agents: [")
        for _ in range(3):
            self.notifier.touch(self.path)
            self.clock.advance(QUIET_S)
        self.assertEqual(self.manager.state().failures_total, 1)
        self.assertEqual(list(self.alerts.standing), [("", "config_reload")])
        self.changed("v0")
        self.clock.advance(QUIET_S)
        self.assertTrue(self.manager.state().ok)
        self.assertEqual(self.alerts.standing, {})
        self.path.write_text("agents: [")
        self.notifier.touch(self.path)
        self.clock.advance(QUIET_S)
        self.assertFalse(self.manager.state().ok)
        self.stopped()

    def test_a_deleted_file_is_told_once_and_is_no_failed_reload(self) -> None:
        self.watch.startService()
        self.path.unlink()
        for _ in range(3):
            self.notifier.touch(self.path)
            self.clock.advance(QUIET_S)
        self.assertEqual((self.said("is gone"), self.manager.state().ok, self.name), (1, True, "v0"))
        self.changed("v1")
        self.clock.advance(QUIET_S)
        self.assertEqual(self.name, "v1")
        self.path.unlink()
        self.notifier.touch(self.path)
        self.clock.advance(QUIET_S)
        self.assertEqual(self.said("is gone"), 2)
        self.stopped()

    def test_what_is_no_file_any_more_is_a_refused_file(self) -> None:
        self.watch.startService()
        self.path.unlink()
        os.mkfifo(self.path)  # opening it would hold the lane for ever
        for _ in range(2):
            self.notifier.touch(self.path)
            self.clock.advance(QUIET_S)
        self.assertEqual(self.manager.state().failures_total, 1)
        self.assertIn("regular file", self.manager.state().error)
        self.stopped()

    def test_a_file_that_somebody_still_writes_is_left_alone(self) -> None:
        self.watch.startService()
        with self.path.open("a") as file:
            if not look_at(self.path).busy:
                self.skipTest("no leases here")
            file.write("# half of it\n")
            file.flush()
            self.notifier.touch(self.path)
            self.clock.advance(QUIET_S)
            self.assertEqual(self.loads, 0)
        self.clock.advance(LOOK_EVERY_S)  # written by another name: no event came to us
        self.assertEqual(self.loads, 1)
        self.stopped()


class Trouble(WatchCase):
    def test_a_mount_that_hangs_is_told_once_and_looked_at_again_until_it_answers(self) -> None:
        self.watch.startService()
        self.threads.hang(LANE)
        self.changed("v1")
        self.clock.advance(QUIET_S)
        self.clock.advance(READ_DEADLINE_S)
        self.clock.pump([LOOK_EVERY_S] * 3)
        self.assertEqual(self.said("does not answer"), 2)  # no answer in time; then: still held by that call
        self.threads.release(LANE)
        self.clock.advance(LOOK_EVERY_S)
        self.assertEqual(self.name, "v1")
        self.stopped()

    def test_a_reload_that_hangs_is_tried_again(self) -> None:
        self.watch.startService()
        self.threads.answers_looks_only = True
        self.changed("v1")
        self.clock.advance(QUIET_S)
        self.clock.advance(READ_DEADLINE_S)
        self.assertIn("does not answer", self.manager.state().error)
        self.threads.answers_looks_only = False
        self.threads.release(LANE)
        self.clock.advance(LOOK_EVERY_S)
        self.assertEqual((self.name, self.manager.state().ok), ("v1", True))
        self.stopped()

    def test_without_watches_it_is_looked_at_every_30_seconds_and_told_once(self) -> None:
        self.notifier.refused = True
        self.watch.startService()
        for name in ("v1", "v2"):
            self.write(name)
            self.clock.advance(LOOK_EVERY_S)
            self.assertEqual(self.name, name)
        self.assertEqual(self.said("cannot be watched"), 1)
        self.notifier.refused = False
        self.clock.advance(LOOK_EVERY_S)
        self.assertEqual((self.said("is watched again"), self.clock.getDelayedCalls()), (1, []))
        self.changed("v3")
        self.clock.advance(QUIET_S)
        self.assertEqual(self.name, "v3")
        self.stopped()

    def test_a_stop_ends_a_look_that_hangs_at_once(self) -> None:
        self.threads.hang(LANE)
        self.watch.startService()
        self.stopped()

    def test_a_stop_waits_for_what_is_being_applied_and_later_reloads_are_refused(self) -> None:
        self.gate = Deferred()
        self.watch.startService()
        self.changed("v1")
        self.clock.advance(QUIET_S)
        waiting = self.manager.reload()
        stop = self.watch.stopService()
        self.assertNoResult(stop)
        self.gate.callback(None)
        self.successResultOf(stop)
        self.failureResultOf(waiting, RequestError)
        self.failureResultOf(self.manager.reload(dry_run=True), RequestError)
        self.successResultOf(self.manager.hang_up())
        self.assertEqual(self.name, "v1")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_stop_cuts_off_a_reload_whose_file_hangs(self) -> None:
        self.watch.startService()
        self.threads.hang(LANE)
        asked = self.manager.reload()
        stop = self.watch.stopService()
        self.failureResultOf(asked, RequestError)
        self.successResultOf(stop)
        self.assertTrue(self.manager.state().ok)  # a stop is no fault of the file
        self.assertEqual(self.clock.getDelayedCalls(), [])


@pytest.mark.parametrize(("first_s", "now_s", "expected"), [
    (0.0, 0.0, QUIET_S), (10.0, 11.0, QUIET_S), (10.0, 10.0 + PATIENCE_S - 0.1, 0.1), (10.0, 13.0, 0.0),
])
def test_a_look_waits_for_quiet_but_not_for_ever(first_s: float, now_s: float, expected: float) -> None:
    assert delay_s(first_s, now_s) == pytest.approx(expected)
