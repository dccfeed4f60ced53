"""Everything that belongs to an agent beyond its leader, and how it is ended.

A child may change its process group, call setsid, or lose its parent: the session number finds the
first, the mark in the environment finds the others, and the log file on stdout and stderr finds a
process that painted over its environment.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from daemon.agents.process import Watched
from daemon.aio.process import ProcessHandle, ProcessLauncher
from daemon.aio.reactor import Clock
from daemon.aio.sleep import sleep
from daemon.aio.threads import Threads
from daemon.model.agent import Identity
from daemon.procfs.identity import identity_of
from daemon.procfs.table import Process, ProcessTable

SWEEP_DEADLINE_S = 20.0
KILL_PATIENCE_S = 10.0  # after SIGKILL; longer means uninterruptible sleep
LANE = "sweep"


@dataclass(frozen=True, slots=True, kw_only=True)
class Belonging:
    """By what an agent's processes are told.

    Attributes:
        token: the agent's mark.
        session: the leader's pid while that number is proven to be the leader's (it lives, or is our
            unreaped zombie); 0 otherwise, when the number may be a stranger's.
        keep_session: the session of a successor that must not be touched, 0 for none.
        keep_run: the run of that successor.
        keep_since_ticks: its start; a process without readable mark that began later is left alone.
        writes_to_log: whether a pid has stdout and stderr on the agent's log.
    """

    token: str
    session: int = 0
    keep_session: int = 0
    keep_run: str = ""
    keep_since_ticks: int = 0
    writes_to_log: Callable[[int], bool] = lambda _pid: False


def belongs(process: Process, what: Belonging) -> bool:
    """Whether a process belongs to the agent and is no part of the successor."""
    if process.pid == os.getpid():
        return False
    stat = process.stat
    if what.keep_session and (stat.session == what.keep_session or stat.pid == what.keep_session):
        return False
    if process.mark is not None and process.mark.token == what.token:
        return not what.keep_run or process.mark.run != what.keep_run
    if what.session and stat.session == what.session:
        return True
    if process.mark is None and process.wiped:
        if what.keep_since_ticks and stat.start_ticks >= what.keep_since_ticks:
            return False
        return what.writes_to_log(process.pid)
    return False


def leader_among(processes: Iterable[Process]) -> Process | None:
    """The leader among an agent's processes, when a daemon died before it saved whom it had spawned.

    A leader leads its session; a child that called setsid leads one too but began later.
    """
    leaders = [p for p in processes if p.stat.session == p.stat.pid]
    return min(leaders, key=lambda p: (p.stat.start_ticks, p.pid), default=None)


class Sweeper:
    """Sweeps of the process table, shared: many that ask at once get one look.

    Args:
        threads: a sweep of a large host takes longer than the loop may stand still.
        sweep: reads the table.
    """

    def __init__(self, threads: Threads, sweep: Callable[[], ProcessTable]) -> None:
        self._threads = threads
        self._sweep = sweep
        self._waiting: list[Deferred[ProcessTable]] = []
        self._under_way = False

    def sweep(self) -> Deferred[ProcessTable]:
        """A look at the table that begins after this call."""
        waiter: Deferred[ProcessTable] = Deferred()
        self._waiting.append(waiter)
        self._begin()
        return waiter

    def _begin(self) -> None:
        if self._under_way or not self._waiting:
            return
        self._under_way = True
        served, self._waiting = self._waiting, []
        self._threads.run(LANE, SWEEP_DEADLINE_S, self._sweep).addBoth(self._done, served)

    def _done(self, result: ProcessTable | Failure, served: list[Deferred[ProcessTable]]) -> None:
        self._under_way = False
        for waiter in served:
            if isinstance(result, Failure):
                waiter.errback(result)
            else:
                waiter.callback(result)
        self._begin()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """What ending an agent's belongings came to.

    Attributes:
        count: processes that were signalled.
        left: pids that would not die.
    """

    count: int
    left: tuple[int, ...] = ()


class Terminator:
    """Ends processes that belong to an agent, each by its own pidfd, and waits until none is left."""

    log = Logger()

    def __init__(self, clock: Clock, launcher: ProcessLauncher, sweeper: Sweeper) -> None:
        self._clock = clock
        self._launcher = launcher
        self._sweeper = sweeper

    async def end_all(
        self,
        find: Callable[[ProcessTable], Iterable[Process]],
        *,
        gentle_signal: int = 0,
        gentle_until: float = 0.0,
        hurry: Callable[[], bool] = lambda: False,
    ) -> Ended:
        """Ends whatever ``find`` finds, looking again until it finds nothing.

        Args:
            find: picks the processes out of a sweep.
            gentle_signal: sent once to each first; 0 means SIGKILL at once.
            gentle_until: clock seconds at which patience with the gentle signal ends.
            hurry: whether patience has ended early.
        """
        asked: set[Identity] = set()
        killed: set[Identity] = set()
        kill_until = 0.0
        while True:
            found = list(find(await self._sweeper.sweep()))
            if not found:
                return Ended(count=len(asked | killed))
            now = self._clock.seconds()
            gentle = bool(gentle_signal) and now < gentle_until and not hurry()
            if not gentle:
                kill_until = kill_until or now + KILL_PATIENCE_S
                if now >= kill_until:
                    return Ended(count=len(asked | killed), left=tuple(p.pid for p in found))
            number = gentle_signal if gentle else signal.SIGKILL
            done = asked if gentle else killed
            watches = []
            for process in found:
                identity = identity_of(process.stat)
                watch = self._watch(identity)
                if watch is None:
                    continue
                if identity not in done:
                    done.add(identity)
                    self._signal(watch, number)
                watches.append(watch)
            if not watches:  # gone meanwhile, or not to be watched: never spin on it
                await sleep(self._clock, 0.05)
            if gentle:
                await self._wait(watches, gentle_until - now, hurry)
            else:  # nothing is left to hurry: whoever did not die yet is waited for, or the loop would spin
                await self._wait(watches, kill_until - now, lambda: False)

    def _watch(self, identity: Identity) -> _Watch | None:
        watch = _Watch()
        protocol = Watched(watch.ended)
        try:
            handle = self._launcher.adopt(protocol, identity)
        except OSError as error:
            self.log.warn("process {pid} cannot be watched: {error}", pid=identity.pid, error=str(error))
            return None
        if handle is None:
            return None
        protocol.handle = watch.handle = handle
        return watch

    def _signal(self, watch: _Watch, number: int) -> None:
        try:
            if watch.handle is not None:
                watch.handle.signal_leader(number)
        except PermissionError:
            self.log.warn("process {pid} may not be signalled by this user", pid=watch.pid)

    async def _wait(self, watches: list[_Watch], patience_s: float, hurry: Callable[[], bool]) -> None:
        """Until all have ended, or patience has; in steps, so that ``hurry`` is heard."""
        end = self._clock.seconds() + patience_s
        for watch in watches:
            while not watch.over:
                left = end - self._clock.seconds()
                if left <= 0 or hurry():
                    break
                await watch.wait(self._clock, min(left, 0.5))
        for watch in watches:
            watch.release()


class _Watch:
    """One watched leftover."""

    def __init__(self) -> None:
        self.handle: ProcessHandle | None = None
        self.over = False
        self._waiter: Deferred[None] | None = None

    @property
    def pid(self) -> int:
        return self.handle.pid if self.handle is not None else 0

    def ended(self) -> None:
        self.over = True
        if self._waiter is not None:
            waiter, self._waiter = self._waiter, None
            waiter.callback(None)

    async def wait(self, clock: Clock, timeout_s: float) -> None:
        waiter: Deferred[None] = Deferred()
        self._waiter = waiter
        timer = clock.callLater(timeout_s, waiter.cancel)
        try:
            await waiter
        except CancelledError:
            self._waiter = None
        if timer.active():
            timer.cancel()

    def release(self) -> None:
        if not self.over and self.handle is not None:
            self.handle.forget()
