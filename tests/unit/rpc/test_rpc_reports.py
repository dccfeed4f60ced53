"""What goes to the Manager: samples once each, batches that shrink around a bad report, events and log entries."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import grpc
import pytest
from twisted.logger import Logger, LogLevel, LogPublisher
from twisted.trial.unittest import SynchronousTestCase

from daemon.model.metrics import Metrics
from daemon.rpc import link_wire as wire
from daemon.rpc.link_errors import RETRY_MAX_S, answer_said, connect_cause
from daemon.rpc.link_state import Pauses
from daemon.rpc.log_tap import LogTap
from daemon.rpc.reports import new_samples
from tests.fakes.rpc_link import WALL, LinkRoom
from tests.fakes.rpc_manager import EVENTS, REGISTER, REPORT, SYNC, Refused

Code = grpc.StatusCode


class LinkedCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="hd-link-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.room = LinkRoom(self.folder / "reports")

    def begin(self) -> LinkRoom:
        self.room.link.startService()
        self.addCleanup(lambda: self.successResultOf(self.room.leave()))
        return self.room

    def fill(self, count: int) -> list[tuple[str, int]]:
        """So many reports, one a second, while the Manager is away."""
        self.room.manager.down = True
        self.begin()
        queued = []
        for number in range(count):
            sample = wire.Sample(type="cpu", timestamp=int(WALL) + number, values={"x": 1.0})
            queued.append(("cpu", sample.timestamp))
            self.room.link._queue.put([wire.write_line(sample)])
        self.room.manager.down = False
        return queued


class SampleTest(LinkedCase):
    def test_first_samples_go_at_once_and_later_ones_with_the_interval(self) -> None:
        room = self.begin()
        room.run(1)
        room.collectors.sample("memory", room.wall())
        room.run(1)
        room.collectors.sample("cpu", room.wall())
        room.run(1)
        self.assertEqual([name for name, _at in room.manager.samples], ["memory", "cpu"])
        room.collectors.sample("cpu", room.wall())
        room.run(50)
        self.assertEqual(len(room.manager.samples), 2)
        room.run(10)
        self.assertEqual(len(room.manager.samples), 3)

    def test_a_collector_with_nothing_new_is_left_out(self) -> None:
        room = self.begin()
        room.collectors.sample("cpu", room.wall())
        room.run(2)
        room.run(600)
        self.assertEqual(len(room.manager.samples), 1)
        self.assertEqual(room.manager.calls[REPORT], 1)

    def test_values_are_flattened_and_text_is_left_out(self) -> None:
        room = self.begin()
        room.collectors.sample(
            "disk", room.wall(), total_bytes=10, disks=[{"mountpoint": "/var", "used": 3, "fstype": "ext4"}]
        )
        room.run(2)
        self.assertEqual(room.manager.values, [{"total_bytes": 10.0, "disks[/var].used": 3.0}])

    def test_a_collector_that_left_and_came_back_is_reported_again(self) -> None:
        room = self.begin()
        room.collectors.sample("cpu", room.wall())
        room.run(70)
        del room.collectors.latest["cpu"]
        room.run(60)
        room.collectors.sample("cpu", WALL)
        room.run(60)
        self.assertEqual(len(room.manager.samples), 2)


def test_a_second_sample_of_the_same_second_has_the_same_key_and_is_left_out() -> None:
    latest = {"cpu": Metrics(name="cpu", timestamp=100.9, values={"x": 1})}
    assert new_samples(latest, {"cpu": 100}) == {}
    assert list(new_samples(latest, {"cpu": 99})) == ["cpu"]
    assert new_samples(latest, {"cpu": 99}, first_only=True) == {}
    assert new_samples(latest, {"cpu": 500})["cpu"].timestamp == 100  # the clock went back


@pytest.mark.parametrize("line", [
    b"", b"{}", b"null", b"\xff\xfe", b'{"type":"cpu"}', b'{"type":"cpu","timestamp":-5,"values":{}}',
    b'{"type":"cpu","timestamp":99999999999999999999,"values":{}}', b'{"type":5,"timestamp":1,"values":{}}',
    b'{"type":"cpu","timestamp":1,"values":{"a":"b"}}',
])
def test_a_line_that_is_no_report_is_none(line: bytes) -> None:
    assert wire.read_line(line) is None


def test_text_that_utf8_cannot_say_is_replaced_not_raised() -> None:
    sample = wire.sample_of(Metrics(
        name="disk", timestamp=1.5e30, values={"disks": [{"mountpoint": "/\udcff", "used": 1}]}
    ))
    again = wire.read_line(wire.write_line(sample))
    assert again == sample
    wire.metrics_request("n", [sample]).SerializeToString()


class DeliveryTest(LinkedCase):
    def test_one_refused_report_is_found_dropped_and_counted_the_others_arrive(self) -> None:
        queued = self.fill(60)
        bad = queued[17]
        self.room.manager.invalid = lambda sample: (sample.type, sample.timestamp) == bad
        self.room.run(40)
        self.assertEqual(self.room.manager.samples, [key for key in queued if key != bad])
        state = self.room.link.state
        self.assertEqual((state.refused, state.delivered, state.queued, state.dropped), (1, 59, 0, 0))
        self.assertLess(self.room.manager.calls[REPORT], 30)

    def test_a_manager_that_refuses_every_report_empties_the_queue_without_end(self) -> None:
        self.fill(30)
        self.room.manager.invalid = lambda _sample: True
        self.room.run(60)
        self.assertEqual((self.room.link.state.refused, self.room.link.state.queued), (30, 0))

    def test_RetryInfo_is_honoured_and_batches_become_smaller(self) -> None:
        queued = self.fill(40)
        self.room.manager.refusing[REPORT] = Refused(Code.RESOURCE_EXHAUSTED, "busy", retry_s=120)
        self.room.run(60)
        self.assertEqual(self.room.manager.calls[REPORT], 1)
        self.room.run(60)
        self.assertEqual(self.room.manager.calls[REPORT], 1)
        self.room.manager.calm()
        self.room.run(30)
        self.assertEqual(self.room.manager.batches[0], 20)
        self.assertEqual(self.room.manager.samples, queued)

    def test_success_false_keeps_everything_and_tries_again(self) -> None:
        queued = self.fill(10)
        self.room.manager.unwilling.add(REPORT)
        self.room.run(600)
        state = self.room.link.state
        self.assertEqual((state.queued, state.refused, state.dropped, state.connected), (10, 0, 0, True))
        self.assertTrue(state.last_error.startswith("D2003 "), state.last_error)
        self.assertLess(self.room.manager.calls[REPORT], 15)
        self.room.manager.calm()
        self.room.run(300)
        self.assertEqual(self.room.manager.samples, queued)
        self.assertEqual(self.room.link.state.last_error, "")

    def test_reports_that_fail_stop_neither_heartbeats_nor_states(self) -> None:
        self.fill(5)
        for code in (Code.INTERNAL, Code.UNAVAILABLE, Code.NOT_FOUND, Code.PERMISSION_DENIED, Code.UNIMPLEMENTED):
            self.room.manager.refusing[REPORT] = Refused(code)
            before = dict(self.room.manager.calls)
            self.room.run(300)
            self.assertTrue(self.room.link.state.connected, code)
            self.assertGreaterEqual(self.room.manager.calls[SYNC] - before.get(SYNC, 0), 4, code)
            self.assertEqual(self.room.manager.calls[REGISTER], 1)
        self.assertEqual(self.room.link.state.queued, 5)

    def test_lines_of_another_version_are_dropped_and_counted(self) -> None:
        self.room.manager.down = True
        self.begin()
        good = wire.Sample(type="cpu", timestamp=5, values={"x": 1.0})
        self.room.link._queue.put([b'{"schema":9}', wire.write_line(good), b"junk"])
        self.room.manager.down = False
        self.room.run(10)
        self.assertEqual(self.room.manager.samples, [("cpu", 5)])
        state = self.room.link.state
        self.assertEqual((state.delivered, state.dropped, state.queued), (1, 2, 0))


class EventsTest(LinkedCase):
    def test_events_and_log_entries_arrive_and_the_position_survives(self) -> None:
        room = self.begin()
        room.bus.publish("agent.exited", "it exited", agent_id="web", data={"code": 1})
        publisher = LogPublisher(room.tap)
        Logger("daemon.agents", observer=publisher).warn("agent {agent_id} is ill", agent_id="web", limit=5)
        Logger("daemon.agents", observer=publisher).info("not this one")
        room.run(5)
        found = [event for event in room.manager.events if event.type == "agent.exited"]
        self.assertEqual([(e.agent_id, e.message, e.data) for e in found], [("web", "it exited", b'{"code":1}')])
        (entry,) = room.manager.logs
        self.assertEqual((entry.level, entry.message), ("warn", "agent web is ill"))
        self.assertEqual(dict(entry.fields), {"agent_id": "web", "limit": "5"})
        told = len(room.manager.events)
        again = LinkRoom(self.folder / "reports", room.manager, clock=room.clock)
        again.bus = room.bus
        self.successResultOf(room.leave())
        room.link._events._position = None
        again.link._events._bus = room.bus
        self.room = again
        room.bus.publish("agent.started", "it runs", agent_id="web")
        self.begin()
        again.run(5)
        kinds = [event.type for event in room.manager.events[told:]]
        self.assertEqual(kinds.count("agent.exited"), 0)
        self.assertEqual(kinds.count("agent.started"), 1)

    def test_a_manager_without_the_service_is_asked_once_an_hour_and_at_each_connect(self) -> None:
        self.room.manager.refusing[EVENTS] = Refused(Code.UNIMPLEMENTED)
        room = self.begin()
        room.run(3500, step=5.0)
        self.assertEqual(room.manager.calls[EVENTS], 1)
        self.assertEqual(room.link.state.last_error, "")
        room.run(200, step=5.0)
        self.assertEqual(room.manager.calls[EVENTS], 2)
        room.manager.down = True
        room.run(120)
        room.manager.down = False
        room.run(300)
        self.assertEqual(room.manager.calls[EVENTS], 3)

    def test_failures_to_report_events_do_not_feed_themselves(self) -> None:
        from twisted.logger import globalLogPublisher

        globalLogPublisher.addObserver(self.room.tap)
        self.addCleanup(globalLogPublisher.removeObserver, self.room.tap)
        for code in (Code.UNAVAILABLE, Code.INTERNAL):
            self.room.manager.refusing[EVENTS] = Refused(code)
        room = self.begin()
        room.run(3600, step=1.0)
        self.assertLess(room.manager.calls[EVENTS], 60)
        self.assertEqual(room.manager.calls[REGISTER], 1)
        self.assertEqual(room.tap.waiting(10), ())
        self.assertLess(len(room.bus.latest(512)), 5)

    def test_one_entry_that_is_refused_is_left_out_and_told_as_dropped(self) -> None:
        self.room.manager.refusing[EVENTS] = Refused(Code.INVALID_ARGUMENT)
        room = self.begin()
        for number in range(5):
            room.bus.publish("test.event", f"number {number}")
        room.run(60)
        room.manager.calm()
        room.bus.publish("test.event", "good")
        room.run(5)
        self.assertEqual([event.message for event in room.manager.events], ["good"])
        self.assertEqual(room.manager.dropped, 6)  # with manager.connected

    def test_events_the_journal_could_not_keep_are_told_as_a_number(self) -> None:
        self.room.manager.down = True
        room = self.begin()
        room.run(1)
        room.link._events._position = room.bus.position
        for number in range(600):
            room.bus.publish("test.event", f"number {number}")
        room.manager.down = False
        room.run(60)
        texts = [event.message for event in room.manager.events if event.type == "test.event"]
        self.assertEqual(texts, [f"number {number}" for number in range(600 - len(texts), 600)])
        self.assertEqual(room.manager.dropped, 600 - len(texts))


class TapTest(SynchronousTestCase):
    def make(self, ring: int = 5) -> tuple[LogTap, Logger]:
        tap = LogTap(lambda: WALL, ring=ring)
        return tap, Logger("daemon.x", observer=LogPublisher(tap))

    def test_the_ring_is_bounded_and_counts(self) -> None:
        tap, log = self.make()
        for number in range(8):
            log.error("number {n}", n=number)
        self.assertEqual([entry.message for entry in tap.waiting(10)], [f"number {n}" for n in range(3, 8)])
        self.assertEqual(tap.dropped_total, 3)
        self.assertEqual([entry.id for entry in tap.waiting(1)], [f"{int(WALL)}-4"])

    def test_the_ring_is_bounded_by_the_size_of_its_texts_too(self) -> None:
        tap = LogTap(lambda: WALL, ring_bytes=1000)
        log = Logger("daemon.x", observer=LogPublisher(tap))
        for number in range(8):
            log.error("{text}", text=f"{number}" * 300)
        held = tap.waiting(10)
        self.assertEqual(held[-1].message, "7" * 300)
        self.assertLess(len(held), 4)
        self.assertEqual(tap.dropped_total, 8 - len(held))
        tap.done(held)
        for number in range(8):
            log.error("{n}", n=number)
        self.assertEqual(len(tap.waiting(10)), 8)  # what was reported gives its room back

    def test_entries_the_ring_took_while_they_were_reported_were_not_lost(self) -> None:
        tap, log = self.make(ring=2)
        log.warn("a")
        log.warn("b")
        sent = tap.waiting(10)
        log.warn("c")
        self.assertEqual(tap.dropped_total, 1)
        tap.done(sent)
        self.assertEqual(tap.dropped_total, 0)
        self.assertEqual([entry.message for entry in tap.waiting(10)], ["c"])

    def test_the_links_own_entries_stay_out(self) -> None:
        tap, _log = self.make()
        for name in ("daemon.rpc.manager_link", "daemon.rpc.link_state", "daemon.rpc.report_queue.ReportQueue"):
            Logger(name, observer=LogPublisher(tap)).error("x")
        self.assertEqual(tap.waiting(10), ())
        Logger("daemon.rpc.server", observer=LogPublisher(tap)).error("x")
        self.assertEqual(len(tap.waiting(10)), 1)

    def test_whatever_is_logged_it_never_raises(self) -> None:
        class Bad:
            def __str__(self) -> str:
                raise RuntimeError("no")

        tap, log = self.make(ring=50)
        for value in (Bad(), b"\xff", "\udcff", float("nan"), 10**400, {1: 2}, None, "x" * 10**6):
            log.warn("value {value}", value=value)
        tap({"log_level": LogLevel.error, "log_time": None})
        try:
            raise ValueError("boom")
        except ValueError:
            log.failure("it broke")
        entries = tap.waiting(50)
        self.assertEqual(entries[-1].level, "error")
        self.assertIn("boom", entries[-1].fields["traceback"])
        self.assertTrue(all(len(entry.message) <= 4000 for entry in entries))
        wire.events_request("n", [], entries, 0).SerializeToString()

    def test_news_is_told_once_until_it_is_fetched(self) -> None:
        tap, log = self.make()
        heard = []
        tap.on_news = lambda: heard.append(1)
        log.warn("a")
        log.warn("b")
        self.assertEqual(len(heard), 1)
        tap.done(tap.waiting(10))
        log.warn("c")
        self.assertEqual(len(heard), 2)


@pytest.mark.parametrize(("details", "secure", "part"), [
    ("last error: UNKNOWN: ipv4:127.0.0.1:1: Failed to connect to remote host: Connection refused", False, "nobody listens at h:9"),
    ("last error: UNKNOWN: ipv6:%5B::1%5D:9: Failed to connect to remote host: Connection refused", True, "nobody listens at [::1]:9, the last tried of the addresses of h:9"),
    ("CERTIFICATE_VERIFY_FAILED: unable to get local issuer certificate", True, "manager.tls.ca_file"),
    ("CERTIFICATE_VERIFY_FAILED: certificate has expired", True, "has expired"),
    ("Hostname Verification Check failed.", True, "does not name h;"),
    ("WRONG_VERSION_NUMBER: x", True, "no TLS on that port"),
    ("Socket closed", True, "does not accept our certificate"),
    ("Socket closed", False, "write manager.tls"),
    ("errors resolving nosuch: Domain name not found", False, "not known"),
    ("", False, "cannot be reached"),
    ("\x00\x1b[31m" + "x" * 5000, False, "x" * 50),
    ("the database is away", True, "the Manager answered UNAVAILABLE: the database is away"),
    ("failed to connect to all addresses; last error: INTERNAL: ipv4:1.2.3.4:5: odd", True, "h:9 cannot be reached; check"),
    ("Trying to connect an http1.x server (HTTP status 400)", False, "speaks HTTP/1"),
    ("Received http2 header with status: 502", False, "no gRPC server"),
])
def test_each_cause_has_its_next_step(details: str, secure: bool, part: str) -> None:
    text = connect_cause(details, "h:9", secure=secure)
    assert part in text
    assert len(text) < 400
    assert text.isprintable()


@pytest.mark.parametrize(("details", "part"), [
    ("no such table: nodes", "no such table: nodes"),
    ("", "it gave no reason"),
    ("CLIENT: Received message larger than max (300000 vs. 262144)", "larger than this daemon takes"),
    ("Exception deserializing response!", "compare the proto files"),
    ("Received RST_STREAM with error code 2", "broke the call off"),
    ("Stream removed", "broke the call off"),
    ("Exception calling application: list index out of range", "it gave no reason"),
    ("ipv4:10.0.0.1:9090: chttp2_transport: grpc_status 13", "it gave no reason"),
])
def test_words_of_grpc_itself_reach_no_operator(details: str, part: str) -> None:
    text = answer_said(details)
    assert part in text
    assert text == details or not (details and details in text)


def test_the_name_that_failed_is_the_one_that_was_asked_for() -> None:
    text = connect_cause("Hostname Verification Check failed.", "h:9", secure=True, server_name="n.example")
    assert "does not name n.example;" in text
    refused = "last error: UNKNOWN: ipv6:%5B::1%5D:9: Failed to connect to remote host: Connection refused"
    assert "nobody listens at [::1]:9;" in connect_cause(refused, "[::1]:9", secure=True)


def test_pauses_are_drawn_from_zero_to_the_capped_delay_after_what_was_asked_for() -> None:
    pauses = Pauses(10.0, 300.0, lambda: 0.999)
    assert [round(pauses.next_s() / 0.999) for _ in range(7)] == [10, 20, 40, 80, 160, 300, 300]
    assert pauses.next_s(100.0) > 300.0
    pauses.reset()
    assert pauses.next_s() < 10.0
    assert Pauses(10.0, 300.0, lambda: 0.0).next_s() == 0.0
    assert RETRY_MAX_S <= 3600.0
