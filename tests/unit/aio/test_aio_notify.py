"""One contract for what the kernel tells of files: ``InotifyNotifier`` on the real reactor, and ``FakeNotifier``."""

from __future__ import annotations

import os
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

    async def delete(self, path: Path) -> None:
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
        with self.assertRaises(NotADirectoryError):
            self.notifier.entries(self.file, lambda name: None)
        self.assertEqual(self.notifier.watches, 0)

    async def test_a_deleted_file_ends_its_watch_alone(self: Any) -> None:
        other = self.root / "other"
        other.write_text("")
        self.notifier.once(self.file, lambda: self.told.append("log"))
        self.notifier.once(other, lambda: self.told.append("other"))
        await self.delete(self.file)
        self.assertEqual(self.told, ["log"])
        await self.change(other)
        self.assertEqual((self.told, self.notifier.watches), (["log", "other"], 0))

    async def test_a_directory_that_goes_says_so_without_a_name(self: Any) -> None:
        folder = self.root / "d"
        folder.mkdir()
        take_back = self.notifier.entries(folder, self.told.append)
        await self.delete(folder)
        self.assertEqual((self.told, self.notifier.watches), ([""], 0))
        take_back()

    async def test_both_kinds_on_one_directory_live_and_end_apart(self: Any) -> None:
        folder = self.root / "d"
        folder.mkdir()
        for number in range(2):  # whichever came first
            self.told.clear()
            make = [lambda: self.notifier.once(folder, lambda: self.told.append("gone")),
                    lambda: self.notifier.entries(folder, self.told.append)]
            first, second = make[number](), make[1 - number]()
            self.assertEqual(self.notifier.watches, 1)
            await self.change(folder / "a")
            self.assertEqual(set(self.told), {"a"})  # a write to a file in it is no change of the directory
            (second, first)[number]()  # the one for entries
            await self.change(folder / "b")
            self.assertEqual((set(self.told), self.notifier.watches), ({"a"}, 1))
            (first, second)[number]()
            self.assertEqual(self.notifier.watches, 0)
        self.notifier.once(folder, lambda: self.told.append("gone"))
        self.notifier.entries(folder, self.told.append)
        (folder / "a").unlink()
        (folder / "b").unlink()
        self.told.clear()
        await self.delete(folder)
        self.assertEqual(sorted(set(self.told) - {"a", "b"}), ["", "gone"])
        self.assertEqual(self.notifier.watches, 0)

    async def test_whoever_is_called_first_may_silence_the_next(self: Any) -> None:
        take_backs: list[Any] = []

        def first() -> None:
            self.told.append("first")
            take_backs[0]()

        self.notifier.once(self.file, first)
        take_backs.append(self.notifier.once(self.file, lambda: self.told.append("second")))
        await self.change(self.file)
        self.assertEqual((self.told, self.notifier.watches), (["first"], 0))


class Inotify(Contract, TestCase):
    def make(self) -> Notifier:
        notifier = InotifyNotifier(reactor)
        self.addCleanup(notifier.stop)
        return notifier

    async def change(self, path: Path) -> None:
        with open(path, "a") as file:
            file.write("x")
        await deferLater(reactor, 0.02)

    async def delete(self, path: Path) -> None:
        path.rmdir() if path.is_dir() else path.unlink()
        await deferLater(reactor, 0.02)

    async def test_a_renamed_file_is_told_and_a_renamed_directory_has_no_name(self) -> None:
        folder = self.root / "d"
        folder.mkdir()
        self.notifier.once(self.file, lambda: self.told.append("log"))
        take_back = self.notifier.entries(folder, self.told.append)
        self.file.rename(self.root / "log.1")
        folder.rename(self.root / "e")
        await deferLater(reactor, 0.02)
        self.assertEqual(self.told, ["log", ""])
        take_back()
        self.assertEqual(self.notifier.watches, 0)

    async def test_lost_events_are_told_to_everybody(self) -> None:
        limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
        if limit > 20_000:
            self.skipTest("the queue of this host is too long to fill quickly")
        take_back = self.notifier.entries(self.root, self.told.append)
        for number in range(limit + 10):  # an event each, and the reactor reads none meanwhile
            os.close(os.open(self.root / f"{number % 2}", os.O_CREAT | os.O_WRONLY))
        for _ in range(100):  # the loss is told last, behind everything the queue held
            if "" in self.told:
                break
            await deferLater(reactor, 0.1)
        self.assertTrue("" in self.told, f"{len(self.told)} were told")
        take_back()

    async def test_a_stop_from_within_a_call_ends_all(self) -> None:
        self.notifier.once(self.file, self.notifier.stop)
        self.notifier.once(self.file, lambda: self.told.append("x"))
        await self.change(self.file)
        self.assertEqual((self.told, self.notifier.watches), ([], 0))

    async def test_a_thousand_watches_leave_nothing(self) -> None:
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(1000):
            self.notifier.once(self.file, lambda: None)()
        self.assertEqual(self.notifier.watches, 0)
        self.notifier.stop()
        self.assertLessEqual(len(os.listdir("/proc/self/fd")), before)

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

    async def delete(self, path: Path) -> None:
        path.rmdir() if path.is_dir() else path.unlink()
        self.notifier.vanish(path)
