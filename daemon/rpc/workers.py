"""The threads gRPC runs calls on: few, started when needed, and a way to say no while all are busy."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")

WORKERS = 32
CALLS_MAX = 64  # running and waiting for a worker; a caller beyond is told at once
IDLE_S = 60.0  # an idle worker gives its thread back


class _Job:
    __slots__ = ("args", "call", "future", "refused")

    def __init__(self, call: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.call = call
        self.args = args
        self.refused = False
        self.future: Future[Any] = Future()

    def run(self) -> None:
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            result = self.call(*self.args)
        except BaseException as error:  # noqa: BLE001 - it travels with the future
            self.future.set_exception(error)
        else:
            self.future.set_result(result)


class WorkerPool(Executor):
    """An executor for ``grpc.server`` with a bound that can answer.

    gRPC's own bound refuses without a reason a program can read. Here a call beyond ``calls_max`` still
    runs, on one thread apart, and finds ``refusing`` true: all it does is to say so. Threads are daemon
    threads: one that hangs never holds the exit of the process.

    Args:
        workers: threads at most, beside the one that refuses.
        calls_max: calls taken at most, running and waiting.
        idle_s: seconds after which an idle thread ends.
    """

    def __init__(self, workers: int = WORKERS, calls_max: int = CALLS_MAX, *, idle_s: float = IDLE_S) -> None:
        self._calls_max = calls_max
        self._idle_s = idle_s
        self._lock = threading.Lock()
        self._lane = _Lane(self._lock, workers, "grpc")
        self._refusals = _Lane(self._lock, 1, "grpc-refusal")
        self._closed = False
        self._here = threading.local()

    @property
    def refusing(self) -> bool:
        """Whether the call on this thread is one too many."""
        return bool(getattr(self._here, "refused", False))

    @property
    def calls(self) -> int:
        """Calls running and waiting."""
        return self._lane.taken

    @property
    def threads(self) -> int:
        """Threads that live."""
        return self._lane.threads + self._refusals.threads

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Takes a call; never blocks.

        It never raises either, for that would end gRPC's serving thread: where the host gives no thread, and
        after the shutdown, the call runs here and now as one too many.
        """
        job = _Job(functools.partial(fn, **kwargs) if kwargs else fn, args)
        with self._lock:
            job.refused = self._closed or self._lane.taken >= self._calls_max
            lane = self._refusals if job.refused else self._lane
            taken = not self._closed and lane.add(job, self._serve, self._idle_s)
        if not taken:
            job.refused = True
            self._run(job)
        return job.future

    def _run(self, job: _Job) -> None:
        self._here.refused = job.refused
        try:
            job.run()
        finally:
            self._here.refused = False

    def _serve(self, lane: _Lane, idle_s: float) -> None:
        while (job := lane.take(idle_s)) is not None:
            self._run(job)
            del job  # an idle thread holds no call
            with self._lock:
                lane.taken -= 1

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Takes no more; threads end when nothing is left to run.

        The arguments are not heeded: nobody may wait for a caller, and what waits for a worker is told of the
        stop by running.
        """
        with self._lock:
            self._closed = True
            self._lane.close()
            self._refusals.close()


class _Lane:
    """Jobs and the threads that serve them; the pool's lock guards the counts."""

    def __init__(self, lock: threading.Lock, most: int, name: str) -> None:
        self.threads = 0
        self.taken = 0  # jobs waiting and running
        self._lock = lock
        self._most = most
        self._name = name
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()

    def add(self, job: _Job, serve: Callable[[_Lane, float], None], idle_s: float) -> bool:
        """With the lock held; False when there is no thread and none to be had."""
        if self.taken >= self.threads < self._most:
            thread = threading.Thread(target=serve, args=(self, idle_s), name=self._name, daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the limit of tasks; those that live serve it, where there are any
                if not self.threads:
                    return False
            else:
                self.threads += 1
        self.taken += 1
        self._jobs.put(job)
        return True

    def take(self, idle_s: float) -> _Job | None:
        """The next job; None ends the thread."""
        while True:
            try:
                job = self._jobs.get(timeout=idle_s)
                ended = job is None  # the pool is shut, and nothing comes behind that
            except Empty:
                job, ended = None, False
            if job is not None:
                return job
            with self._lock:  # so that none is put between the look and the end
                if ended or self._jobs.empty():
                    self.threads -= 1
                    return None

    def close(self) -> None:
        """With the lock held: each thread ends when it finds nothing left."""
        for _ in range(self.threads):
            self._jobs.put(None)
