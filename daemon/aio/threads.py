"""Calls that may block, on daemon threads of our own.

The reactor's pool would hold the stop of the process until a hung ``statvfs`` on a dead NFS server
came back. Here each *lane* (one per collector, one for the store, ...) is a row of calls that run one after
the other: a call that hangs holds its own lane, nobody else's, and never the exit of the process.

Lanes share their threads, for most of them have one short call now and then: a thread for each of a hundred
logs, made at the start and given back a minute later, cost more than all their calls. A few threads are made
at once, another one every few milliseconds as long as a lane waits for one: so a lane never waits for another
one's call to come back.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, ParamSpec, Protocol, TypeVar

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.logger import Logger
from twisted.python.failure import Failure

from daemon.aio.reactor import DelayedCall, ThreadReactor

log = Logger()

P = ParamSpec("P")
T = TypeVar("T")

LANE_BACKLOG = 1024  # calls waiting in one lane; more means that the lane is stuck
IDLE_S = 90.0  # an idle thread ends; longer than a minute, which is how often much of the work comes
AT_ONCE = 4  # threads made without a pause
GROW_S = 0.01  # between two more
NO_THREAD_S = 5.0  # after the limit of tasks refused one


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
    """A row of calls. ``ThreadLanes._lock`` guards jobs and active; the reactor's thread alone counts."""

    __slots__ = ("active", "jobs", "name", "overdue", "pending")

    def __init__(self, name: str) -> None:
        self.name = name
        self.jobs: deque[_Job] = deque()
        self.active = False  # a thread serves it, or it waits for one
        self.overdue = 0
        self.pending = 0  # calls whose thread has not reported back


class _Worker:
    """One thread; its gate opens when there is work for it, or the end has come."""

    __slots__ = ("gate", "thread")

    def __init__(self) -> None:
        self.gate = threading.Lock()
        self.gate.acquire()
        self.thread: threading.Thread | None = None


class ThreadLanes:
    """The real :class:`Threads`.

    Args:
        reactor: delivers results (``callFromThread``), keeps deadlines, makes threads one by one.
        idle_s: seconds after which an idle thread ends.
    """

    def __init__(self, reactor: ThreadReactor, *, idle_s: float = IDLE_S) -> None:
        self._reactor = reactor
        self._idle_s = idle_s
        self._lanes: dict[str, _Lane] = {}  # those with calls
        self._stopping: bool = False
        self._pending = 0
        self._drained: list[Deferred[None]] = []
        self._growing: DelayedCall | None = None
        self._lock = threading.Lock()  # guards what follows
        self._ready: deque[_Lane] = deque()  # lanes that wait for a thread
        self._idle: list[_Worker] = []  # the one that worked last comes first, so that the others may end
        self._workers = 0
        self._closed = False

    @property
    def workers(self) -> int:
        """Threads, idle ones included."""
        return self._workers

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
        with self._lock:
            channel.jobs.append(job)
            if not channel.active:
                channel.active = True
                self._ready.append(channel)
                try:
                    self._wake()
                except RuntimeError as error:  # the limit of tasks; the next call tries again
                    channel.jobs.remove(job)
                    self._ready.remove(channel)
                    channel.active = False
                    self._forget(channel)
                    return fail(LaneBusy(f"{lane}: {error}"))
        if deadline_s > 0:
            job.timer = self._reactor.callLater(deadline_s, self._overdue, channel, job, deadline_s)
        self._pending += 1
        channel.pending += 1
        return job.deferred

    def _wake(self) -> None:
        """Under the lock: sees to it that a lane that became ready is served.

        Raises:
            RuntimeError: there is no thread at all, and none can be made.
        """
        if self._idle:
            self._idle.pop().gate.release()
        elif self._workers < AT_ONCE:
            try:
                self._hire()
            except RuntimeError:
                if not self._workers:
                    raise
                self._grow_later()
        else:
            self._grow_later()

    def _hire(self) -> None:
        worker = _Worker()
        worker.thread = threading.Thread(target=self._serve, args=(worker,), name="lane", daemon=True)
        worker.thread.start()
        self._workers += 1

    def _grow_later(self, after_s: float = GROW_S) -> None:
        if self._growing is None:
            self._growing = self._reactor.callLater(after_s, self._grow)

    def _grow(self) -> None:
        """A lane still waits: the threads there are may hang, one and all."""
        self._growing = None
        with self._lock:
            if not self._ready:
                return
            try:
                if not self._idle:
                    self._hire()
            except RuntimeError as error:
                log.warn("no more threads are to be had ({error}); calls wait", error=str(error))
                self._grow_later(NO_THREAD_S)
            else:
                self._grow_later()

    def _serve(self, worker: _Worker) -> None:
        """A thread."""
        while True:
            with self._lock:
                lane = self._ready.popleft() if self._ready else None
                if lane is not None:
                    job = lane.jobs.popleft()
                elif self._closed:
                    self._workers -= 1
                    return
                else:
                    self._idle.append(worker)
            if lane is None:
                if not worker.gate.acquire(timeout=self._idle_s):
                    with self._lock:
                        if worker in self._idle:
                            self._idle.remove(worker)
                            self._workers -= 1
                            return
                    worker.gate.acquire()  # woken at the last moment
                continue
            result: Any
            if worker.thread is not None:
                worker.thread.name = f"lane-{lane.name}"  # whoever looks at a process that hangs sees where
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
            with self._lock:  # after the report: the next call's must not come before it
                lane.active = bool(lane.jobs)
                if lane.active:
                    self._ready.append(lane)

    def _done(self, lane: _Lane, job: _Job, result: Any) -> None:
        self._pending -= 1
        lane.pending -= 1
        if job.overdue:
            lane.overdue -= 1
        self._forget(lane)
        job.settle(result)
        if self._pending == 0:
            waiters, self._drained = self._drained, []
            for waiter in waiters:
                waiter.callback(None)

    def _forget(self, lane: _Lane) -> None:
        """A lane without calls is nothing but its name."""
        if not lane.pending and self._lanes.get(lane.name) is lane:
            del self._lanes[lane.name]

    def _overdue(self, lane: _Lane, job: _Job, deadline_s: float) -> None:
        if not job.settled:
            lane.overdue += 1
            job.overdue = True
            job.settle(Failure(LaneTimeout(f"{lane.name}: no answer within {deadline_s:g} s")))

    @property
    def lanes(self) -> tuple[str, ...]:
        """Those with calls that have not come back."""
        return tuple(self._lanes)

    @property
    def stuck(self) -> tuple[str, ...]:
        """The lanes that are held by an overdue call."""
        return tuple(name for name, lane in self._lanes.items() if lane.overdue)

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
        if self._growing is not None:
            self._growing.cancel()
            self._growing = None
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for worker in idle:
            worker.gate.release()
            if worker.thread is not None:
                worker.thread.join(0.1)
        return tuple(self._lanes)

    def _give_up(self, waiter: Deferred[None]) -> None:
        if waiter in self._drained:
            self._drained.remove(waiter)
            waiter.callback(None)
