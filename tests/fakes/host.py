"""``FakeHost``: the processes of a kernel on a Clock, verified against ``PidfdLauncher`` by one contract.

Programs live, print, fork, ignore signals and exit as told; identities, sessions, groups, marks,
zombies, reaping and reparenting follow Linux. A daemon is one :class:`FakeLauncher`; when it dies its
children go to init and another launcher on the same host may adopt them.
"""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from daemon.aio import reactor as seams
from daemon.aio.process import Command
from daemon.model.agent import ExitStatus, Identity
from daemon.procfs.identity import boot_id
from daemon.procfs.marks import parse_mark, wiped
from daemon.procfs.stat import ProcStat
from daemon.procfs.table import Process, ProcessTable

FIRST_PID = 5_000_000  # beyond every pid_max: /proc itself never knows them
TICKS_PER_S = 100
BOOT_TICKS = 1_000_000  # the host was up that long when the test began
INIT = 1
KILLED = ExitStatus(signal=int(signal.SIGKILL))


@dataclass(frozen=True, kw_only=True)
class Child:
    """A process that a program forks at its start.

    Attributes:
        setsid: it leads a session of its own.
        own_group: it leads a process group of its own.
        environ: another environment than its parent's; ``b"title"`` is a painted one.
        ignores: signals it does not care about.
        stuck: it survives SIGKILL (uninterruptible sleep).
    """

    setsid: bool = False
    own_group: bool = False
    environ: bytes | None = None
    ignores: frozenset[int] = frozenset()
    stuck: bool = False


@dataclass(kw_only=True)
class Program:
    """What an executable does; a test changes it between spawns.

    Attributes:
        lives_s: seconds until it ends by itself.
        status: how it ends then.
        ignores: signals it does not care about.
        stop_takes_s: seconds from a deadly signal to its end.
        stop_status: how it ends then; None = killed by the signal.
        children: what it forks at once.
        prints: what it writes to stdout at once.
        painted: what it writes over its environment.
        stuck: it survives SIGKILL.
        untouchable: it runs as somebody we may not signal.
        error: the spawn fails with that errno.
    """

    lives_s: float = math.inf
    status: ExitStatus = field(default_factory=lambda: ExitStatus(code=0))
    ignores: frozenset[int] = frozenset()
    stop_takes_s: float = 0.0
    stop_status: ExitStatus | None = None
    children: tuple[Child, ...] = ()
    prints: bytes = b""
    painted: bytes | None = None
    stuck: bool = False
    untouchable: bool = False
    error: int = 0


class FakeProcess:
    """One process. ``state`` is S, Z (a zombie) or empty (reaped)."""

    def __init__(
        self, host: FakeHost, *, pid: int, start_ticks: int, ppid: int, pgrp: int, session: int,
        environ: bytes, program: Program, parent: FakeLauncher | None = None,
        streams: tuple[tuple[int, int] | None, tuple[int, int] | None] = (None, None),
    ) -> None:
        self.pid = pid
        self.start_ticks = start_ticks
        self.ppid = ppid
        self.pgrp = pgrp
        self.session = session
        self.environ = environ
        self.program = program
        self.parent = parent
        self.streams = streams
        self.state = "S"
        self.hidden = False
        self.status: ExitStatus | None = None
        self.signals: list[int] = []
        self.watchers: list[FakeHandle] = []
        self._host = host
        self._ending: seams.DelayedCall | None = None
        if program.lives_s < math.inf:
            self._ending = host.clock.callLater(program.lives_s, self.die, program.status)

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.state == "S"

    @property
    def token(self) -> str:
        """The agent's token in its environment, or empty."""
        mark = parse_mark(self.environ)
        return mark.token if mark is not None else ""

    def take(self, number: int) -> None:
        """A signal arrives.

        Raises:
            PermissionError: it is somebody else's.
        """
        if self.program.untouchable:
            raise PermissionError(1, "Operation not permitted")
        if not self.alive or number == 0:
            return
        self.signals.append(number)
        if number == signal.SIGKILL:
            if not self.program.stuck:
                self.die(KILLED)
        elif number not in self.program.ignores:
            status = self.program.stop_status or ExitStatus(signal=number)
            if self.program.stop_takes_s:
                if self._ending is not None and self._ending.active():
                    self._ending.cancel()
                self._ending = self._host.clock.callLater(self.program.stop_takes_s, self.die, status)
            else:
                self.die(status)

    def die(self, status: ExitStatus) -> None:
        """It ends: a zombie of its daemon, or reaped by init (or its parent) at once."""
        if not self.alive:
            return
        if self._ending is not None and self._ending.active():
            self._ending.cancel()
        self.status = status
        self.state = "Z"
        for child in self._host.children_of(self):
            child.ppid = INIT
        if self.parent is None:
            self.vanish()
        for watcher in tuple(self.watchers):
            watcher.notice()

    def vanish(self) -> None:
        """Its pid goes back to the kernel."""
        self.state = ""
        if self._host.processes.get(self.pid) is self:
            del self._host.processes[self.pid]

    def stat(self) -> ProcStat:
        """Its line in /proc."""
        return ProcStat(
            pid=self.pid, comm="fake", state=self.state or "X", ppid=self.ppid, pgrp=self.pgrp,
            session=self.session, utime_ticks=0, stime_ticks=0, num_threads=1,
            start_ticks=self.start_ticks, vsize_bytes=0, rss_pages=0, exit_code=0,
        )


class FakeHandle:
    """See ProcessHandle."""

    def __init__(
        self, launcher: FakeLauncher, process: FakeProcess, identity: Identity, protocol: ProcessProtocol,
    ) -> None:
        self.identity = identity
        self.status: ExitStatus | None = None
        self.process = process
        self.proto = protocol
        self._launcher = launcher
        self._open = True
        self._ours = process.parent is launcher
        process.watchers.append(self)
        launcher.handles.append(self)
        protocol.makeConnection(self)

    @property
    def pid(self) -> int:
        """See ProcessHandle."""
        return self.identity.pid

    @property
    def pinned(self) -> bool:
        """See ProcessHandle."""
        return self._open and (self.status is None or self._ours)

    def notice(self) -> None:
        """The pidfd is readable: the reactor looks at it in one of its next turns."""
        self._launcher.clock.callLater(0, self._exited)

    def _exited(self) -> None:
        if not self._open or self.status is not None:
            return
        told = self._ours or self._launcher.host.tells_strangers
        self.status = (self.process.status if told else None) or ExitStatus()
        self.proto.processExited(_reason(self.status))

    def signal_leader(self, number: int) -> bool:
        """See ProcessHandle."""
        if not self._open or not self.process.state:
            return False
        self.process.take(number)
        return True

    def signal_group(self, number: int) -> bool:
        """See ProcessHandle."""
        if not self._open:
            return False
        members = [p for p in tuple(self._launcher.host.processes.values()) if p.pgrp == self.pid]
        denied = 0
        for member in members:
            try:
                member.take(number)
            except PermissionError:
                denied += 1
        if members and denied == len(members):
            raise PermissionError(1, "Operation not permitted")
        return bool(members)

    def reap(self) -> None:
        """See ProcessHandle."""
        if self.status is None or not self._open:
            return
        if self._ours:
            self.process.vanish()
        self._close()
        self.proto.processEnded(_reason(self.status))

    def forget(self) -> None:
        """See ProcessHandle."""
        if self._open:
            self._close()

    def _close(self) -> None:
        self._open = False
        self.process.watchers.remove(self)
        self._launcher.handles.remove(self)


class FakeLauncher:
    """One daemon's ProcessLauncher.

    Attributes:
        handles: what is under watch: the open pidfds.
        spawned: every process it started, in order.
        refuses: an errno that watching fails with (descriptor limit), 0 for none.
    """

    def __init__(self, host: FakeHost, clock: seams.Clock) -> None:
        self.host = host
        self.clock = clock
        self.handles: list[FakeHandle] = []
        self.spawned: list[FakeProcess] = []
        self.refuses = 0

    def spawn(self, protocol: ProcessProtocol, command: Command) -> FakeHandle:
        """See ProcessLauncher."""
        program = self.host.program_of(command)
        if program.error:
            raise OSError(program.error, os.strerror(program.error), command.argv[0])
        process = self.host.start(
            program, environ=_environ(command.env), parent=self,
            streams=(_file(command.stdout), _file(command.stderr)),
        )
        self.spawned.append(process)
        if program.prints and command.stdout is not None:
            os.write(command.stdout, program.prints)
        return FakeHandle(self, process, self.host.identity_of(process), protocol)

    def adopt(self, protocol: ProcessProtocol, identity: Identity) -> FakeHandle | None:
        """See ProcessLauncher."""
        if self.refuses:
            raise OSError(self.refuses, os.strerror(self.refuses))
        process = self.host.processes.get(identity.pid)
        if process is None or self.host.identity_of(process) != identity:
            return None
        if not process.alive:
            if process.parent is self:
                process.vanish()
            return None
        return FakeHandle(self, process, identity, protocol)

    def die(self, *, heir: FakeLauncher | None = None) -> None:
        """The daemon is gone; ``heir`` is itself after an exec, else init takes its children."""
        for handle in tuple(self.handles):
            handle.forget()
        for process in tuple(self.host.processes.values()):
            if process.parent is self:
                process.parent = heir
                if heir is None:
                    process.ppid = INIT
                    if not process.alive:
                        process.vanish()


class FakeHost:
    """The machine.

    Args:
        clock: on which programs live.
        program_of: which program a command runs; default: by ``programs[argv[0]]``.

    Attributes:
        programs: by path.
        processes: by pid, zombies included.
        tells_strangers: whether the kernel tells the status of what is not our child (6.15 on).
        next_pid: of the next process.
        bystanders: processes nobody may ever touch; see :meth:`stranger`.
    """

    def __init__(self, clock: Clock, program_of: Callable[[Command], Program] | None = None) -> None:
        self.clock = clock
        self.programs: dict[str, Program] = {}
        self.processes: dict[int, FakeProcess] = {}
        self.tells_strangers = True
        self.next_pid = FIRST_PID
        self.bystanders: list[FakeProcess] = []
        self.program_of = program_of or (lambda c: self.programs.setdefault(c.argv[0], Program()))

    def start(
        self, program: Program, *, environ: bytes, parent: FakeLauncher | None = None, pid: int = 0,
        streams: tuple[tuple[int, int] | None, tuple[int, int] | None] = (None, None), leads: bool = True,
    ) -> FakeProcess:
        """A new process and its children; ``leads`` a session of its own."""
        pid = pid or self._pid()
        process = FakeProcess(
            self, pid=pid, start_ticks=self.boot_ticks(), ppid=FIRST_PID - 1 if parent else INIT,
            pgrp=pid if leads else INIT, session=pid if leads else INIT,
            environ=environ if program.painted is None else program.painted,
            program=program, parent=parent, streams=streams,
        )
        self.processes[pid] = process
        for child in program.children:
            self.fork(process, child, environ=environ)
        return process

    def fork(self, parent: FakeProcess, child: Child, *, environ: bytes | None = None) -> FakeProcess:
        """A running process forks."""
        pid = self._pid()
        inherited = parent.environ if environ is None else environ
        process = FakeProcess(
            self, pid=pid, start_ticks=self.boot_ticks(), ppid=parent.pid,
            pgrp=pid if child.setsid or child.own_group else parent.pgrp,
            session=pid if child.setsid else parent.session,
            environ=inherited if child.environ is None else child.environ,
            program=Program(ignores=child.ignores, stuck=child.stuck), streams=parent.streams,
        )
        self.processes[pid] = process
        return process

    def stranger(self, *, pid: int = 0, environ: bytes = b"PATH=/bin\0", leads: bool = True) -> FakeProcess:
        """A process that has nothing to do with us; :meth:`untouched` proves that it was left alone."""
        process = self.start(Program(), environ=environ, pid=pid, leads=leads)
        self.bystanders.append(process)
        return process

    def untouched(self) -> bool:
        """Whether every stranger lives and nobody sent it a signal or watches it."""
        return all(p.alive and not p.signals and not p.watchers for p in self.bystanders)

    def alive(self, token: str = "") -> list[FakeProcess]:
        """The live processes, or those of them that carry the token."""
        return [p for p in self.processes.values() if p.alive and (not token or p.token == token)]

    @property
    def zombies(self) -> list[FakeProcess]:
        """Ended processes nobody reaped."""
        return [p for p in self.processes.values() if p.state == "Z"]

    def children_of(self, parent: FakeProcess) -> list[FakeProcess]:
        """Those it forked that were not reparented."""
        return [p for p in self.processes.values() if p.ppid == parent.pid]

    def identity_of(self, process: FakeProcess) -> Identity:
        """Which process this is."""
        return Identity(boot_id=boot_id(), pid=process.pid, start_ticks=process.start_ticks)

    def sweep(self) -> ProcessTable:
        """See :func:`daemon.procfs.table.sweep`."""
        return ProcessTable(
            Process(stat=p.stat(), mark=None, wiped=False, hidden=True) if p.hidden else
            Process(stat=p.stat(), mark=parse_mark(p.environ), wiped=wiped(p.environ))
            for p in self.alive()
        )

    def writes_to(self, pid: int, device: int, inode: int) -> bool:
        """See :func:`daemon.procfs.marks.writes_to`."""
        process = self.processes.get(pid)
        return process is not None and process.streams == ((device, inode), (device, inode))

    def age_s(self, start_ticks: int) -> float:
        """See :func:`daemon.procfs.age.process_age_s`."""
        return max(0.0, self.clock.seconds() - (start_ticks - BOOT_TICKS) / TICKS_PER_S)

    def power_cut(self) -> None:
        """Every process is gone, nobody hears of it."""
        for process in tuple(self.processes.values()):
            process.watchers.clear()
            process.parent = None
            process.die(KILLED)

    def _pid(self) -> int:
        pid, self.next_pid = self.next_pid, self.next_pid + 1
        return pid

    def boot_ticks(self) -> int:
        """See :func:`daemon.procfs.age.boot_ticks`."""
        return BOOT_TICKS + int(self.clock.seconds() * TICKS_PER_S)


def _environ(env: Mapping[str, str]) -> bytes:
    return b"".join(f"{name}={value}".encode() + b"\0" for name, value in env.items())


def _file(fd: int | None) -> tuple[int, int] | None:
    if fd is None:
        return None
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


def _reason(status: ExitStatus) -> Failure:
    if status.clean:
        return Failure(ProcessDone(0))
    return Failure(ProcessTerminated(status.code, status.signal, status.code))
