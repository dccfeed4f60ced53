"""One contract for processes under watch: ``PidfdLauncher`` on the real reactor, and ``FakeLauncher``."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from typing import Any

import msgspec
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import Clock, deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from daemon.aio.process import Command, PidfdLauncher
from daemon.model.agent import ExitStatus, Identity
from daemon.procfs import marks
from daemon.procfs.identity import identify
from daemon.procfs.stat import read_stat
from daemon.procfs.table import ProcessTable, sweep
from tests.fakes.host import Child, FakeHost, FakeLauncher, Program

TOKEN = "c0ffee" * 5
ENV = {"PATH": "/usr/bin:/bin", marks.MARK: TOKEN, marks.RUN: "r"}
TICK_S = 0.02

LIVES = "exec sleep 60"
EXITS_7 = "exit 7"
EXITS_0 = "exit 0"
ENDS_BY_SEGV = "kill -SEGV $$"
IGNORES_TERM = "trap '' TERM; echo ready >&2; while :; do sleep 1; done"
HAS_CHILDREN = "sleep 60 & setsid sleep 60 & sleep 0.1; echo ready >&2; exec sleep 60"
LEAVES_A_CHILD = "sleep 60 & exit 3"

PROGRAMS = {
    LIVES: Program(),
    EXITS_7: Program(lives_s=TICK_S, status=ExitStatus(code=7)),
    EXITS_0: Program(lives_s=TICK_S),
    ENDS_BY_SEGV: Program(lives_s=TICK_S, status=ExitStatus(signal=11)),
    IGNORES_TERM: Program(ignores=frozenset({15})),
    HAS_CHILDREN: Program(children=(Child(), Child(setsid=True))),
    LEAVES_A_CHILD: Program(lives_s=TICK_S, status=ExitStatus(code=3), children=(Child(),)),
}


class Protocol(ProcessProtocol):
    """Notes what happens to its process."""

    def __init__(self) -> None:
        self.exited: Deferred[None] = Deferred()
        self.ended: list[Failure] = []
        self.exits: list[Failure] = []
        self.connections = 0

    def connectionMade(self) -> None:
        self.connections += 1

    def processExited(self, reason: Failure) -> None:
        self.exits.append(reason)
        if not self.exited.called:
            self.exited.callback(None)

    def processEnded(self, reason: Failure) -> None:
        self.ended.append(reason)


class _Contract:
    """What every implementation must do. A subclass says how time passes and what the kernel shows."""

    timeout = 20
    launcher: Any

    def sweep(self) -> ProcessTable:
        raise NotImplementedError

    async def pass_time(self, seconds: float) -> None:
        raise NotImplementedError

    def open_handles(self) -> int:
        raise NotImplementedError

    async def handles_at_rest(self) -> int:
        """Open handles once the reactor itself has opened all of its own."""
        await self.pass_time(0)
        return self.open_handles()

    def stranger(self, script: str) -> Identity:
        """A process that runs the script and is not our child."""
        raise NotImplementedError

    def spawn(self, script: str) -> tuple[Protocol, Any]:
        protocol = Protocol()
        handle = self.launcher.spawn(protocol, Command(argv=["/bin/sh", "-c", script], env=ENV))
        self.addCleanup(self.end, handle)
        return protocol, handle

    def end(self, handle: Any) -> None:
        handle.signal_group(signal.SIGKILL)
        handle.forget()

    def marked(self) -> set[int]:
        return {p.pid for p in self.sweep().marked(TOKEN)}

    async def ended(self, protocol: Protocol) -> None:
        for _ in range(500):
            if protocol.exits:
                return
            await self.pass_time(TICK_S)
        raise AssertionError("it did not end")

    async def count(self, number: int) -> set[int]:
        """Waits until so many processes carry the mark."""
        for _ in range(500):
            found = self.marked()
            if len(found) == number:
                return found
            await self.pass_time(TICK_S)
        raise AssertionError(f"{len(self.marked())} processes, not {number}")

    # ------------------------------------------------------------------ spawn

    async def test_a_spawned_process_leads_its_session_and_its_group_with_its_mark(self) -> None:
        protocol, handle = self.spawn(LIVES)
        self.assertEqual(protocol.connections, 1)
        self.assertIs(protocol.transport, handle)
        self.assertIsNone(handle.status)
        self.assertTrue(handle.pinned)
        found = next(p for p in self.sweep() if p.pid == handle.pid)
        self.assertEqual((found.stat.session, found.stat.pgrp), (handle.pid, handle.pid))
        self.assertEqual(found.stat.start_ticks, handle.identity.start_ticks)
        await self.count(1)

    async def test_exit_codes_and_signals_are_told(self) -> None:
        for script, status in (
            (EXITS_7, ExitStatus(code=7)), (EXITS_0, ExitStatus(code=0)), (ENDS_BY_SEGV, ExitStatus(signal=11)),
        ):
            protocol, handle = self.spawn(script)
            await self.ended(protocol)
            self.assertEqual(handle.status, status)
            self.assertEqual(protocol.exits[0].check(ProcessDone) is not None, status.clean)
            handle.reap()
            self.assertTrue(protocol.ended[0].check(ProcessDone, ProcessTerminated))
            self.assertEqual(len(protocol.exits), 1)

    async def test_a_failed_spawn_raises_and_leaves_nothing(self) -> None:
        before = await self.handles_at_rest()
        for path in ("/no/such/program", "/etc/passwd"):
            with self.assertRaises(OSError):
                self.launcher.spawn(Protocol(), Command(argv=[path], env=ENV))
        self.assertEqual(self.open_handles(), before)
        self.assertEqual(self.marked(), set())

    # ---------------------------------------------------------------- signals

    async def test_the_leader_alone_can_be_signalled(self) -> None:
        protocol, handle = self.spawn(HAS_CHILDREN)
        family = await self.count(3)
        await self.pass_time(0.3)
        self.assertTrue(handle.signal_leader(signal.SIGKILL))
        await self.ended(protocol)
        self.assertEqual(handle.status, ExitStatus(signal=9))
        self.assertEqual(self.marked(), family - {handle.pid})
        self.end_marked()

    async def test_a_group_signal_reaches_children_and_spares_who_left_the_session(self) -> None:
        protocol, handle = self.spawn(HAS_CHILDREN)
        await self.count(3)
        await self.pass_time(0.3)
        self.assertTrue(handle.signal_group(signal.SIGTERM))
        await self.ended(protocol)
        left = await self.count(1)
        self.assertNotIn(handle.pid, left)
        handle.reap()
        self.end_marked()

    async def test_the_group_of_a_dead_leader_can_be_signalled_until_it_is_reaped(self) -> None:
        protocol, handle = self.spawn(LEAVES_A_CHILD)
        await self.ended(protocol)
        await self.count(1)
        self.assertTrue(handle.pinned)
        self.assertTrue(handle.signal_group(signal.SIGKILL))
        await self.count(0)
        handle.reap()
        self.assertFalse(handle.pinned)
        self.assertFalse(handle.signal_group(signal.SIGKILL))
        self.assertFalse(handle.signal_leader(signal.SIGKILL))

    async def test_an_ignored_signal_is_ignored(self) -> None:
        protocol, handle = self.spawn(IGNORES_TERM)
        await self.pass_time(0.3)
        handle.signal_leader(signal.SIGTERM)
        await self.pass_time(0.2)
        self.assertEqual(protocol.exits, [])
        handle.signal_group(signal.SIGKILL)
        await self.ended(protocol)
        self.assertEqual(handle.status, ExitStatus(signal=9))

    # ------------------------------------------------------------------- reap

    async def test_a_dead_child_is_a_zombie_until_it_is_reaped_once(self) -> None:
        before = await self.handles_at_rest()
        protocol, handle = self.spawn(EXITS_7)
        handle.reap()  # it lives: nothing happens
        await self.ended(protocol)
        self.assertEqual(protocol.ended, [])
        self.assertIsNone(self.launcher.adopt(Protocol(), msgspec.structs.replace(handle.identity, start_ticks=1)))
        self.assertTrue(self.exists(handle.pid))
        handle.reap()
        handle.reap()
        self.assertFalse(self.exists(handle.pid))
        self.assertEqual(len(protocol.ended), 1)
        self.assertEqual(self.open_handles(), before)

    def exists(self, pid: int) -> bool:
        """Whether the pid is taken, zombies included."""
        raise NotImplementedError

    async def test_what_is_forgotten_lives_on_and_nothing_leaks(self) -> None:
        before = await self.handles_at_rest()
        protocol, handle = self.spawn(LIVES)
        handle.forget()
        handle.forget()
        self.assertEqual(self.open_handles(), before)
        await self.count(1)
        self.assertEqual(protocol.exits, [])
        self.assertFalse(handle.pinned)
        again = Protocol()
        adopted = self.launcher.adopt(again, handle.identity)
        adopted.signal_group(signal.SIGKILL)
        await self.ended(again)
        self.assertEqual(adopted.status, ExitStatus(signal=9))
        adopted.reap()
        self.assertFalse(self.exists(handle.pid))
        self.assertEqual(self.open_handles(), before)

    # ------------------------------------------------------------------ adopt

    async def test_a_stranger_of_that_identity_is_adopted_and_its_end_told(self) -> None:
        before = await self.handles_at_rest()
        for script, status in ((LIVES, ExitStatus(signal=15)), (EXITS_7, ExitStatus(code=7))):
            identity = self.stranger(script)
            protocol = Protocol()
            handle = self.launcher.adopt(protocol, identity)
            self.assertEqual((handle.identity, handle.pid), (identity, identity.pid))
            self.assertTrue(handle.pinned)
            if script == LIVES:
                handle.signal_group(signal.SIGTERM)
            await self.ended(protocol)
            self.assertIn(handle.status, (status, ExitStatus()))  # unknown before Linux 6.15
            self.assertFalse(handle.pinned)
            handle.reap()
            self.assertEqual(len(protocol.ended), 1)
        self.assertEqual(self.open_handles(), before)

    async def test_whoever_differs_is_not_adopted(self) -> None:
        before = await self.handles_at_rest()
        identity = self.stranger(LIVES)
        for changes in (
            {"start_ticks": identity.start_ticks + 1}, {"start_ticks": 0}, {"boot_id": "another"}, {"boot_id": ""},
            {"pid": 0}, {"pid": -1}, {"pid": 2**31 - 1},
        ):
            other = msgspec.structs.replace(identity, **changes)
            self.assertIsNone(self.launcher.adopt(Protocol(), other), changes)
        self.assertEqual(self.open_handles(), before)
        self.end(self.launcher.adopt(Protocol(), identity))

    async def test_the_dead_are_not_adopted_and_a_zombie_of_ours_is_gone_then(self) -> None:
        protocol, handle = self.spawn(LIVES)
        handle.forget()
        self.kill(handle.pid)
        await self.count(0)
        self.assertTrue(self.exists(handle.pid))
        self.assertIsNone(self.launcher.adopt(Protocol(), handle.identity))
        self.assertFalse(self.exists(handle.pid))
        self.assertIsNone(self.launcher.adopt(Protocol(), handle.identity))

    def kill(self, pid: int) -> None:
        """SIGKILL from outside."""
        raise NotImplementedError

    def end_marked(self) -> None:
        for pid in self.marked():
            self.kill(pid)


class RealProcesses(_Contract, TestCase):
    """The kernel."""

    def setUp(self) -> None:
        self.launcher = PidfdLauncher(reactor)  # type: ignore[arg-type]  # it is one
        self.addCleanup(self.end_marked)

    def sweep(self) -> ProcessTable:
        return sweep()

    async def pass_time(self, seconds: float) -> None:
        await deferLater(reactor, seconds, lambda: None)

    def open_handles(self) -> int:
        return len(os.listdir("/proc/self/fd"))

    def stranger(self, script: str) -> Identity:
        # The shell between us and it ends at once: init becomes its parent.
        env = {**ENV, "SCRIPT": "sleep 0.3; " + script}
        found = subprocess.run(
            ["/bin/sh", "-c", 'setsid /bin/sh -c "$SCRIPT" >/dev/null 2>&1 & echo $!'],
            env=env, capture_output=True, check=True,
        )
        pid = int(found.stdout)
        while (stat := read_stat(pid)) is not None and stat.session != pid:
            os.sched_yield()  # until it has called setsid
        identity = identify(pid)
        assert identity is not None
        return identity

    def exists(self, pid: int) -> bool:
        return identify(pid) is not None

    def kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)

    def end(self, handle: Any) -> None:
        super().end(handle)
        if identify(handle.pid) == handle.identity:  # forgotten: our child all the same, unless a stranger
            with contextlib.suppress(ChildProcessError):
                os.waitpid(handle.pid, 0)

    async def test_streams_and_umask_and_cwd_are_as_asked(self) -> None:
        read_fd, write_fd = os.pipe()
        self.addCleanup(os.close, read_fd)
        protocol = Protocol()
        script = "pwd; umask; echo error >&2; readlink /proc/self/fd/0; echo $-"
        handle = self.launcher.spawn(protocol, Command(
            argv=["sh", "-c", script], env=ENV, cwd="/usr", stdout=write_fd, stderr=write_fd, umask=0o027,
        ))
        os.close(write_fd)
        await self.ended(protocol)
        handle.reap()
        lines = os.read(read_fd, 4096).decode().splitlines()
        self.assertEqual(lines[:4], ["/usr", "0027", "error", "/dev/null"])

    async def test_no_descriptor_of_ours_reaches_the_child(self) -> None:
        inheritable = os.dup(0)
        os.set_inheritable(inheritable, True)
        self.addCleanup(os.close, inheritable)
        read_fd, write_fd = os.pipe()
        self.addCleanup(os.close, read_fd)
        protocol = Protocol()
        handle = self.launcher.spawn(
            protocol, Command(argv=["/bin/sh", "-c", "echo /proc/$$/fd/*"], env=ENV, stdout=write_fd))
        os.close(write_fd)
        await self.ended(protocol)
        handle.reap()
        names = {path.rpartition("/")[2] for path in os.read(read_fd, 4096).decode().split()}
        self.assertLessEqual(names, {"0", "1", "2", "3"})  # 3: the shell reads its own directory

    async def test_the_transport_knows_twisteds_words(self) -> None:
        protocol, handle = self.spawn(LIVES)
        for close in (handle.closeStdin, handle.closeStdout, handle.closeStderr, handle.loseConnection):
            close()
        handle.closeChildFD(0)
        with self.assertRaises(KeyError):
            handle.writeToChild(0, b"x")
        self.assertIn(str(handle.pid), handle.logPrefix())
        handle.signalProcess("TERM")
        await self.ended(protocol)
        with self.assertRaises(Exception) as caught:
            handle.signalProcess(15)
        self.assertEqual(type(caught.exception).__name__, "ProcessExitedAlready")
        handle.reap()


class FakeProcesses(_Contract, TestCase):
    """The fake."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.host = FakeHost(self.clock, self.program_of)
        self.launcher = FakeLauncher(self.host, self.clock)

    def program_of(self, command: Command) -> Program:
        if command.argv[0] != "/bin/sh":
            return Program(error=2)
        return PROGRAMS[command.argv[-1]]

    def sweep(self) -> ProcessTable:
        return self.host.sweep()

    async def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)

    def open_handles(self) -> int:
        return len(self.launcher.handles)

    def stranger(self, script: str) -> Identity:
        process = self.host.start(PROGRAMS[script], environ=b"PATH=/bin\0")
        return self.host.identity_of(process)

    def exists(self, pid: int) -> bool:
        return pid in self.host.processes

    def kill(self, pid: int) -> None:
        self.host.processes[pid].take(signal.SIGKILL)
