"""The bridge: who waits is let go by whatever comes first, and by nothing twice."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from daemon.errors import StorageError
from daemon.rpc.bridge import Bridge, BridgeStopped, BridgeTimeout, CallerGone

PATIENCE_S = 5.0


class TurningClock(Clock):
    """A reactor a test turns by hand; any thread may post."""

    def __init__(self) -> None:
        super().__init__()
        self.posted: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = []
        self.arrived = threading.Semaphore(0)

    def callFromThread(self, callable: Callable[..., Any], *args: Any, **kw: Any) -> None:
        """See IReactorFromThreads."""
        self.posted.append((callable, args, kw))
        self.arrived.release()

    def turn(self) -> None:
        """Runs what was posted."""
        while self.posted:
            call, args, kw = self.posted.pop(0)
            call(*args, **kw)

    def wait(self, count: int = 1) -> None:
        """Until that many more were posted."""
        for _ in range(count):
            assert self.arrived.acquire(timeout=PATIENCE_S), "nothing was posted"


class FakeContext:
    """A call that a test ends."""

    def __init__(self, *, ended: bool = False) -> None:
        self.ended = ended
        self.callbacks: list[Callable[[], None]] = []

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """See grpc.RpcContext."""
        if self.ended:
            return False
        self.callbacks.append(callback)
        return True

    def end(self) -> None:
        """The caller is gone, or was answered."""
        self.ended = True
        for callback in self.callbacks:
            callback()


class Worker:
    """A thread in ``Bridge.call``."""

    def __init__(
        self, bridge: Bridge, make: Callable[[], Any], *, cap_s: float = PATIENCE_S, share: object = None,
        context: FakeContext | None = None,
    ) -> None:
        self.context = context or FakeContext()
        self.outcome: Any = None

        def work() -> None:
            try:
                self.outcome = bridge.call(self.context, make, cap_s=cap_s, share=share)
            except BaseException as error:
                self.outcome = error

        self._thread = threading.Thread(target=work, daemon=True)
        self._thread.start()

    def result(self) -> Any:
        """What it came back with."""
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive(), "the worker hangs"
        return self.outcome


class BridgeTest(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = TurningClock()
        self.bridge = Bridge(self.reactor)
        self.cancelled = 0

    def pending(self) -> Deferred[Any]:
        """A Deferred that counts its cancelling."""
        def cancel(_deferred: object) -> None:
            self.cancelled += 1

        self.deferred: Deferred[Any] = Deferred(cancel)
        return self.deferred

    def begin(self, make: Callable[[], Any], **how: Any) -> Worker:
        worker = Worker(self.bridge, make, **how)
        self.reactor.wait()
        self.reactor.turn()
        return worker

    def test_values_deferreds_and_coroutines_come_back(self) -> None:
        async def later() -> str:
            return "later"

        self.assertEqual(self.begin(lambda: 7).result(), 7)
        worker = self.begin(self.pending)
        self.assertEqual(self.bridge.waiting, 1)
        self.deferred.callback("x")
        self.assertEqual(worker.result(), "x")
        self.assertEqual(self.begin(later).result(), "later")
        self.assertEqual(self.bridge.waiting, 0)

    def test_failures_are_raised_where_they_are_waited_for(self) -> None:
        error = StorageError("the disk refuses")

        def fail() -> None:
            raise error

        self.assertIs(self.begin(fail).result(), error)
        worker = self.begin(self.pending)
        self.deferred.errback(error)
        self.assertIs(worker.result(), error)

    def test_a_caller_that_leaves_is_let_go_and_its_work_cancelled(self) -> None:
        worker = self.begin(self.pending)
        worker.context.end()
        self.assertIsInstance(worker.result(), CallerGone)
        self.reactor.turn()
        self.assertEqual((self.cancelled, self.bridge.waiting), (1, 0))

    def test_a_caller_that_left_before_its_turn_starts_nothing(self) -> None:
        begun: list[int] = []
        worker = Worker(self.bridge, lambda: begun.append(1))
        self.reactor.wait()
        self.assertEqual(len(worker.context.callbacks) or self._callbacks(worker), 1)
        worker.context.end()
        self.assertIsInstance(worker.result(), CallerGone)
        self.reactor.turn()
        gone = Worker(self.bridge, lambda: begun.append(2), context=FakeContext(ended=True))
        self.assertIsInstance(gone.result(), CallerGone)
        self.reactor.turn()
        self.assertEqual(begun, [])

    def _callbacks(self, worker: Worker) -> int:
        end = threading.Event()
        for _ in range(500):
            if worker.context.callbacks:
                break
            end.wait(0.01)
        return len(worker.context.callbacks)

    def test_the_cap_lets_go_and_cancels(self) -> None:
        worker = self.begin(self.pending, cap_s=0.01)
        self.assertIsInstance(worker.result(), BridgeTimeout)
        self.reactor.turn()
        self.assertEqual(self.cancelled, 1)
        hung = Worker(self.bridge, lambda: 1, cap_s=0.01)  # a reactor that never turns
        self.assertIsInstance(hung.result(), BridgeTimeout)
        self.reactor.turn()

    def test_the_stop_lets_everybody_go_at_once(self) -> None:
        workers = [self.begin(self.pending), Worker(self.bridge, lambda: 1)]
        self.reactor.wait()
        self.bridge.stop()
        for worker in workers:
            self.assertIsInstance(worker.result(), BridgeStopped)
        self.assertIsInstance(Worker(self.bridge, lambda: 1).result(), BridgeStopped)
        self.assertEqual((self.cancelled, self.bridge.waiting), (1, 0))
        self.reactor.turn()
        self.bridge.stop()

    def test_a_late_answer_reaches_nobody_and_breaks_nothing(self) -> None:
        worker = self.begin(self.pending)
        worker.context.end()
        worker.result()
        self.deferred.callback("late")
        self.reactor.turn()
        self.assertEqual(self.cancelled, 0)
        worker.context.end()

    def test_a_late_fault_of_ours_is_logged(self) -> None:
        worker = self.begin(self.pending)
        worker.context.end()
        worker.result()
        self.deferred.errback(ValueError("a bug"))
        self.reactor.turn()
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        worker = self.begin(self.pending)
        worker.context.end()
        worker.result()
        self.deferred.errback(StorageError("no bug"))
        self.reactor.turn()

    def test_equal_questions_share_one_look(self) -> None:
        looks: list[int] = []

        def look() -> int:
            looks.append(1)
            return len(looks)

        workers = [Worker(self.bridge, look, share="agents")]
        self.reactor.wait()
        workers += [Worker(self.bridge, look, share="agents") for _ in range(3)]
        for worker in workers:
            self.assertEqual(self._callbacks(worker), 1)
        self.reactor.turn()
        self.assertEqual([worker.result() for worker in workers], [1] * 4)
        self.assertEqual(self.begin(look, share="agents").result(), 2)  # who comes later gets a fresh one

    def test_a_shared_look_goes_on_while_one_still_waits(self) -> None:
        first = Worker(self.bridge, self.pending, share="x")
        self.reactor.wait()
        self._callbacks(first)
        first.context.end()  # before its turn; the cancelling is posted behind the look
        self.assertIsInstance(first.result(), CallerGone)
        second = Worker(self.bridge, self.pending, share="x")
        self._callbacks(second)
        self.reactor.turn()
        self.assertEqual(self.cancelled, 0)
        self.deferred.callback("here")
        self.assertEqual(second.result(), "here")

    def test_asking_and_waiting_may_be_apart(self) -> None:
        context = FakeContext()
        asked = self.bridge.ask(context, lambda: "here")
        self.reactor.turn()
        self.assertEqual(self.bridge.wait(asked, 0.0), "here")
        self.bridge.drop(asked)
        asked = self.bridge.ask(context, self.pending)
        self.reactor.turn()
        self.bridge.drop(asked)  # the message turned out to be none
        self.reactor.turn()
        self.assertEqual((self.cancelled, self.bridge.waiting), (1, 0))
        self.assertRaises(CallerGone, self.bridge.ask, FakeContext(ended=True), lambda: 1)

    def test_posts_are_run_and_their_failures_logged(self) -> None:
        ran: list[Any] = []

        def fail() -> None:
            raise ValueError("in a post")

        self.bridge.post(ran.append, 1)
        self.bridge.post(fail)
        self.bridge.post(lambda *, value: ran.append(value), value=2)
        self.reactor.turn()
        self.assertEqual(ran, [1, 2])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_cancelled_work_is_no_fault(self) -> None:
        worker = self.begin(self.pending)
        worker.context.end()
        worker.result()
        self.deferred.errback(CancelledError())
        self.reactor.turn()
