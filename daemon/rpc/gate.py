"""Around every call: is there room, may the caller, is the message sound; then what came of it.

gRPC calls the handlers made here with the stream of the request, not with the message, although every
method takes one: only so is the context known while the message is still to come, and a caller that opens
calls and sends nothing can be sent away before it holds every worker.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
from twisted.logger import Logger
from twisted.python.failure import Failure

from daemon.errors import DaemonError, RequestError, RequestFault
from daemon.rpc.access import AllowList, Caller, caller, names_of
from daemon.rpc.audit import Audit, CallCounts, CallRecord
from daemon.rpc.bridge import Asked, Bridge, BridgeStopped, BridgeTimeout, CallerGone
from daemon.rpc.deadlines import MessageDeadlines
from daemon.rpc.handshakes import Handshakes
from daemon.rpc.method import Call, Method
from daemon.rpc.refusals import DAEMON_WORDS, GONE, LARGE_MAX, LONG_MAX, Refusals, Words
from daemon.rpc.status import Refusal, grpc_status, refusal_of
from daemon.rpc.workers import WorkerPool

MESSAGE_WITHIN_S = 10.0  # from the begin of a call to its whole message
LARGE_WITHIN_S = 60.0  # 32 MiB at 5 Mbit/s
STREAM_WITHIN_S = 60.0  # a stream that holds a worker; its client opens another


class Gate:
    """Makes the handlers.

    Args:
        bridge: where audit and log are.
        pool: says whether a call is one too many.
        allowed: who may call.
        audit: remembers.
        counts: counts.
        secured: whether callers prove who they are.
        deadlines: ends calls whose message does not come.
        words: of the program that is called.
        handshakes: hears over which connections calls come, where they are secured.
    """

    log = Logger()

    def __init__(
        self, *, bridge: Bridge, pool: WorkerPool, allowed: AllowList, audit: Audit, counts: CallCounts,
        secured: bool, deadlines: MessageDeadlines, words: Words = DAEMON_WORDS,
        handshakes: Handshakes | None = None,
    ) -> None:
        self.closed = False
        self._bridge = bridge
        self._pool = pool
        self._allowed = allowed
        self._audit = audit
        self._counts = counts
        self._secured = secured
        self._deadlines = deadlines
        self._refusals = Refusals(words)
        self._handshakes = handshakes
        self._long = threading.BoundedSemaphore(LONG_MAX)
        self._large = threading.BoundedSemaphore(LARGE_MAX)

    # ----------------------------------------------------------------- handlers

    def handler(self, method: Method) -> Any:
        """One message in, one out."""
        def behave(messages: Iterator[bytes], context: Any) -> bytes:
            return self._serve(method, messages, context)

        # Without serializers bytes come and go: messages are read in the worker, not on gRPC's one thread.
        return grpc.stream_unary_rpc_method_handler(behave)

    def stream(self, name: str, inner: Callable[..., Any], *, most: int, **how: Any) -> Any:
        """Streams both ways, so many at a time; ``inner`` is served as it is once the caller is let in.

        ``how`` goes to gRPC: serializers.
        """
        room = threading.BoundedSemaphore(most)
        blocking = not getattr(inner, "experimental_non_blocking", False)

        def behave(messages: Iterator[Any], context: Any, *send: Any) -> Any:
            refusal = self._refusal(context)
            if refusal is None and not room.acquire(blocking=False):
                refusal = self._refusals.busy
            if refusal is None:
                if blocking:  # it holds a worker for as long as it lives
                    self._deadlines.begin(context, STREAM_WITHIN_S)
                if not context.add_callback(leave := _leave(room, self._deadlines, context)):
                    leave()
                    refusal = GONE
            if refusal is not None:
                self._end(name, refusal, context)
            self._counts.add(name, "OK")
            return inner(messages, context, *send)

        if not blocking:
            behave.experimental_non_blocking = True  # type: ignore[attr-defined]  # gRPC looks for it on the function
        return grpc.stream_stream_rpc_method_handler(behave, **how)

    def unknown(self) -> Any:
        """For every method there is not."""
        def behave(_messages: Iterator[bytes], context: Any) -> bytes:
            refusal = self._refusal(context) or self._refusals.unknown_method
            self._end("unknown", refusal, context)
            raise AssertionError("aborting raises")

        return grpc.stream_unary_rpc_method_handler(behave)

    # -------------------------------------------------------------------- a call

    def _serve(self, method: Method, messages: Iterator[bytes], context: Any) -> bytes:
        begun = time.monotonic()
        about = ""
        asked: Asked | None = None
        refusal = self._refusal(context)
        large = method.large and refusal is None
        if large and not self._large.acquire(blocking=False):
            large, refusal = False, self._refusals.busy_large
        if refusal is None:
            try:
                if method.ahead is not None:
                    asked = method.ahead(context)
                within_s = LARGE_WITHIN_S if large else MESSAGE_WITHIN_S
                request = method.read(self.message(messages, context, method.max_bytes, within_s))
                if method.about is not None:
                    about = method.about(request)
                answer = self._answer(method, request, Call(self, method.name, context, asked))
            except Exception as error:  # noqa: BLE001 - every error becomes a status, ours is logged
                refusal = self._refusal_of(error, method.name)
                if asked is not None:
                    self._bridge.drop(asked)
            else:
                self._counts.add(method.name, "OK")
                if method.mutates:
                    self._record(method, about, context, begun)
                return answer
            finally:
                if large:
                    self._large.release()
        if method.mutates and refusal.code is not grpc.StatusCode.PERMISSION_DENIED:
            self._record(method, about, context, begun, refusal)
        self._end(method.name, refusal, context)
        raise AssertionError("aborting raises")

    def _answer(self, method: Method, request: Any, call: Call) -> bytes:
        if not method.long:
            return method.answer(request, call)
        if not self._long.acquire(blocking=False):
            raise _Refused(self._refusals.busy_long)
        try:
            return method.answer(request, call)
        finally:
            self._long.release()

    def message(
        self, messages: Iterator[bytes], context: Any, max_bytes: int, within_s: float = MESSAGE_WITHIN_S
    ) -> bytes:
        """The one message of a call.

        Raises:
            RequestError: none came, or it is too large.
            CallerGone: the caller left, or took too long.
        """
        self._deadlines.begin(context, within_s)
        try:
            data = next(messages, None)
        except grpc.RpcError as error:
            raise CallerGone from error
        finally:
            self._deadlines.end(context)
        if data is None:
            raise RequestError(RequestFault.INVALID, "the call has one message, and none came")
        if len(data) > max_bytes:
            raise RequestError(
                RequestFault.TOO_LARGE, f"the message has {len(data)} bytes; this method takes {max_bytes}"
            )
        return data

    def _refusal(self, context: Any) -> Refusal | None:
        """What stands against serving the call at all, before its message is looked at."""
        if self._handshakes is not None:
            self._handshakes.called(context.peer())
        if self.closed:
            return self._refusals.stopping
        if self._secured and not self._allowed.open:
            names = names_of(context.auth_context())
            if not self._allowed.admits(names):
                return self._refusals.forbidden(repr(names[0]) if names else "a caller without a name")
        return self._refusals.busy if self._pool.refusing else None

    def _refusal_of(self, error: Exception, name: str) -> Refusal:
        if isinstance(error, _Refused):
            return error.refusal
        if isinstance(error, (DaemonError, RequestError)):
            return refusal_of(error)
        if isinstance(error, BridgeStopped):
            return self._refusals.stopping
        if isinstance(error, CallerGone):
            return GONE
        if isinstance(error, BridgeTimeout):
            return self._refusals.late
        self._bridge.post(self.log.failure, "gRPC: {method} failed", Failure(error), method=name)
        return self._refusals.fault

    def _end(self, name: str, refusal: Refusal, context: Any) -> None:
        """Counts the refusal, tells the log of those that were turned away, and ends the call; raises."""
        self._counts.add(name, refusal.code.name)
        if refusal.code in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.RESOURCE_EXHAUSTED):
            self._bridge.post(self._audit.refused, str(self.caller(context)), name, refusal.message)
        context.abort_with_status(grpc_status(refusal))

    def _record(
        self, method: Method, about: str, context: Any, begun: float, refusal: Refusal | None = None
    ) -> None:
        self._bridge.post(self._audit.record, CallRecord(
            peer=str(self.caller(context)), method=method.name, agent=about[:64],
            code=refusal.code.name if refusal is not None else "OK",
            error=refusal.message if refusal is not None else "", duration_s=time.monotonic() - begun,
        ))

    def caller(self, context: Any) -> Caller:
        """See Desk."""
        return caller(context.peer(), context.auth_context() if self._secured else {})

    def note(self, context: Any, method: str, what: str) -> None:
        """See Desk."""
        self._bridge.post(self._audit.note, str(self.caller(context)), method, what)


def _leave(
    room: threading.BoundedSemaphore, deadlines: MessageDeadlines, context: Any
) -> Callable[[], None]:
    def leave() -> None:
        deadlines.end(context)
        room.release()

    return leave


class _Refused(Exception):
    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal
