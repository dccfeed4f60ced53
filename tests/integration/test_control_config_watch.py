"""The configuration file is changed as editors, configuration management and Kubernetes change it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from daemon.aio.notify import InotifyNotifier
from daemon.aio.threads import ThreadLanes
from daemon.config.load import load
from daemon.control.config_manager import ConfigManager
from daemon.control.config_watch import PATIENCE_S, QUIET_S, ConfigWatch
from tests.fakes.directory import FakeEvents
from tests.fakes.supervised import FakeAlerts


def text(name: str, root: Path) -> str:
    return f"daemon: {{work_dir: {root}/w}}\nagents: [{{id: a, type: custom, binary_path: /bin/true, name: {name}}}]\n"


class Watching(TestCase):
    timeout = 20

    def setUp(self) -> None:
        self.root = Path(tempfile.mkdtemp()).resolve()
        self.addCleanup(shutil.rmtree, self.root)
        self.conf = self.root / "conf"
        self.conf.mkdir()
        self.path = self.conf / "daemon.yaml"
        self.path.write_text(text("v0", self.root))
        self.threads = ThreadLanes(reactor)
        self.notifier = InotifyNotifier(reactor)
        self.events = FakeEvents()

    async def watch(self) -> None:
        self.manager = ConfigManager(
            load(self.path), load, self.threads, lambda: 1.0, self.events, FakeAlerts(), self.root / "keep.yaml"
        )
        self.watcher = ConfigWatch(reactor, self.notifier, self.threads, self.manager)
        self.watcher.startService()
        self.addCleanup(lambda: Deferred.fromCoroutine(self.end()))
        await self.until(lambda: self.watcher.watched)

    async def end(self) -> None:
        await self.watcher.stopService()
        self.assertEqual(self.notifier.watches, 0)
        self.notifier.stop()
        await self.threads.stop(5.0)

    async def until(self, check: Callable[[], Any]) -> None:
        for _ in range(400):
            if check():
                return
            await deferLater(reactor, 0.02)
        self.fail("it did not come")

    async def named(self, name: str) -> None:
        await self.until(lambda: self.manager.in_force.agents[0].name == name)

    async def test_replaced_written_in_place_and_made_anew(self) -> None:
        await self.watch()
        new = self.conf / ".daemon.yaml.swp"
        new.write_text(text("v1", self.root))
        new.replace(self.path)
        await self.named("v1")
        self.path.write_text(text("v2", self.root))
        await self.named("v2")
        self.path.unlink()
        await deferLater(reactor, 0.5)
        self.assertEqual(self.manager.in_force.agents[0].name, "v2")
        self.path.write_text(text("v3", self.root))
        await self.named("v3")

    async def test_a_half_written_file_is_refused_and_the_whole_one_taken(self) -> None:
        await self.watch()
        whole = text("v1", self.root)
        with open(self.path, "w") as file:
            file.write(whole[:30])
            file.flush()
            os.utime(self.path)
            await deferLater(reactor, 0.6)
            self.assertEqual(self.manager.in_force.agents[0].name, "v0")
            file.write(whole[30:])
        await self.named("v1")
        self.assertTrue(self.manager.state().ok)

    async def test_a_bad_file_is_told_once_and_neighbours_do_not_wake_it(self) -> None:
        await self.watch()
        self.path.write_text("nonsense: [")
        await self.until(lambda: not self.manager.state().ok)
        failures = self.manager.state().failures_total
        (self.conf / "other.yaml").write_text("x")
        os.utime(self.path)
        self.path.write_text("nonsense: [")
        await deferLater(reactor, 0.7)
        self.assertEqual(self.manager.state().failures_total, failures)
        self.path.write_text(text("v0", self.root))
        await self.until(lambda: self.manager.state().ok)

    async def test_a_symlink_swap_as_kubernetes_does_it(self) -> None:
        for version in ("v1", "v2", "v3"):
            (self.conf / f"..{version}").mkdir()
            (self.conf / f"..{version}" / "daemon.yaml").write_text(text(version, self.root))
        self.path.unlink()
        (self.conf / "..data").symlink_to("..v1")
        self.path.symlink_to("..data/daemon.yaml")
        await self.watch()
        for version in ("v2", "v3"):
            (self.conf / "..tmp").symlink_to(f"..{version}")
            (self.conf / "..tmp").rename(self.conf / "..data")
            await self.named(version)
        (self.conf / "..v3" / "daemon.yaml").write_text(text("v4", self.root))
        await self.named("v4")

    async def test_a_directory_that_is_replaced_is_watched_again(self) -> None:
        await self.watch()
        self.conf.rename(self.root / "old")
        await deferLater(reactor, 0.5)
        new = self.root / "new"
        new.mkdir()
        (new / "daemon.yaml").write_text(text("v1", self.root))
        new.rename(self.conf)
        await self.named("v1")

    async def test_a_directory_further_up_that_is_replaced_is_noticed(self) -> None:
        deep = self.root / "a" / "b"
        deep.mkdir(parents=True)
        self.path = deep / "daemon.yaml"
        self.path.write_text(text("v0", self.root))
        await self.watch()
        (self.root / "a").rename(self.root / "old")
        (self.root / "new" / "b").mkdir(parents=True)
        (self.root / "new" / "b" / "daemon.yaml").write_text(text("v1", self.root))
        (self.root / "new").rename(self.root / "a")
        await self.named("v1")
        self.path.write_text(text("v2", self.root))
        await self.named("v2")

    async def test_a_chain_of_absolute_links_as_alternatives_make_it(self) -> None:
        for version in ("v0", "v1"):
            (self.root / version).mkdir()
            (self.root / version / "daemon.yaml").write_text(text(version, self.root))
        alternatives = self.root / "alternatives"
        alternatives.mkdir()
        (alternatives / "daemon.yaml").symlink_to(self.root / "v0" / "daemon.yaml")
        self.path.unlink()
        self.path.symlink_to(alternatives / "daemon.yaml")
        await self.watch()
        (alternatives / "next").symlink_to(self.root / "v1" / "daemon.yaml")
        (alternatives / "next").rename(alternatives / "daemon.yaml")
        await self.named("v1")
        (self.root / "v1" / "daemon.yaml").write_text(text("v2", self.root))
        await self.named("v2")
        (self.root / "v0" / "daemon.yaml").write_text(text("v3", self.root))  # no longer on the way
        (self.root / "elsewhere.yaml").write_text(text("v4", self.root))
        self.path.unlink()
        self.path.symlink_to(self.root / "elsewhere.yaml")
        await self.named("v4")

    async def test_a_new_file_that_is_written_slowly_is_taken_when_it_is_whole(self) -> None:
        await self.watch()
        whole = text("v1", self.root)
        self.path.unlink()
        with open(self.path, "w") as file:  # its beginning is an event
            file.write("daemon: {}\n")  # good by itself, and it would end every agent
            file.flush()
            await deferLater(reactor, 0.6)
            self.assertEqual(self.manager.in_force.agents[0].name, "v0")
            file.seek(0)
            file.write(whole)
        await self.named("v1")
        self.assertEqual(self.manager.state().failures_total, 0)

    async def test_a_work_dir_beside_the_file_wakes_nothing(self) -> None:
        await self.watch()
        work = self.conf / "w"
        work.mkdir()
        for number in range(20):
            (work / f"{number}").write_text("x")
            (self.conf / ".state.tmp").write_text("x")
            (self.conf / ".state.tmp").rename(self.conf / "state.json")
        await deferLater(reactor, 0.4)
        self.assertEqual(self.manager.state().reloads_total, 0)

    async def test_fifty_reloads_leave_as_many_watches_timers_and_descriptors_as_before(self) -> None:
        await self.watch()
        self.path.write_text(text("first", self.root))
        await self.named("first")
        watched, held = self.watcher.watched, len(os.listdir("/proc/self/fd"))
        for number in range(50):
            new = self.conf / "new"
            new.write_text(text(f"v{number}", self.root))
            new.replace(self.path)
            await self.manager.reload()
            self.assertEqual(self.manager.in_force.agents[0].name, f"v{number}")
        await deferLater(reactor, PATIENCE_S + QUIET_S)
        self.assertEqual(self.watcher.watched, watched)
        self.assertEqual(self.notifier.watches, len(watched))
        self.assertLessEqual(len(os.listdir("/proc/self/fd")), held)
        timers = [call for call in reactor.getDelayedCalls() if "config" in str(call.func)]
        self.assertEqual(timers, [])
