"""One stop of an agent: the signal, the patience, SIGKILL, and everything that belongs to it."""

from __future__ import annotations

import signal
from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.logger import Logger

from daemon.agents.belongings import KILL_PATIENCE_S
from daemon.agents.exits import Find
from daemon.agents.process import AgentProcess
from daemon.agents.world import AgentWorld
from daemon.aio.threads import LaneBusy, LaneTimeout
from daemon.errors import AgentStopError
from daemon.model.event import Severity
from daemon.procfs.identity import identity_of
from daemon.procfs.stat import read_stat
from daemon.procfs.table import Process, ProcessTable

FAMILY_PATIENCE_S = 0.5  # a sweep takes milliseconds


def signal_number(name: str) -> int:
    """The number of a configured signal name; SIGTERM for one this host does not know."""
    found = getattr(signal, f"SIG{name.removeprefix('SIG')}", signal.SIGTERM)
    return int(found)


class Stop:
    """Ends an agent; :meth:`run` returns when nothing of it is left.

    Args:
        process: its leader, None when only left-overs are to be ended.
        find: see :func:`daemon.agents.exits.leftovers`.
        stop_signal: sent first when ``graceful``.
        timeout_s: patience with it, for the leader and the rest together.
        graceful: False means SIGKILL at once.
    """

    log = Logger()

    def __init__(
        self, world: AgentWorld, agent_id: str, process: AgentProcess | None, find: Find, *,
        stop_signal: int, timeout_s: float, graceful: bool,
    ) -> None:
        self.ended_count = 0
        self._world = world
        self._agent_id = agent_id
        self._process = process
        self._find = find
        self._signal = stop_signal
        self._timeout_s = timeout_s
        self._hurried = not graceful
        self._waiting: Deferred[None] | None = None
        self._done: list[Deferred[None]] = []
        self._over = False

    def hurry(self) -> None:
        """Patience ends now."""
        self._hurried = True
        if self._waiting is not None:
            self._waiting.cancel()

    def done(self) -> Deferred[None]:
        """Fires at :meth:`close`."""
        waiter: Deferred[None] = Deferred()
        if self._over:
            waiter.callback(None)
        else:
            self._done.append(waiter)
        return waiter

    def close(self) -> None:
        """Called by the owner when the stop is over, however it went, and has been recorded."""
        self._over = True
        waiters, self._done = self._done, []
        for waiter in waiters:
            waiter.callback(None)

    async def run(self) -> Stop:
        """Carries the stop out.

        Raises:
            AgentStopError: D3002, something survives SIGKILL or may not be signalled.
        """
        clock = self._world.clock
        until = clock.seconds() + self._timeout_s
        process = self._process
        find = self._find
        if process is not None and process.alive:
            if process.adopted and not self._hurried:
                find = await self._with_family(find)
            await self._end_leader(process, until)
        try:
            ended = await self._world.terminator.end_all(
                find,
                gentle_signal=0 if self._hurried else self._signal,
                gentle_until=until,
                hurry=lambda: self._hurried,
            )
        except (LaneBusy, LaneTimeout) as error:
            self._not_swept(error)
            return self
        self.ended_count = ended.count
        if ended.left:
            raise self._survived(ended.left)
        return self

    def _not_swept(self, error: Exception) -> None:
        """A /proc that hangs hides left-overs, but the leader has gone: the operator must not wait for it."""
        text = (
            f"agent {self._agent_id} is stopped, but whether children of it are left is unknown ({error}); "
            "a process that hangs in the kernel holds /proc up: ps -eo pid,stat,wchan shows it"
        )
        self.log.warn("D3002 {text}", text=text, error_code="D3002")
        self._world.events.publish(
            "agent.not_swept", text, severity=Severity.WARN, agent_id=self._agent_id, data={"code": "D3002"}
        )

    async def _with_family(self, find: Find) -> Find:
        """Also finds again whoever belongs to the agent now, while its leader proves the session.

        The parent of an adopted leader reaps it at once; its session number proves nothing afterwards.
        """
        look = self._world.sweeper.sweep()
        look.addTimeout(FAMILY_PATIENCE_S, cast(Any, self._world.clock))
        try:
            family = {identity_of(p.stat) for p in find(await look)}
        except (LaneBusy, LaneTimeout, DeferredTimeout):
            return find  # a /proc that hangs does not hold the signal up

        def find_family(table: ProcessTable) -> list[Process]:
            found = {p.pid: p for p in find(table)}
            found.update({p.pid: p for p in table if identity_of(p.stat) in family})
            return list(found.values())

        return find_family

    async def _end_leader(self, process: AgentProcess, until: float) -> None:
        clock = self._world.clock
        try:
            if not self._hurried:
                process.signal_group(self._signal)
                stat = read_stat(process.pid)
                if stat is not None and stat.state in "tT":
                    process.signal_group(signal.SIGCONT)  # a suspended one would not hear of it
                await self._exited(process, until - clock.seconds())
            if process.alive:
                if not self._hurried:
                    self.log.warn(
                        "agent {agent_id}: pid {pid} lives {timeout_s} s after {signal}; SIGKILL follows",
                        agent_id=self._agent_id, pid=process.pid, timeout_s=self._timeout_s,
                        signal=signal.Signals(self._signal).name,
                    )
                process.signal_group(signal.SIGKILL)
                await self._exited(process, KILL_PATIENCE_S, unhurried=True)
        except PermissionError as error:
            raise AgentStopError(
                f"pid {process.pid} may not be signalled by this user; "
                "run the daemon as root or as the agent's user"
            ) from error
        if process.alive:
            raise self._survived((process.pid,))

    async def _exited(self, process: AgentProcess, patience_s: float, *, unhurried: bool = False) -> None:
        waiter = process.exited()
        if not unhurried:
            self._waiting = waiter
        timer = self._world.clock.callLater(max(0.0, patience_s), waiter.cancel)
        try:
            await waiter
        except CancelledError:
            return
        finally:
            self._waiting = None
            if timer.active():
                timer.cancel()

    def _survived(self, pids: tuple[int, ...]) -> AgentStopError:
        shown = ", ".join(map(str, pids))
        return AgentStopError(
            f"processes {shown} of agent {self._agent_id} survive SIGKILL: they hang in the kernel, "
            "or we may not signal them (ps -o user,stat,wchan shows which); "
            "mend the disk or mount they wait for, or the daemon's user, then stop again",
            pids=pids,
        )
