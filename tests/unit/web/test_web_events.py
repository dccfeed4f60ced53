"""Events over HTTP: lists, the live stream, resuming, slow clients and those who leave."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import Deferred, fail

from daemon.errors import StorageError
from daemon.events.history import EventPage
from daemon.events.stream import QUEUE_EVENTS
from daemon.model.event import Severity
from daemon.web.api import EVENTS_LIMIT, EVENTS_LIMIT_MAX
from daemon.web.sse import KEEP_ALIVE_S
from tests.fakes.control import Connection, RigCase


class EventsCase(RigCase):
    def publish(self, count: int, first: int = 1) -> None:
        for number in range(first, first + count):
            self.rig.bus.publish("test.event", f"number {number}", data={"n": number})

    def numbers(self, answer: Any) -> list[int]:
        return [event["data"]["n"] for event in answer.json["events"]]


class ListTest(EventsCase):
    def test_once_lists_the_newest_oldest_first(self) -> None:
        self.publish(EVENTS_LIMIT + 5)
        answer = self.client.get("/v1/events?once")
        self.assertEqual((answer.status, answer.type), (200, "application/json"))
        self.assertEqual(self.numbers(answer), list(range(6, EVENTS_LIMIT + 6)))
        self.assertEqual(self.numbers(self.client.get("/v1/events?once&limit=2")), [104, 105])
        self.assertEqual(self.numbers(self.client.get("/v1/events?once=1&limit=1")), [105])

    def test_an_event_has_all_its_keys(self) -> None:
        self.rig.bus.publish("agent.exited", "it ended", severity=Severity.WARN, agent_id="web")
        self.rig.bus.publish("daemon.started", "up")
        about_agent, about_daemon = self.client.get("/v1/events?once").json["events"]
        self.assertEqual(
            {k: v for k, v in about_agent.items() if k not in ("id", "at")},
            {"type": "agent.exited", "severity": "warn", "agent_id": "web", "message": "it ended", "data": {}},
        )
        self.assertRegex(about_agent["at"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
        self.assertRegex(about_agent["id"], r"^\d+-1$")
        self.assertIsNone(about_daemon["agent_id"])

    def test_reading_goes_on_after_the_last_id_by_header_or_query(self) -> None:
        self.publish(5)
        third = self.client.get("/v1/events?once").json["events"][2]["id"]
        by_header = self.client.get("/v1/events?once", headers={"Last-Event-ID": third})
        by_query = self.client.get(f"/v1/events?once&last_event_id={third}")
        self.assertEqual(self.numbers(by_header), [4, 5])
        self.assertEqual(self.numbers(by_query), [4, 5])
        limited = self.client.get("/v1/events?once&limit=1", headers={"Last-Event-ID": third})
        self.assertEqual(self.numbers(limited), [4])

    def test_an_id_that_is_none_is_400_for_lists_and_streams(self) -> None:
        for bad in ("x", "1", "1-", "-1", "1-2-3", "1.5-2", "a" * 5000):
            for target in ("/v1/events?once", "/v1/events"):
                answer = self.client.get(target, headers={"Last-Event-ID": bad})
                self.check_problem(answer, 400, None, "is not an event id")
                self.assertLess(len(answer.body), 500)

    def test_a_limit_must_be_a_number_within_bounds(self) -> None:
        self.publish(3)
        for bad in ("", "0", "-1", "1001", "ten", "1e2", "+5", "1.0", "%D9%A3", "9" * 5000,
                    "0000000019", "000000001" + "9" * 20):
            answer = self.client.get(f"/v1/events?once&limit={bad}")
            self.check_problem(answer, 400, None, f"limit must be a number from 1 to {EVENTS_LIMIT_MAX}")
        self.assertEqual(self.client.get(f"/v1/events?once&limit={EVENTS_LIMIT_MAX}").status, 200)

    def test_a_journal_that_cannot_be_read_is_500_with_d1004(self) -> None:
        self.publish(1)
        self.rig.bus._history = BrokenHistory(self.rig.bus._history)  # type: ignore[assignment]  # a disk that breaks
        answer = self.client.get("/v1/events?once&last_event_id=1-1")
        self.check_problem(answer, 500, "D1004", "the disk is broken")


class BrokenHistory:
    """A history whose older part cannot be read."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def read_after(self, event_id: str | None, limit: int) -> Deferred[EventPage]:
        return fail(StorageError("the disk is broken; check it"))


class StreamTest(EventsCase):
    def open(self, last_id: str = "") -> Connection:
        client = self.rig.connect()
        client.request("GET", "/v1/events", headers={"Last-Event-ID": last_id} if last_id else {})
        return client

    def frames(self, client: Connection) -> list[dict[str, str]]:
        """The events of the stream so far; the retry line and comments left out."""
        found = []
        for block in client.streamed().decode().split("\n\n"):
            fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
            if "data" in fields:
                found.append(fields)
        return found

    def seen(self, client: Connection) -> list[int]:
        return [json.loads(f["data"])["data"]["n"] for f in self.frames(client) if f["event"] == "test.event"]

    def test_events_come_as_they_happen_with_an_id_to_resume_from(self) -> None:
        self.publish(2)
        client = self.open()
        head = client.transport.value().partition(b"\r\n\r\n")[0].lower()
        self.assertIn(b"content-type: text/event-stream", head)
        self.assertIn(b"cache-control: no-store", head)
        self.assertEqual(self.seen(client), [])
        self.publish(2, 3)
        self.assertEqual(self.seen(client), [3, 4])
        frame = self.frames(client)[0]
        self.assertEqual(frame["event"], "test.event")
        self.assertEqual(json.loads(frame["data"])["id"], frame["id"])
        client.leave()

    def test_a_client_resumes_where_it_was_without_a_gap_or_a_repeat(self) -> None:
        client = self.open()
        self.publish(3)
        last = self.frames(client)[-1]["id"]
        client.leave()
        self.publish(4, 4)
        again = self.open(last)
        self.publish(2, 8)
        self.assertEqual(self.seen(again), [4, 5, 6, 7, 8, 9])
        again.leave()

    def test_what_is_lost_for_good_is_told_as_a_gap(self) -> None:
        self.publish(1)
        first = self.client.get("/v1/events?once").json["events"][0]["id"]
        self.publish(1000, 2)
        client = self.open(first)
        gap, *rest = self.frames(client)
        self.assertEqual(gap["event"], "gap")
        self.assertNotIn("id", gap)
        lost = json.loads(gap["data"])
        self.assertEqual(lost["after"], first)
        self.assertEqual(lost["lost"] + len(rest), 1000)
        client.leave()

    def test_a_slow_client_is_not_buffered_without_bound_and_loses_nothing(self) -> None:
        client = self.open()
        self.publish(1)
        client.transport.producer.pauseProducing()
        self.publish(2, 2)
        held = len(client.transport.value())
        self.publish(QUEUE_EVENTS + 100, 4)
        self.assertLess(len(client.transport.value()) - held, 2000)
        client.transport.producer.resumeProducing()
        total = QUEUE_EVENTS + 103
        self.assertEqual(self.seen(client), list(range(1, total + 1)))
        client.leave()

    def test_a_slow_client_that_leaves_is_forgotten(self) -> None:
        client = self.open()
        client.transport.producer.pauseProducing()
        self.publish(3)
        client.leave()
        self.publish(3, 4)
        self.assertEqual(self.rig.bus._observers, {})
        self.assertEqual(self.rig.api._streams, set())

    def test_a_client_that_leaves_costs_nothing_afterwards(self) -> None:
        before = len(self.lab.clock.getDelayedCalls())
        clients = [self.open() for _ in range(3)]
        self.assertEqual(len(self.rig.bus._observers), 3)
        for client in clients:
            client.leave()
        self.publish(1)
        self.assertEqual(self.rig.bus._observers, {})
        self.assertEqual(self.rig.api._streams, set())
        self.assertLessEqual(len(self.lab.clock.getDelayedCalls()), before)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_a_quiet_stream_shows_that_it_lives(self) -> None:
        client = self.open()
        self.lab.run(KEEP_ALIVE_S * 3 + 1)
        self.assertEqual(client.streamed().count(b": alive\n\n"), 3)
        self.assertFalse(client.closing)
        self.lab.run(300, 5)
        self.assertFalse(client.closing)
        client.leave()

    def test_the_daemon_that_stops_ends_the_streams_cleanly(self) -> None:
        clients = [self.open(), self.open()]
        self.publish(1)
        self.rig.api.stop()
        for client in clients:
            self.assertEqual(self.seen(client), [1])
            self.assertTrue(client.transport.value().endswith(b"0\r\n\r\n"))
        self.assertEqual(self.rig.api._streams, set())
        self.assertEqual(self.rig.bus._observers, {})

    def test_a_journal_that_breaks_ends_the_stream_with_its_code(self) -> None:
        self.publish(1)
        self.rig.bus._history = BrokenHistory(self.rig.bus._history)  # type: ignore[assignment]  # a disk that breaks
        client = self.open("1-1")
        (frame,) = self.frames(client)
        self.assertEqual(frame["event"], "error")
        self.assertEqual(json.loads(frame["data"])["code"], "D1004")
        self.assertTrue(client.transport.value().endswith(b"0\r\n\r\n"))

    def test_line_breaks_in_a_message_stay_within_its_data_line(self) -> None:
        client = self.open()
        self.rig.bus.publish("test.event", "one\ntwo\r\n\r\nid: 9-9\ndata: x", data={"n": 1})
        (frame,) = self.frames(client)
        self.assertEqual(json.loads(frame["data"])["message"], "one\ntwo\r\n\r\nid: 9-9\ndata: x")
        client.leave()
