"""The one crossing from gRPC's threads to the reactor, and back.

``blockingCallFromThread`` would hang for ever when the reactor stops under it. Here a worker waits on a lock
of its own, and whoever comes first lets it go: the result, the caller that leaves, the cap, or the stop.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from typing import Any, Protocol, cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from daemon.aio.reactor import ThreadReactor
from daemon.errors import DaemonError, RequestError


class BridgeStopped(Exception):
    """The daemon is stopping."""


class CallerGone(Exception):
    """The caller cancelled, vanished, or its deadline passed: nobody waits for the answer."""


class BridgeTimeout(Exception):
    """The reactor did not answer within the cap."""


class CallContext(Protocol):
    """What is needed of ``grpc.ServicerContext``."""

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Calls when the call has ended; False when it has already."""
        ...


class _Crossing:
    """One worker, or several that share an answer, waiting for the reactor."""

    __slots__ = ("deferred", "make", "settled", "share", "waiters")

    def __init__(self, make: Callable[[], Any], share: object) -> None:
        self.make = make
        self.share = share
        self.waiters: list[Asked] = []
        self.settled = False
        self.deferred: Deferred[Any] | None = None


class Asked:
    """What one worker asked; its lock is held until there is an answer."""

    __slots__ = ("gate", "outcome", "settled")

    def __init__(self) -> None:
        self.gate = threading.Lock()
        self.gate.acquire()
        self.settled = False
        self.outcome: Any = None


class Bridge:
    """Calls from workers into the reactor.

    Args:
        reactor: runs what is called.
    """

    log = Logger()

    def __init__(self, reactor: ThreadReactor) -> None:
        self._reactor = reactor
        self._lock = threading.Lock()  # guards all below, and every waiter's and crossing's state
        self._stopped = False
        self._waiting: dict[Asked, _Crossing] = {}
        self._sharable: dict[object, _Crossing] = {}

    @property
    def waiting(self) -> int:
        """Workers that wait at the moment."""
        return len(self._waiting)

    # ------------------------------------------------------- in a gRPC worker

    def call(
        self, context: CallContext, make: Callable[[], Any], *, cap_s: float, share: object = None
    ) -> Any:
        """Runs ``make`` on the reactor's thread and waits for what it returns.

        Args:
            context: of the call; when that ends, so does the waiting, and a Deferred is cancelled.
            make: returns a value, a Deferred or an awaitable.
            cap_s: the longest wait in seconds; the caller's own deadline may end it before.
            share: callers with an equal one who wait for the same turn of the reactor share one run of
                ``make``; for questions whose answer is the same for everybody. None shares nothing.

        Raises:
            BridgeStopped, CallerGone, BridgeTimeout: as they say.
            Exception: what ``make`` raised or its Deferred failed with.
        """
        return self.wait(self.ask(context, make, share=share), cap_s)

    def ask(self, context: CallContext, make: Callable[[], Any], *, share: object = None) -> Asked:
        """The first half of :meth:`call`: asks and goes on; :meth:`wait` has the answer, or :meth:`drop`.

        Raises:
            BridgeStopped, CallerGone: nothing was asked.
        """
        waiter = Asked()
        post = False
        gone = not context.add_callback(lambda: self._release(waiter, CallerGone()))
        with self._lock:
            if self._stopped:
                raise BridgeStopped
            if gone or waiter.settled:
                raise CallerGone
            crossing = self._sharable.get(share) if share is not None else None
            if crossing is None:
                crossing, post = _Crossing(make, share), True
                if share is not None:
                    self._sharable[share] = crossing
            crossing.waiters.append(waiter)
            self._waiting[waiter] = crossing
        if post:
            self._reactor.callFromThread(self._begin, crossing)
        return waiter

    def wait(self, waiter: Asked, cap_s: float) -> Any:
        """The second half of :meth:`call`."""
        if not waiter.gate.acquire(timeout=cap_s):
            self._release(waiter, BridgeTimeout(f"no answer within {cap_s:g} s"))
        outcome = waiter.outcome
        if isinstance(outcome, Failure):
            raise cast(Exception, outcome.value)
        if isinstance(outcome, (BridgeStopped, CallerGone, BridgeTimeout)):
            raise outcome
        return outcome

    def drop(self, waiter: Asked) -> None:
        """Nobody will wait for it."""
        self._release(waiter, CallerGone())

    def post(self, call: Callable[..., object], *args: Any, **kwargs: Any) -> None:
        """Runs ``call`` on the reactor's thread some time soon; nobody waits. Any thread may post."""
        self._reactor.callFromThread(self._posted, call, args, kwargs)

    def _release(self, waiter: Asked, why: Exception) -> None:
        """Lets a worker go without the answer; the last one to leave cancels the work."""
        with self._lock:
            if waiter.settled:
                return
            crossing = self._waiting.get(waiter)
            if crossing is None:  # it has not posted its work yet, and will not
                waiter.settled = True
                return
            self._settle(waiter, why)
            crossing.waiters.remove(waiter)
            abandoned = not crossing.waiters and not self._stopped
        if abandoned:
            self._reactor.callFromThread(self._abandon, crossing)

    def _settle(self, waiter: Asked, outcome: Any) -> None:
        """With the lock held, once per waiter."""
        waiter.settled = True
        waiter.outcome = outcome
        del self._waiting[waiter]
        waiter.gate.release()

    # ---------------------------------------------------- in the reactor's thread

    def _begin(self, crossing: _Crossing) -> None:
        with self._lock:
            if crossing.share is not None and self._sharable.get(crossing.share) is crossing:
                del self._sharable[crossing.share]  # who comes from now on needs a fresh look
            if self._stopped or not crossing.waiters:
                return
        try:
            result = crossing.make()
            if inspect.iscoroutine(result):
                result = Deferred.fromCoroutine(result)
        except Exception:  # noqa: BLE001 - it travels to the caller
            self._finish(Failure(), crossing)
            return
        if isinstance(result, Deferred):
            crossing.deferred = result
            result.addBoth(self._finish, crossing)
        else:
            self._finish(result, crossing)

    def _finish(self, outcome: Any, crossing: _Crossing) -> None:
        with self._lock:
            crossing.settled = True
            waiters, crossing.waiters = crossing.waiters, []
            for waiter in waiters:
                self._settle(waiter, outcome)
        if not waiters and isinstance(outcome, Failure):
            self._unheard(outcome)

    def _unheard(self, failure: Failure) -> None:
        """A failure nobody waits for any more; our own faults are logged all the same."""
        if failure.check(CancelledError, DaemonError, RequestError) is None:
            self.log.failure("a call failed whose caller had left", failure=failure)

    def _abandon(self, crossing: _Crossing) -> None:
        with self._lock:
            wanted = bool(crossing.waiters) or crossing.settled  # somebody joined meanwhile, or it is done
        if crossing.deferred is not None and not wanted:
            crossing.deferred.cancel()

    def _posted(self, call: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        try:
            call(*args, **kwargs)
        except Exception:  # noqa: BLE001 - logged; nobody waits for it
            self.log.failure("a call posted by a worker failed")

    def stop(self) -> None:
        """Releases everybody and cancels what they wait for; later calls raise BridgeStopped."""
        with self._lock:
            self._stopped = True
            crossings = set(self._waiting.values())
            for waiter in tuple(self._waiting):
                self._settle(waiter, BridgeStopped())
            for crossing in crossings:
                crossing.waiters = []
            self._sharable.clear()
        for crossing in crossings:
            self._abandon(crossing)

