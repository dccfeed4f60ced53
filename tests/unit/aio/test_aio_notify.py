"""One contract for what the kernel tells of files: ``InotifyNotifier`` on the real reactor, and ``FakeNotifier``."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from daemon.aio.notify import InotifyNotifier, Notifier
from tests.fakes.notify import FakeNotifier


class Contract:
    """What both promise."""

    timeout = 10

    def setUp(self) -> None:
        self.root = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.root)  # type: ignore[attr-defined]
        self.file = self.root / "log"
        self.file.write_text("")
        self.notifier: Any = self.make()
        self.told: list[str] = []

    def make(self) -> Notifier:
        raise NotImplementedError

    async def change(self, path: Path) -> None:
        raise NotImplementedError

    async def test_once_is_told_once(self: Any) -> None:
        self.notifier.once(self.file, lambda: self.told.append("x"))
        self.notifier.once(self.file, lambda: self.told.append("y"))
        for _ in range(3):
            await self.change(self.file)
        self.assertEqual(sorted(self.told), ["x", "y"])
        self.assertEqual(self.notifier.watches, 0)

    async def test_a_watch_may_be_set_again_from_within_its_call(self: Any) -> None:
        def again() -> None:
            self.told.append("x")
            if len(self.told) < 3:
                self.notifier.once(self.file, again)

        again()
        for _ in range(4):
            await self.change(self.file)
        self.assertEqual(self.told, ["x"] * 3)

    async def test_what_was_taken_back_is_silent(self: Any) -> None:
        take_back = self.notifier.once(self.file, lambda: self.told.append("x"))
        other = self.notifier.entries(self.root, self.told.append)
        take_back()
        other()
        other()
        await self.change(self.file)
        take_back()
        self.assertEqual((self.told, self.notifier.watches), ([], 0))

    async def test_entries_are_named(self: Any) -> None:
        take_back = self.notifier.entries(self.root, self.told.append)
        await self.change(self.root / "a")
        await self.change(self.root / "b")
        self.assertEqual(list(dict.fromkeys(self.told)), ["a", "b"])
        take_back()

    async def test_what_does_not_exist_cannot_be_watched(self: Any) -> None:
        with self.assertRaises(FileNotFoundError):
            self.notifier.once(self.root / "nothing", lambda: None)
        with self.assertRaises(FileNotFoundError):
            self.notifier.entries(self.root / "nothing", lambda name: None)


class Inotify(Contract, TestCase):
    def make(self) -> Notifier:
        notifier = InotifyNotifier(reactor)
        self.addCleanup(notifier.stop)
        return notifier

    async def change(self, path: Path) -> None:
        with open(path, "a") as file:
            file.write("x")
        await deferLater(reactor, 0.02)

    async def test_a_deleted_or_renamed_file_ends_its_watch_alone(self) -> None:
        other = self.root / "other"
        other.write_text("")
        self.notifier.once(self.file, lambda: self.told.append("log"))
        self.notifier.once(other, lambda: self.told.append("other"))
        self.file.unlink()
        await deferLater(reactor, 0.02)
        self.assertEqual(self.told, ["log"])
        await self.change(other)
        self.assertEqual(self.told, ["log", "other"])

    async def test_a_directory_that_goes_says_so_without_a_name(self) -> None:
        folder = self.root / "d"
        folder.mkdir()
        self.notifier.entries(folder, self.told.append)
        folder.rmdir()
        await deferLater(reactor, 0.02)
        self.assertIn("", self.told)
        self.assertEqual(self.notifier.watches, 0)

    async def test_a_watcher_that_fails_hurts_no_other(self) -> None:
        self.notifier.once(self.file, lambda: 1 / 0)
        self.notifier.once(self.file, lambda: self.told.append("x"))
        await self.change(self.file)
        self.assertEqual(self.told, ["x"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    async def test_after_the_end_nothing_is_told(self) -> None:
        self.notifier.once(self.file, lambda: self.told.append("x"))
        self.notifier.stop()
        await self.change(self.file)
        self.assertEqual(self.told, [])


class Fake(Contract, TestCase):
    def make(self) -> Notifier:
        return FakeNotifier()

    async def change(self, path: Path) -> None:
        path.touch()
        self.notifier.touch(path)
