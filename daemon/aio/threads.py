"""Calls that may block, on daemon threads of our own.

The reactor's pool would hold the stop of the process until a hung ``statvfs`` on a dead NFS server
came back. Here each *lane* is one daemon thread (one per collector, one for the store, ...): a call
that hangs holds its own lane, nobody else's, and never the exit of the process.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, ParamSpec, Protocol, TypeVar

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.python.failure import Failure

from daemon.aio.reactor import ThreadReactor

P = ParamSpec("P")
T = TypeVar("T")

LANE_BACKLOG = 1024  # calls waiting in one lane; more means that the lane is stuck
LANE_IDLE_S = 60.0  # an idle lane gives its thread back


class LaneTimeout(Exception):
    """The call did not end before its deadline; its thread is still in it."""


class LaneBusy(Exception):
    """The lane is stuck in an overdue call, or has too many calls waiting."""


class Threads(Protocol):
    """The seam: the real one is :class:`ThreadLanes`, tests may run calls in place."""

    def run(
        self, lane: str, deadline_s: float, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> Deferred[T]:
        """Runs ``call`` on the lane's thread, in order.

        Args:
            lane: names the thread.
            deadline_s: seconds from now; 0 means none.

        Returns:
            fires with the result; fails with what the call raised, ``LaneTimeout`` or ``LaneBusy``.
        """
        ...


class _Job:
    __slots__ = ("args", "call", "deferred", "kwargs", "overdue", "settled", "timer")

    def __init__(self, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.call = call
        self.args = args
        self.kwargs = kwargs
        self.settled = False
        self.overdue = False
        self.timer: Any = None
        self.deferred: Deferred[Any] = Deferred(self._cancelled)

    def _cancelled(self, _deferred: Deferred[Any]) -> None:
        # The caller left; the thread cannot be interrupted, its late answer is dropped.
        self.settle(Failure(CancelledError()))

    def settle(self, result: Any) -> None:
        if self.settled:
            return
        self.settled = True
        if self.timer is not None and self.timer.active():
            self.timer.cancel()
        if isinstance(result, Failure):
            self.deferred.errback(result)
        else:
            self.deferred.callback(result)


class _Lane:
    """One daemon thread and the calls waiting for it. ``wake`` guards jobs, thread and closed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.jobs: deque[_Job] = deque()
        self.wake = threading.Condition()
        self.thread: threading.Thread | None = None
        self.overdue = 0
        self.pending = 0  # calls whose thread has not reported back; the reactor's thread alone counts
        self.closed = False


class ThreadLanes:
    """The real :class:`Threads`.

    Args:
        reactor: delivers results (``callFromThread``) and keeps deadlines.
        idle_s: seconds after which a lane without calls gives its thread back.
    """

    def __init__(self, reactor: ThreadReactor, *, idle_s: float = LANE_IDLE_S) -> None:
        self._reactor = reactor
        self._idle_s = idle_s
        self._lanes: dict[str, _Lane] = {}
        self._stopping: bool = False
        self._pending = 0
        self._drained: list[Deferred[None]] = []

    def run(
        self, lane: str, deadline_s: float, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> Deferred[T]:
        """See :class:`Threads`."""
        if self._stopping:
            return fail(LaneBusy(f"{lane}: the daemon is stopping"))
        channel = self._lanes.get(lane)
        if channel is None:
            channel = self._lanes[lane] = _Lane(lane)
        if channel.overdue or len(channel.jobs) >= LANE_BACKLOG:
            return fail(LaneBusy(f"{lane}: an earlier call has not come back"))
        job = _Job(call, args, kwargs)
        if deadline_s > 0:
            job.timer = self._reactor.callLater(deadline_s, self._overdue, channel, job, deadline_s)
        self._pending += 1
        channel.pending += 1
        with channel.wake:
            self._lanes[lane] = channel  # its thread may have given up, and the lane with it, just now
            channel.jobs.append(job)
            if channel.thread is None:
                channel.thread = threading.Thread(
                    target=self._serve, args=(channel,), name=f"lane-{lane}", daemon=True
                )
                try:
                    channel.thread.start()
                except RuntimeError as error:  # the limit of tasks; the next call tries again
                    channel.jobs.remove(job)
                    channel.thread = None
                    self._pending -= 1
                    channel.pending -= 1
                    if job.timer is not None:
                        job.timer.cancel()
                    return fail(LaneBusy(f"{lane}: {error}"))
            else:
                channel.wake.notify()
        return job.deferred

    def _serve(self, lane: _Lane) -> None:
        """The lane's thread."""
        while True:
            with lane.wake:
                while not lane.jobs:
                    if lane.closed or not lane.wake.wait(self._idle_s):
                        if lane.jobs:
                            continue
                        lane.thread = None
                        if not lane.closed:  # a name that is not used again (a host, an agent) costs nothing
                            self._lanes.pop(lane.name, None)
                        return
                job = lane.jobs.popleft()
            result: Any
            if job.settled:
                result = None
            else:
                try:
                    result = job.call(*job.args, **job.kwargs)
                except BaseException:  # noqa: BLE001 - it travels to the caller as a Failure
                    result = Failure()
            try:
                self._reactor.callFromThread(self._done, lane, job, result)
            except RuntimeError:
                return  # the interpreter is going away
            del job, result

    def _done(self, lane: _Lane, job: _Job, result: Any) -> None:
        self._pending -= 1
        lane.pending -= 1
        if job.overdue:
            lane.overdue -= 1
        job.settle(result)
        if self._pending == 0:
            waiters, self._drained = self._drained, []
            for waiter in waiters:
                waiter.callback(None)

    def _overdue(self, lane: _Lane, job: _Job, deadline_s: float) -> None:
        if not job.settled:
            lane.overdue += 1
            job.overdue = True
            job.settle(Failure(LaneTimeout(f"{lane.name}: no answer within {deadline_s:g} s")))

    @property
    def lanes(self) -> tuple[str, ...]:
        """Those that were used lately."""
        return tuple(self._lanes)

    @property
    def stuck(self) -> tuple[str, ...]:
        """The lanes that are held by an overdue call."""
        return tuple(name for name, lane in tuple(self._lanes.items()) if lane.overdue)

    async def stop(self, grace_s: float) -> tuple[str, ...]:
        """Refuses new calls and waits for those under way, ``grace_s`` seconds at most.

        Returns:
            the lanes given up; their threads are daemon threads and end with the process.
        """
        self._stopping = True
        if self._pending:
            waiter: Deferred[None] = Deferred()
            self._drained.append(waiter)
            timer = self._reactor.callLater(grace_s, self._give_up, waiter)
            await waiter
            if timer.active():
                timer.cancel()
        left = []
        for lane in tuple(self._lanes.values()):
            with lane.wake:
                lane.closed = True
                lane.wake.notify()
            if lane.pending:
                left.append(lane.name)
            elif lane.thread is not None:
                lane.thread.join(0.1)
        return tuple(left)

    def _give_up(self, waiter: Deferred[None]) -> None:
        if waiter in self._drained:
            self._drained.remove(waiter)
            waiter.callback(None)
