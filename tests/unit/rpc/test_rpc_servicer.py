"""Around and within a call: who is let in, what an error becomes, what is remembered, and how many at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import quote

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from daemon.errors import AgentStopError, ConfigLoadError, RequestError, RequestFault, StorageError
from daemon.rpc.access import AllowList, Caller, caller
from daemon.rpc.audit import EVENTS_PER_MINUTE, Audit, CallCounts, CallRecord, PerMinute
from daemon.rpc.bridge import Bridge, BridgeStopped, BridgeTimeout, CallerGone
from daemon.rpc.deadlines import SWEEP_S, MessageDeadlines
from daemon.rpc.gate import Gate
from daemon.rpc.listen import check_free, server_address, server_options
from daemon.rpc.method import Call, Method
from daemon.rpc.refusals import LARGE_MAX, LONG_MAX
from daemon.rpc.servicer import to_yaml
from daemon.rpc.status import Refusal, grpc_status, plain, refusal_of
from daemon.rpc.workers import WorkerPool
from tests.fakes.directory import FakeEvents

Code = grpc.StatusCode
PATIENCE_S = 5.0


class Reactor(Clock):
    """Runs at once what threads post."""

    def callFromThread(self, callable: Callable[..., Any], *args: Any, **kw: Any) -> None:
        """See IReactorFromThreads."""
        callable(*args, **kw)


class Aborted(Exception):
    """What grpc raises out of a handler that ended its call."""


class Context:
    """A call as its handler sees it."""

    def __init__(self, peer: str = "ipv4:10.0.0.9:40001", *names: bytes) -> None:
        self.status: Any = None
        self.cancelled = False
        self._peer = peer
        self._names = names

    def peer(self) -> str:
        return self._peer

    def auth_context(self) -> dict[str, tuple[bytes, ...]]:
        return {"x509_common_name": self._names[:1], "x509_subject_alternative_name": self._names[1:]}

    def add_callback(self, _callback: Callable[[], None]) -> bool:
        return True

    def cancel(self) -> None:
        self.cancelled = True

    def abort_with_status(self, status: Any) -> None:
        self.status = status
        raise Aborted

    @property
    def details(self) -> tuple[str, int]:
        """The reason, and the seconds to wait."""
        _key, data = self.status.trailing_metadata[0]
        info, retry = ErrorInfo(), RetryInfo()
        for detail in Status.FromString(data).details:
            detail.Unpack(info)
            detail.Unpack(retry)
        assert info.domain == "hostdaemon"
        return info.reason, retry.retry_delay.seconds


class GateTest(SynchronousTestCase):
    """A gate with one method that does what the test says."""

    allowed: tuple[str, ...] = ()

    def setUp(self) -> None:
        self.reactor = Reactor()
        self.events = FakeEvents()
        self.counts = CallCounts()
        self.deadlines = MessageDeadlines(self.reactor, self.reactor.seconds)
        self.pool = WorkerPool()
        self.gate = Gate(
            bridge=Bridge(self.reactor), pool=self.pool, allowed=AllowList(self.allowed),
            audit=Audit(self.reactor, self.events), counts=self.counts, secured=True, deadlines=self.deadlines,
        )
        self.raises: Exception | None = None
        self.context = Context("ipv4:10.0.0.9:40001", b"manager")

    def method(self, **how: Any) -> Method:
        def answer(request: bytes, call: Call) -> bytes:
            if self.raises is not None:
                raise self.raises
            return request + b"!"

        said: dict[str, Any] = {"name": "M", "read": bytes, "answer": answer, "about": lambda _r: "web"}
        return Method(**(said | how))

    def serve(self, *messages: bytes, **how: Any) -> bytes:
        handler = self.gate.handler(self.method(**how))
        return cast(bytes, handler.stream_unary(iter(messages), self.context))

    def refused(self, *messages: bytes, **how: Any) -> tuple[grpc.StatusCode, str, int]:
        with pytest.raises(Aborted):
            self.serve(*(messages or (b"x",)), **how)
        return (self.context.status.code, *self.context.details)

    def test_a_call_goes_through_and_is_counted(self) -> None:
        self.assertEqual(self.serve(b"x"), b"x!")
        self.assertEqual(self.counts.by_method_and_code(), {("M", "OK"): 1})
        self.assertEqual(self.events.published, [])

    def test_every_error_has_its_status(self) -> None:
        table: list[tuple[Exception, tuple[grpc.StatusCode, str, int]]] = [
            (RequestError(RequestFault.INVALID, "m"), (Code.INVALID_ARGUMENT, "INVALID", 0)),
            (RequestError(RequestFault.UNKNOWN, "m"), (Code.NOT_FOUND, "UNKNOWN", 0)),
            (RequestError(RequestFault.FORBIDDEN, "m"), (Code.PERMISSION_DENIED, "FORBIDDEN", 0)),
            (RequestError(RequestFault.UNAUTHORIZED, "m"), (Code.PERMISSION_DENIED, "UNAUTHORIZED", 0)),
            (RequestError(RequestFault.SUPERSEDED, "m"), (Code.ABORTED, "SUPERSEDED", 0)),
            (RequestError(RequestFault.PRECONDITION, "m"), (Code.FAILED_PRECONDITION, "PRECONDITION", 0)),
            (RequestError(RequestFault.TOO_LARGE, "m"), (Code.INVALID_ARGUMENT, "TOO_LARGE", 0)),
            (RequestError(RequestFault.BUSY, "m"), (Code.RESOURCE_EXHAUSTED, "BUSY", 1)),
            (RequestError(RequestFault.BUSY, "m", retry_after_s=7), (Code.RESOURCE_EXHAUSTED, "BUSY", 7)),
            (RequestError(RequestFault.STOPPING, "m"), (Code.UNAVAILABLE, "STOPPING", 0)),
            (AgentStopError("m"), (Code.INTERNAL, "D3002", 0)),
            (StorageError("m"), (Code.INTERNAL, "D1004", 0)),
            (ConfigLoadError("m"), (Code.FAILED_PRECONDITION, "D1001", 0)),
            (BridgeStopped(), (Code.UNAVAILABLE, "STOPPING", 0)),
            (BridgeTimeout(), (Code.UNAVAILABLE, "LATE", 5)),
            (CallerGone(), (Code.CANCELLED, "GONE", 0)),
        ]
        for self.raises, expected in table:
            self.assertEqual(self.refused(), expected, repr(self.raises))

    def test_every_fault_of_a_request_is_in_the_table(self) -> None:
        for fault in RequestFault:
            self.assertIsNot(refusal_of(RequestError(fault, "m")).code, Code.OK)

    def test_a_bug_is_internal_tells_nothing_and_is_logged(self) -> None:
        self.raises = ValueError("secret")
        self.assertEqual(self.refused(), (Code.INTERNAL, "FAULT", 0))
        self.assertNotIn("secret", self.context.status.details)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_messages_are_bounded_and_must_come(self) -> None:
        self.assertEqual(self.refused(b"x" * 11, max_bytes=10), (Code.INVALID_ARGUMENT, "TOO_LARGE", 0))
        self.assertEqual(self.serve(b"x" * 10, max_bytes=10), b"x" * 10 + b"!")
        handler = self.gate.handler(self.method())
        with pytest.raises(Aborted):
            handler.stream_unary(iter(()), self.context)
        self.assertIs(self.context.status.code, Code.INVALID_ARGUMENT)

    def test_a_caller_that_breaks_off_is_gone(self) -> None:
        class Broken:
            def __next__(self) -> bytes:
                raise grpc.RpcError

        with pytest.raises(Aborted):
            self.gate.handler(self.method()).stream_unary(Broken(), self.context)
        self.assertIs(self.context.status.code, Code.CANCELLED)

    def test_mutations_are_events_whatever_came_of_them(self) -> None:
        self.serve(b"x", mutates=True)
        self.raises = AgentStopError("it hangs")
        self.refused(mutates=True)
        good, bad = self.events.published
        self.assertEqual((good.type, good.severity.value), ("grpc.call", "info"))
        self.assertEqual({k: good.data[k] for k in ("peer", "method", "agent", "code", "error")}, {
            "peer": "manager at 10.0.0.9", "method": "M", "agent": "web", "code": "OK", "error": "",
        })
        self.assertEqual((bad.data["code"], bad.data["error"], bad.severity.value), ("INTERNAL", "it hangs", "warn"))

    def test_operations_are_so_many_at_a_time(self) -> None:
        self.so_many(LONG_MAX, "long")

    def test_packages_are_so_many_at_a_time(self) -> None:
        self.so_many(LARGE_MAX, "large")

    def so_many(self, most: int, kind: str) -> None:
        inside, go = threading.Semaphore(0), threading.Event()

        def answer(_request: bytes, _call: Call) -> bytes:
            inside.release()
            assert go.wait(PATIENCE_S)
            return b""

        threads = [
            threading.Thread(target=self.serve, args=(b"x",), kwargs={"answer": answer, kind: True}, daemon=True)
            for _ in range(most)
        ]
        for thread in threads:
            thread.start()
        for _ in threads:
            assert inside.acquire(timeout=PATIENCE_S)
        self.assertEqual(self.refused(**{kind: True}), (Code.RESOURCE_EXHAUSTED, "BUSY", 5))
        self.assertEqual(self.serve(b"x"), b"x!")
        go.set()
        for thread in threads:
            thread.join(PATIENCE_S)
        self.assertEqual(self.serve(b"x", **{kind: True}), b"x!")

    def test_a_closed_gate_and_a_full_pool_refuse_before_the_message(self) -> None:
        pool = WorkerPool(workers=1, calls_max=0)
        gate = Gate(
            bridge=Bridge(self.reactor), pool=pool, allowed=AllowList(()), audit=Audit(self.reactor, self.events),
            counts=self.counts, secured=False, deadlines=self.deadlines,
        )
        handler = gate.handler(self.method())
        future = pool.submit(handler.stream_unary, None, self.context)  # None: it must not be looked at
        self.assertIsInstance(future.exception(PATIENCE_S), Aborted)
        self.assertEqual(self.context.details, ("BUSY", 1))
        gate.closed = True
        with pytest.raises(Aborted):
            handler.stream_unary(None, self.context)
        self.assertEqual(self.context.details[0], "STOPPING")
        pool.shutdown()

    def test_callers_that_owe_a_message_are_ended_when_their_time_is_over(self) -> None:
        late, early = Context(), Context()
        self.deadlines.begin(late, 10.0)
        self.reactor.advance(5.0)
        self.deadlines.begin(early, 10.0)
        self.reactor.pump([1.0] * 7)
        self.assertEqual((late.cancelled, early.cancelled), (True, False))
        self.assertEqual(self.deadlines.ended_total, 1)
        self.deadlines.end(early)
        self.reactor.pump([1.0] * 20)
        self.assertEqual((early.cancelled, self.deadlines.ended_total), (False, 1))

    def test_no_timer_runs_while_nobody_owes_a_message(self) -> None:
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        self.serve(b"x")
        self.assertEqual(len(self.reactor.getDelayedCalls()), 1)
        self.serve(b"x")  # one look is enough for all
        self.assertEqual(len(self.reactor.getDelayedCalls()), 1)
        self.reactor.advance(SWEEP_S)
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        self.deadlines.begin(self.context, 10.0)
        self.deadlines.stop()
        self.assertEqual(self.reactor.getDelayedCalls(), [])


class AllowedGateTest(GateTest):
    """The same gate with a list of names: nothing of the above changes for those on it."""

    allowed = ("Manager",)

    def test_others_are_denied_without_a_look_at_what_they_ask(self) -> None:
        for names in ((b"evil",), (b"managers",), (b"evil", b"x.manager"), ()):
            self.context = Context("ipv4:10.0.0.9:40001", *names)
            self.assertEqual(self.refused(mutates=True), (Code.PERMISSION_DENIED, "FORBIDDEN", 0))
        self.assertEqual(self.events.published, [])  # a stranger writes no journal

    def test_an_alternative_name_is_as_good(self) -> None:
        self.context = Context("ipv4:10.0.0.9:40001", b"x", b"MANAGER")
        self.assertEqual(self.serve(b"x"), b"x!")


class TestAccess:
    @pytest.mark.parametrize(("peer", "address"), [
        ("ipv4:10.0.0.9:40001", "10.0.0.9"), ("ipv6:%5B::1%5D:40001", "::1"), ("ipv6:[fe80::1]:5", "fe80::1"),
        ("unix:/run/x", "/run/x"), ("", ""), ("odd", "odd"),
    ])
    def test_addresses_lose_their_port(self, peer: str, address: str) -> None:
        assert caller(peer, {}).address == address

    def test_names_are_common_then_alternative_each_once(self) -> None:
        found = caller("ipv4:1.2.3.4:5", {
            "x509_common_name": [b"cn"], "x509_subject_alternative_name": [b"cn", b"a.example.org", b"\xff"],
        })
        assert found.names == ("cn", "a.example.org", "\ufffd")
        assert str(found) == "cn at 1.2.3.4"

    def test_hostile_names_stay_one_short_line(self) -> None:
        assert "\n" not in str(Caller("1.2.3.4", ("a\nb" * 500,)))
        assert len(str(Caller("1.2.3.4", ("a" * 5000,)))) < 250

    def test_an_empty_list_is_open(self) -> None:
        assert AllowList(()).admits(())
        assert not AllowList(("a",)).admits(())
        assert AllowList(("A.example",)).admits(("x", "a.EXAMPLE"))


class TestAudit:
    def record(self, peer: str = "m") -> CallRecord:
        return CallRecord(peer=peer, method="OperateAgent", agent="web", code="OK", error="", duration_s=0.5)

    def test_a_flood_is_cut_counted_and_told(self) -> None:
        clock, events = Clock(), FakeEvents()
        audit = Audit(clock, events)
        for _ in range(EVENTS_PER_MINUTE + 40):
            audit.record(self.record())
        audit.record(self.record("other"))
        assert len(events.published) == EVENTS_PER_MINUTE + 1
        assert audit.left_out_total == 40
        clock.advance(61)
        audit.record(self.record())
        assert "40 more calls" in events.published[-1].message

    def test_the_limiter_remembers_so_many_callers(self) -> None:
        limiter = PerMinute(1, keys_max=3)
        for number in range(10):
            assert limiter.take(f"k{number}", 0.0) == 0
        assert limiter.take("k9", 1.0) is None
        assert limiter.take("k0", 1.0) == 0
        assert len(limiter._windows) == 3


class TestWorkers:
    def test_threads_start_when_needed_and_end_when_idle(self) -> None:
        pool = WorkerPool(workers=4, calls_max=8, idle_s=0.05)
        assert pool.threads == 0
        assert pool.submit(lambda: 1).result(PATIENCE_S) == 1
        assert pool.threads == 1
        for _ in range(500):
            if not pool.threads:
                break
            threading.Event().wait(0.01)
        assert pool.threads == 0
        assert pool.submit(lambda: 2).result(PATIENCE_S) == 2

    def test_one_too_many_runs_apart_and_knows_it(self) -> None:
        pool = WorkerPool(workers=2, calls_max=3)
        go = threading.Event()
        held = [pool.submit(go.wait, PATIENCE_S) for _ in range(3)]
        assert pool.submit(lambda: pool.refusing).result(PATIENCE_S) is True
        assert (pool.calls, pool.refusing) == (3, False)
        go.set()
        assert all(each.result(PATIENCE_S) for each in held)
        for _ in range(500):
            if not pool.calls:
                break
            threading.Event().wait(0.01)
        assert pool.submit(lambda: pool.refusing).result(PATIENCE_S) is False
        pool.shutdown()

    def test_threads_end_with_the_pool_and_what_waits_still_runs(self) -> None:
        pool = WorkerPool(workers=2)
        go = threading.Event()
        jobs = [pool.submit(go.wait, PATIENCE_S) for _ in range(5)]
        pool.shutdown()
        go.set()
        assert all(job.result(PATIENCE_S) for job in jobs)
        for _ in range(500):
            if not pool.threads:
                break
            threading.Event().wait(0.01)
        assert (pool.threads, pool.calls) == (0, 0)

    def test_failures_travel_with_the_future(self) -> None:
        pool = WorkerPool()

        def fail() -> None:
            raise ValueError("x")

        assert isinstance(pool.submit(fail).exception(PATIENCE_S), ValueError)
        pool.shutdown()

    def test_after_the_shutdown_a_call_is_one_too_many_and_never_raises(self) -> None:
        pool = WorkerPool()
        pool.shutdown()
        assert pool.submit(lambda: pool.refusing).result(0) is True
        assert pool.calls == 0


class TestWords:
    @pytest.mark.parametrize("character", ["a", " ", "%", "é", "\u4e2d", "\U0001d11e", "\udc80", "\n"])
    def test_the_trailers_of_any_text_fit_into_what_grpc_lets_through(self, character: str) -> None:
        refusal = Refusal(
            code=grpc.StatusCode.NOT_FOUND, reason="UNKNOWN", message=character * 20_000, retry_after_s=1
        )
        status = grpc_status(refusal)
        details = status.trailing_metadata[0][1]
        assert len(quote(status.details)) + len(details) * 4 / 3 < 7000  # of 8 KiB; other trailers are small
        assert status.details.endswith("...")

    def test_statuses_are_short_and_printable(self) -> None:
        refusal = Refusal(code=Code.NOT_FOUND, reason="UNKNOWN", message="a\x00b\r\n\udcff" + "é" * 5000)
        status = grpc_status(refusal)
        assert len(status.details) < 1100
        assert status.details.isprintable()
        assert plain("short", 10) == "short"

    def test_yaml_keeps_order_and_text(self) -> None:
        assert to_yaml({"b": 1, "a": ["é", "022"]}) == "b: 1\na:\n- é\n- '022'\n".encode()

    def test_addresses(self) -> None:
        assert server_address("", 1) == "0.0.0.0:1"
        assert server_address("::1", 1) == server_address("[::1]", 1) == "[::1]:1"
        check_free("127.0.0.1", 0)

    def test_clients_may_ping_every_ten_seconds_and_the_port_is_ours_alone(self) -> None:
        options = dict(server_options(5))
        assert options["grpc.http2.min_ping_interval_without_data_ms"] <= 9_000
        assert options["grpc.keepalive_permit_without_calls"] == 1
        assert options["grpc.so_reuseport"] == 0
        assert options["grpc.max_receive_message_length"] == 5
