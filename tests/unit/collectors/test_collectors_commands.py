"""One contract for CommandRunner, kept by the fake and by the real one; and a real exec collector."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import CancelledError
from twisted.trial.unittest import TestCase

from daemon.aio.command import CommandRunner, PidfdCommandRunner
from daemon.aio.process import PidfdLauncher
from daemon.aio.sleep import sleep
from daemon.collectors.exec import ExecCollector
from daemon.errors import CollectError
from daemon.model.agent import ExitStatus
from tests.fakes.commands import FakeCommandRunner, FakeProgram

LOOP: Any = reactor
ENV = {"PATH": "/usr/bin:/bin"}
SCRIPTS = {
    "prints": "printf '{\"depth\": 3}'",
    "fails": "printf no; exit 3",
    "hangs": "echo begun; sleep 60",
    "floods": "head -c 5000 /dev/zero",
}
PROGRAMS = {
    "prints": FakeProgram(output=b'{"depth": 3}', takes_s=0.01),
    "fails": FakeProgram(output=b"no", status=ExitStatus(code=3)),
    "hangs": FakeProgram(output=b"begun\n", takes_s=60),
    "floods": FakeProgram(output=b"\0" * 5000),
}


class CommandRunnerContract:
    """What every CommandRunner does; the class beside it makes one."""

    runner: CommandRunner
    where: str
    timeout = 30

    async def run_it(self, name: str, timeout_s: float = 20.0) -> Any:
        return await self.runner.run((f"{self.where}/{name}",), env=ENV, timeout_s=timeout_s, max_output=1000)

    async def test_output_and_clean_end(self) -> None:
        result = await self.run_it("prints")
        assert (result.output, result.status.code) == (b'{"depth": 3}', 0)
        assert not (result.timed_out or result.truncated)

    async def test_exit_code_is_a_result(self) -> None:
        result = await self.run_it("fails")
        assert (result.output, result.status) == (b"no", ExitStatus(code=3))

    async def test_missing_program_is_an_oserror(self) -> None:
        try:
            await self.run_it("absent")
        except FileNotFoundError:
            return
        raise AssertionError("it ran")

    async def test_timeout_kills_and_keeps_what_was_printed(self) -> None:
        result = await self.run_it("hangs", timeout_s=0.3)
        assert (result.timed_out, result.output, result.status.signal) == (True, b"begun\n", 9)

    async def test_flood_is_cut_and_killed(self) -> None:
        result = await self.run_it("floods")
        assert (result.truncated, len(result.output)) == (True, 1000)

    async def test_cancelling_ends_it_at_once(self) -> None:
        call = self.runner.run((f"{self.where}/hangs",), env=ENV, timeout_s=20, max_output=1000)
        call.cancel()
        try:
            await call
        except CancelledError:
            return await self.gone()
        raise AssertionError("it went on")

    async def gone(self) -> None:
        """What was cancelled is out of the reactor."""


class FakeCommandRunnerTests(CommandRunnerContract, TestCase):
    def setUp(self) -> None:
        self.where = "/fake"
        self.runner = FakeCommandRunner(
            LOOP, {f"/fake/{name}": program for name, program in PROGRAMS.items()}
        )


class RealCommandRunnerTests(CommandRunnerContract, TestCase):
    def setUp(self) -> None:
        self.where = tempfile.mkdtemp(prefix="commands-")
        self.readers = set(LOOP.getReaders())
        self.addCleanup(shutil.rmtree, self.where)
        for name, script in SCRIPTS.items():
            self.write(name, script)
        self.real = PidfdCommandRunner(LOOP, PidfdLauncher(LOOP))
        self.runner = self.real

    async def gone(self) -> None:
        before = set(LOOP.getReaders()) - self.readers
        for _try in range(500):
            if before.isdisjoint(LOOP.getReaders()):
                return
            await sleep(LOOP, 0.01)

    def write(self, name: str, script: str) -> None:
        file = Path(self.where) / name
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)

    def collector(self, name: str, timeout_s: float) -> ExecCollector:
        return ExecCollector(
            name=name,
            command=(f"{self.where}/{name}",),
            interval_s=60,
            timeout_s=timeout_s,
            runner=self.runner,
            wall=lambda: 1.0,
            env=ENV,
        )

    async def test_collector_reads_a_real_command(self) -> None:
        sample = await self.collector("prints", 20).collect()
        self.assertEqual(sample.values, {"depth": 3})

    async def test_killed_command_leaves_no_offspring(self) -> None:
        self.write("parent", f"sleep 61 & echo $! > {self.where}/child; wait")
        try:
            await self.collector("parent", 0.5).collect()
        except CollectError as error:
            self.assertIn("did not end within 0.5 s", str(error))
        else:
            self.fail("it ended")
        child = int((Path(self.where) / "child").read_text())
        for _try in range(100):
            if not _runs(child):
                break
            await sleep(LOOP, 0.02)
        self.assertFalse(_runs(child))
        self.assertEqual(self.real.running, 0)


def _runs(pid: int) -> bool:
    """Whether the process lives; a zombie that waits for its new parent does not."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
