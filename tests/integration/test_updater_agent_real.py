"""Updates of an agent with real processes: good, bad in every way, and the daemon killed at every boundary."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from daemon import faults
from daemon.aio.sleep import sleep
from daemon.config.schema import HealthCheckConfig
from daemon.errors import UpdateApplyError
from daemon.model.agent import AgentState
from tests.integration.updater_support import QUIET, Daemon, program

ROOT = Path(__file__).parents[2]
OLD = program("old")

SERVES = """#!{python}
import http.server, sys, time
if "--version" in sys.argv:
    sys.exit("2.0.0")
begun = time.monotonic()
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if time.monotonic() - begun < {well_s} else 500)
        self.end_headers()
    def log_message(self, *args):
        pass
print("serving", flush=True)
http.server.HTTPServer(("127.0.0.1", {port}), Answer).serve_forever()
"""


def serves(port: int, well_s: float) -> bytes:
    """A program that answers well for so long."""
    return SERVES.format(python=sys.executable, port=port, well_s=well_s).encode()


class Updates(TestCase):
    timeout = 60

    def setUp(self) -> None:
        self.root = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.root, ignore_errors=True)
        self.addCleanup(faults.arm, {})
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    async def begin(self, old: bytes = OLD, **more: Any) -> Daemon:
        daemon = Daemon(reactor, self.root, **more)
        daemon.binary.write_bytes(old)
        daemon.binary.chmod(0o755)
        self.addCleanup(lambda: Deferred.fromCoroutine(daemon.end()))
        await daemon.running()
        return daemon

    def nothing_is_left(self, daemon: Daemon) -> None:
        names = [p.name for p in [*daemon.binary.parent.iterdir(), *(self.root / "backups").iterdir()]]
        self.assertEqual([n for n in names if "hostdaemon" in n or n.endswith(".tmp")], [])

    async def is_refused(self, daemon: Daemon, data: bytes, words: str) -> Any:
        """The new version is, and the old one runs again."""
        old = daemon.binary.read_bytes()
        job = daemon.job(data, "2.0.0")
        with self.assertRaises(UpdateApplyError) as caught:
            await daemon.update(job)
        self.assertIn(words, str(caught.exception))
        planned = daemon.load(job)
        assert planned is not None
        evidence = await daemon.target.roll_back(planned)
        self.assertTrue(evidence["agents"]["web"]["proven"])
        self.assertEqual(daemon.binary.read_bytes(), old)
        self.assertIs(daemon.agent.state, AgentState.RUNNING)
        self.nothing_is_left(daemon)
        return caught.exception.details.get("evidence")

    async def test_a_good_one_runs_and_its_version_was_asked(self) -> None:
        daemon = await self.begin()
        before = daemon.agent.pid
        await daemon.update(daemon.job(program("new")))
        self.assertNotEqual(daemon.agent.pid, before)
        self.assertEqual(daemon.executes(), program("new"))
        self.nothing_is_left(daemon)

    async def test_one_that_exits_at_once(self) -> None:
        daemon = await self.begin()
        script = b"#!/bin/sh\n[ \"$1\" = --version ] && exit 0\necho no such option\nexit 3\n"
        evidence = await self.is_refused(daemon, script, "exit code 3")
        self.assertIn("no such option", evidence["agents"]["web"]["last_lines"])
        self.assertEqual(daemon.executes(), OLD)

    async def test_one_for_another_architecture_is_found_before_anything_is_stopped(self) -> None:
        daemon = await self.begin()
        before = daemon.agent.pid
        await self.is_refused(daemon, b"\x7fELF" + bytes(60) + b"not ours", "does not execute here")
        self.assertEqual(daemon.agent.pid, before)

    async def test_one_whose_endpoint_never_answers(self) -> None:
        check = HealthCheckConfig(
            cpu_threshold=0.0, memory_threshold=0, heartbeat_timeout=0.0, interval=0.1, start_period=0.0,
            http_endpoint=f"http://127.0.0.1:{self.port}/", failure_threshold=1000,
        )
        daemon = await self.begin(serves(self.port, 1e9), check=check, timeout_s=5.0)
        while daemon.agent.verdict is None or daemon.agent.verdict.waits:
            await sleep(reactor, 0.05)
        await self.is_refused(daemon, program("deaf"), "http never went well")

    async def test_one_that_turns_unhealthy_within_the_period(self) -> None:
        check = HealthCheckConfig(
            cpu_threshold=0.0, memory_threshold=0, heartbeat_timeout=0.0, interval=0.1, start_period=5.0,
            http_endpoint=f"http://127.0.0.1:{self.port}/", failure_threshold=3,
        )
        daemon = await self.begin(serves(self.port, 1e9), check=check, period_s=8.0, timeout_s=60.0)
        while daemon.agent.verdict is None or daemon.agent.verdict.waits:
            await sleep(reactor, 0.05)
        evidence = await self.is_refused(daemon, serves(self.port, 1.0), "endpoint_failed")
        self.assertEqual(evidence["agents"]["web"]["verdict"]["limit"], 3.0)

    async def test_a_full_disk(self) -> None:
        daemon = await self.begin()
        before = daemon.agent.pid
        for point in ("update.backup.copy", "update.agent.stage"):
            faults.arm({faults.VARIABLE: f"{point}:1:enospc"})
            with self.assertRaises(UpdateApplyError):
                await daemon.update(daemon.job(program("new")))
            faults.arm({})
            self.nothing_is_left(daemon)
        self.assertEqual((daemon.agent.pid, daemon.binary.read_bytes()), (before, OLD))

    async def test_the_file_of_a_running_program_is_replaced_without_being_written_to(self) -> None:
        daemon = await self.begin(check=QUIET)
        inode = daemon.binary.stat().st_ino
        held = os.open(daemon.binary, os.O_RDONLY)
        self.addCleanup(os.close, held)
        await daemon.update(daemon.job(program("new")))
        self.assertNotEqual(daemon.binary.stat().st_ino, inode)
        self.assertEqual(os.pread(held, len(OLD) + 1, 0), OLD)


def daemon_on(root: Path, verb: str, fault: str = "") -> subprocess.CompletedProcess[str]:
    """One daemon from its start to its end."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), faults.VARIABLE: fault}
    command = [sys.executable, "-m", "tests.integration.updater_support", verb, str(root)]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False)


QUICK = ("update.backup.copy", "update.agent.held", "update.agent.renamed")
SLOW = (
    "update.backup.noted", "update.backup.named", "update.agent.stage", "update.agent.staged", "update.agent.file",
    "update.agent.files", "update.agent.rename", "update.agent.released",
)
POINTS = [*QUICK, *(pytest.param(point, marks=pytest.mark.slow) for point in SLOW)]


@pytest.fixture
def root(tmp_path: Path) -> Any:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "web").write_bytes(OLD)
    (tmp_path / "bin" / "web").chmod(0o755)
    yield tmp_path
    for entry in Path("/proc").iterdir():  # the agent outlives its daemons
        try:
            ours = entry.name.isdigit() and os.readlink(entry / "exe").startswith(f"{tmp_path}/bin/")
        except OSError:
            continue
        if ours:
            os.kill(int(entry.name), signal.SIGKILL)


def ends_well(root: Path, done: subprocess.CompletedProcess[str], content: bytes) -> None:
    """That program is in place and runs, and nothing half is left."""
    assert done.returncode == 0, done.stderr
    assert (root / "bin" / "web").read_bytes() == content
    assert Path(f"/proc/{int(done.stdout)}/exe").read_bytes() == content
    extra = ["extra"] if content != OLD else []
    assert sorted(p.name for p in (root / "bin").iterdir()) == [*extra, "web"]
    assert [p.name for p in (root / "backups").iterdir() if p.name.endswith(".tmp")] == []


@pytest.mark.parametrize("point", POINTS)
def test_killed_there_the_next_daemon_finishes_the_update(root: Path, point: str) -> None:
    killed = daemon_on(root, "update", f"{point}:1")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    ends_well(root, daemon_on(root, "finish"), program("new"))


@pytest.mark.parametrize("point", POINTS)
def test_killed_there_the_next_daemon_undoes_the_update(root: Path, point: str) -> None:
    killed = daemon_on(root, "update", f"{point}:1")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    ends_well(root, daemon_on(root, "undo"), OLD)


@pytest.mark.parametrize("point", [
    "update.agent.restoring", *(pytest.param(f"update.agent.{p}", marks=pytest.mark.slow) for p in ("restore", "restored")),
])
def test_killed_while_it_undoes_the_next_daemon_undoes(root: Path, point: str) -> None:
    assert daemon_on(root, "update", "update.agent.released:1").returncode == -signal.SIGKILL
    assert daemon_on(root, "undo", f"{point}:1").returncode == -signal.SIGKILL
    ends_well(root, daemon_on(root, "undo"), OLD)
