"""Short commands on the real reactor: bounded in time, output and offspring."""

from __future__ import annotations

import os
import signal
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import CancelledError
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import SynchronousTestCase, TestCase

from daemon.aio.command import CommandResult, PidfdCommandRunner
from daemon.aio.process import PidfdLauncher
from daemon.model.agent import ExitStatus
from daemon.procfs.stat import read_stat
from tests.fakes.host import FakeHost, FakeLauncher, Program

ENV = {"PATH": "/usr/bin:/bin", "WORD": "hello"}


class Commands(TestCase):
    timeout = 20

    def setUp(self) -> None:
        launcher = PidfdLauncher(reactor)  # type: ignore[arg-type]  # it is one
        self.runner = PidfdCommandRunner(reactor, launcher)  # type: ignore[arg-type]  # likewise

    async def rest(self) -> None:
        """The reactor has opened all of its own descriptors."""
        await deferLater(reactor, 0, lambda: None)
        self.fds = self.open_fds()
        self.before = self.children()

    def children(self) -> set[int]:
        """Our children, zombies included."""
        pids = map(int, filter(str.isdigit, os.listdir("/proc")))
        return {pid for pid in pids if (stat := read_stat(pid)) is not None and stat.ppid == os.getpid()}

    def open_fds(self) -> int:
        return len(os.listdir("/proc/self/fd"))

    def sh(self, script: str, **keys: Any) -> Any:
        keys = {"env": ENV, "timeout_s": 10.0, "max_output": 1000, **keys}
        return self.runner.run(["/bin/sh", "-c", script], **keys)

    def clean(self) -> None:
        """Nothing is left of any command."""
        self.assertEqual(self.open_fds(), self.fds)
        self.assertEqual(self.runner.running, 0)
        self.assertLessEqual(self.children(), self.before)

    async def gone(self, pid: int) -> None:
        """Waits until a process has ended."""
        for _ in range(500):
            stat = read_stat(pid)
            if stat is None or stat.dead:
                return
            await deferLater(reactor, 0.01, lambda: None)
        self.fail(f"{pid} lives")

    async def test_its_output_and_status_are_told(self) -> None:
        await self.rest()
        result = await self.sh('echo "$WORD"; echo hidden >&2; exit 3')
        self.assertEqual(result, CommandResult(status=ExitStatus(code=3), output=b"hello\n"))
        self.clean()

    async def test_stderr_is_merged_when_asked_for(self) -> None:
        result = await self.sh("echo one; echo two >&2; echo three", with_stderr=True)
        self.assertEqual(result.output, b"one\ntwo\nthree\n")

    async def test_only_the_given_environment_and_directory_are_seen(self) -> None:
        result = await self.sh("pwd; env | sort", cwd="/usr", env={"A": "b"})
        self.assertEqual(result.output.splitlines()[:2], [b"/usr", b"A=b"])
        self.assertNotIn(b"HOME", result.output)

    async def test_at_its_timeout_its_whole_group_is_killed(self) -> None:
        await self.rest()
        result = await self.sh("sleep 60 & echo $!; sleep 60", timeout_s=0.4)
        self.assertTrue(result.timed_out)
        self.assertEqual(result.status, ExitStatus(signal=9))
        await self.gone(int(result.output))
        self.clean()

    async def test_one_that_ignores_signals_is_killed_at_its_timeout(self) -> None:
        result = await self.sh("trap '' TERM INT HUP; while :; do sleep 1; done", timeout_s=0.3)
        self.assertTrue(result.timed_out)

    async def test_output_beyond_the_limit_is_cut_and_its_writer_killed(self) -> None:
        await self.rest()
        result = await self.sh("while :; do echo 0123456789; done", max_output=25)
        self.assertTrue(result.truncated)
        self.assertFalse(result.timed_out)
        self.assertEqual(result.output, b"0123456789\n0123456789\n012")
        self.assertEqual(result.status, ExitStatus(signal=9))
        self.clean()

    async def test_output_of_just_the_limit_is_whole(self) -> None:
        result = await self.sh("printf 0123456789", max_output=10)
        self.assertFalse(result.truncated)
        self.assertEqual((result.output, result.status), (b"0123456789", ExitStatus(code=0)))

    async def test_much_output_arrives_whole(self) -> None:
        result = await self.sh("head -c 300000 /dev/zero", max_output=400_000)
        self.assertEqual(len(result.output), 300_000)

    async def test_what_it_leaves_in_the_background_ends_with_it(self) -> None:
        await self.rest()
        result = await self.sh("sleep 60 & echo $!; exit 0")
        self.assertEqual(result.status, ExitStatus(code=0))
        await self.gone(int(result.output))
        self.clean()

    async def test_one_that_left_the_group_and_holds_the_pipe_does_not_hold_the_result(self) -> None:
        await self.rest()
        result = await self.sh("setsid sh -c 'echo $$; exec sleep 60' & sleep 0.3; exit 0")
        self.clean()
        os.kill(int(result.output), signal.SIGKILL)

    async def test_a_program_that_is_missing_or_no_program_fails_at_once(self) -> None:
        await self.rest()
        for path, error in (("/no/such", FileNotFoundError), ("/etc/passwd", PermissionError)):
            with self.assertRaises(error):
                await self.runner.run([path], env=ENV, timeout_s=1.0, max_output=10)
        self.clean()

    async def test_an_argument_no_program_can_be_given_is_an_oserror_too(self) -> None:
        await self.rest()
        for keys in ({"argv": ["/bin/true", "a\0b"]}, {"argv": ["/bin/true"], "env": {"A=B": "c"}}):
            with self.assertRaises(OSError):
                await self.runner.run(**{"env": ENV, "timeout_s": 1.0, "max_output": 10, **keys})
        self.clean()

    async def test_a_caller_that_leaves_kills_it(self) -> None:
        await self.rest()
        running = self.sh("echo $$ > /dev/null; exec sleep 60")
        pid = next(iter(self.runner._running))._handle.pid  # type: ignore[union-attr]  # it has started
        running.cancel()
        with self.assertRaises(CancelledError):
            await running
        await self.gone(pid)
        await deferLater(reactor, 0.05, lambda: None)
        self.clean()

    async def test_all_under_way_end_when_the_runner_is_stopped(self) -> None:
        await self.rest()
        commands = [self.sh("sleep 60") for _ in range(3)]
        self.assertEqual(self.runner.running, 3)
        self.runner.stop()
        for command in commands:
            self.assertEqual((await command).status, ExitStatus(signal=9))
        self.clean()

    async def test_many_in_a_row_leave_no_descriptor_and_no_zombie(self) -> None:
        await self.rest()
        for _ in range(20):
            await self.sh("true")
        self.clean()


class ReadersOnly(Clock):
    """A Clock that lets descriptors be watched and never finds any ready."""

    def addReader(self, _reader: object) -> None:
        """See IReactorFDSet."""

    def removeReader(self, _reader: object) -> None:
        """See IReactorFDSet."""


class AnothersCommands(SynchronousTestCase):
    """One that changed its user (sudo, su) may not be signalled."""

    def setUp(self) -> None:
        self.clock = ReadersOnly()
        self.host = FakeHost(self.clock)
        self.launcher = FakeLauncher(self.host, self.clock)
        self.runner = PidfdCommandRunner(self.clock, self.launcher)

    def test_its_end_is_told_although_its_group_may_not_be_signalled(self) -> None:
        self.host.programs["sudo"] = Program(lives_s=1.0, untouchable=True)
        running = self.runner.run(["sudo"], env={}, timeout_s=10.0, max_output=10)
        self.clock.advance(1)
        self.clock.advance(0)
        self.assertEqual(self.successResultOf(running).status, ExitStatus(code=0))
        self.assertEqual(self.host.zombies, [])

    def test_its_timeout_is_told_when_it_ends_at_last(self) -> None:
        self.host.programs["sudo"] = Program(lives_s=5.0, untouchable=True)
        running = self.runner.run(["sudo"], env={}, timeout_s=1.0, max_output=10)
        self.clock.advance(2)
        self.assertNoResult(running)
        self.clock.advance(3)
        self.clock.advance(0)
        self.assertTrue(self.successResultOf(running).timed_out)
        self.assertEqual(self.runner.running, 0)


