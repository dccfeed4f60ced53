"""A socket whose file goes from its place is looked at, and nothing is polled where the kernel tells."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from daemon.aio.socket_watch import LOOK_EVERY_S, QUIET_S, SocketWatch
from tests.fakes.notify import FakeNotifier


class SocketWatchTest(SynchronousTestCase):
    def setUp(self) -> None:
        self.root = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.root)
        self.folder = self.root / "run"
        self.folder.mkdir()
        self.path = self.folder / "beat.sock"
        self.path.touch()
        self.clock = Clock()
        self.notifier = FakeNotifier()
        self.looks = 0
        self.watch = SocketWatch(str(self.path), self.clock, self.notifier, self.look)

    def look(self) -> None:
        self.looks += 1

    def start(self) -> None:
        """Begins, the look at what happened before the watch stood over."""
        self.watch.start()
        self.clock.advance(QUIET_S)
        self.assertEqual(self.looks, 1)

    def test_a_file_at_rest_costs_no_timer(self) -> None:
        self.start()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.clock.advance(3600)
        self.assertEqual(self.looks, 1)

    def test_its_removal_is_looked_at_and_that_of_others_is_not(self) -> None:
        self.start()
        self.notifier.vanish(self.folder / "other")
        self.clock.advance(QUIET_S)
        self.assertEqual(self.looks, 1)
        self.notifier.vanish(self.path)
        self.notifier.touch(self.path)
        self.clock.advance(QUIET_S)
        self.assertEqual(self.looks, 2)

    def test_a_folder_that_goes_is_waited_for_from_above(self) -> None:
        self.start()
        shutil.rmtree(self.folder)
        self.notifier.vanish(self.folder)
        self.clock.advance(QUIET_S)
        self.clock.advance(QUIET_S)
        self.assertEqual(self.looks, 3)
        self.folder.mkdir()
        self.notifier.touch(self.folder)
        self.clock.advance(QUIET_S)
        self.clock.advance(QUIET_S)
        self.assertEqual(self.looks, 5)
        self.notifier.touch(self.path)
        self.clock.advance(QUIET_S)
        self.assertEqual(self.looks, 6)
        self.assertEqual(self.notifier.watches, 1)

    def test_without_a_watch_it_is_looked_at_now_and_then(self) -> None:
        self.notifier.refused = True
        self.watch.start()
        self.clock.pump([LOOK_EVERY_S] * 3)
        self.assertEqual(self.looks, 3)
        self.notifier.refused = False
        self.clock.advance(LOOK_EVERY_S)
        self.clock.advance(QUIET_S)
        self.assertEqual((self.looks, self.clock.getDelayedCalls()), (5, []))

    def test_who_failed_looks_again(self) -> None:
        self.start()
        self.watch.again()
        self.clock.advance(LOOK_EVERY_S)
        self.assertEqual((self.looks, self.clock.getDelayedCalls()), (2, []))

    def test_a_stop_leaves_neither_watch_nor_timer(self) -> None:
        self.watch.start()
        self.watch.stop()
        self.assertEqual((self.notifier.watches, self.clock.getDelayedCalls()), (0, []))
