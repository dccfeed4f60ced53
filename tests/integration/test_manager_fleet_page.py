"""A fleet of a thousand nodes with a hundred agents each is looked at, and the reactor goes on meanwhile."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from daemon.manager import bodies
from daemon.manager.config import ManagerConfig
from daemon.manager.database import Database
from daemon.manager.page import Asked

NODES, AGENTS = 1000, 100
HELD_S = 0.05


def fill(tx: Any) -> None:
    now = 1_800_000_000.0
    for number in range(NODES):
        node = f"5f0c7a52-6f2e-4a0e-9b37-{number:012}"
        tx.execute(
            f"INSERT INTO nodes VALUES ({', '.join('?' * 16)})",
            (node, f"host-{number}", "192.0.2.1", "", "", "linux", "amd64", '{"rack":"7"}', "1.0.0", "", "online",
             now, now, now, now, 0),
        )
        tx.executemany(
            f"INSERT INTO agents VALUES ({', '.join('?' * 9)})",
            [(node, f"agent-{each}", "custom", "1.0", "running", 1, 0, now, now) for each in range(AGENTS)],
        )


class LargeFleetTest(TestCase):
    timeout = 60

    def setUp(self) -> Deferred[None]:
        folder = tempfile.mkdtemp(prefix="hd-manager-page-")
        self.addCleanup(shutil.rmtree, folder)
        self.database = Database(reactor, str(Path(folder) / "manager.db"))
        self.addCleanup(lambda: Deferred.fromCoroutine(self.database.close(5.0)))
        return Deferred.fromCoroutine(self._filled())

    async def _filled(self) -> None:
        await self.database.open()
        await self.database.write(fill)

    async def _made(self, make: Callable[..., bytes], *asked: Any) -> bytes:
        """The answer; the reactor's own thread may not work for it longer than it may be held."""
        begun = time.thread_time()
        found: bytes = await self.database.read(make, *asked)
        self.assertLess(time.thread_time() - begun, HELD_S)
        return found

    async def test_the_page_is_not_made_on_the_reactor(self) -> None:
        text = await self._made(bodies.fleet_page, Asked(), 1_800_000_100.0, "m")
        self.assertIn(b"1000 nodes, 0 offline; 100000 agents: 100000 running", text)
        found = await self._made(bodies.fleet_page, Asked(words="rack=7 agent-99 host-500"), 1_800_000_100.0, "m")
        self.assertIn(b"host-500", found)
        self.assertNotIn(b"host-501", found)

    async def test_the_list_of_nodes_is_not_made_on_the_reactor(self) -> None:
        text = await self._made(bodies.nodes, 1_800_000_100.0, ManagerConfig(), "", "", 10_000)
        self.assertEqual(text.count(b'"running":100'), NODES)
