"""``/heartbeat`` over HTTP: every answer has its own form, whatever goes wrong and wherever."""

from __future__ import annotations

import json
from typing import Any

from tests.fakes.control import Answer, RigCase


class HeartbeatRouteTest(RigCase):
    def beat(self, **changes: Any) -> bytes:
        said = {"agent_id": "web", "pid": self.lab.life.agent("web").pid, "status": "running", "cpu": 1.5,
                "memory": 1048576, "timestamp": "2026-11-20T10:00:00Z"}
        return json.dumps({k: v for k, v in (said | changes).items() if v is not ...}).encode()

    def send(self, body: bytes, **how: Any) -> Answer:
        return self.client.ask("POST", "/heartbeat", body=body, **how)

    def check(self, answer: Answer, status: int, words: str = "") -> None:
        self.assertEqual(answer.status, status, answer.body)
        self.assertEqual(answer.type, "application/json")
        self.assertEqual(set(answer.json), {"success", "message", "timestamp"})
        self.assertIs(answer.json["success"], status == 200)
        self.assertIn(words, answer.json["message"])
        self.assertRegex(answer.json["timestamp"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")
        self.check_clean(answer)

    def test_it_is_taken_without_a_token_and_with_any_content_type(self) -> None:
        for kind in ("application/json", "text/plain", "application/x-www-form-urlencoded", "nonsense"):
            self.check(self.send(self.beat(), headers={"Content-Type": kind}), 200, "accepted")
        self.assertEqual(self.lab.life.agent("web").pulse.cpu, 1.5)

    def test_what_is_malformed_missing_wrong_or_unknown_is_400(self) -> None:
        for body in (b"", b"{", b"[]", b"null", b"\xff", b"{}", self.beat(pid=...), self.beat(status=...),
                     self.beat(cpu=...), self.beat(memory=...), self.beat(agent_id=...), self.beat(pid=0),
                     self.beat(pid=-1), self.beat(pid="1"), self.beat(cpu=-0.1), self.beat(memory=-1),
                     self.beat(memory=1.5), self.beat(agent_id="nope"), self.beat(agent_id=""),
                     b"[" * 10_000):
            self.check(self.send(body), 400)

    def test_a_timestamp_that_is_missing_or_unreadable_is_no_fault(self) -> None:
        for stamp in (..., None, "yesterday", 5, ""):
            self.check(self.send(self.beat(timestamp=stamp)), 200)

    def test_a_foreign_pid_is_403(self) -> None:
        self.check(self.send(self.beat(pid=1)), 403, "process 1 is not agent web's")

    def test_every_other_method_is_405_with_allow(self) -> None:
        for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS"):
            answer = self.client.ask(method, "/heartbeat", body=b"")
            self.check(answer, 405, "POST")
            self.assertEqual(answer.headers["allow"], "POST")

    def test_a_method_nobody_knows_is_405_in_the_same_form(self) -> None:
        for method in ("BREW", "TRACE", "PROPFIND"):
            answer = self.client.ask(method, "/heartbeat", body=b"")
            self.check(answer, 405, "POST")
            self.assertEqual(answer.headers["allow"], "POST")

    def test_too_large_a_body_is_413_whatever_the_limit_it_broke(self) -> None:
        for size in (16 * 1024 + 1, 64 * 1024 + 1, 1024 * 1024):
            self.check(self.send(b"x" * size), 413, "16384 bytes at most")
        self.check(self.send(self.beat()), 200)

    def test_a_full_queue_is_503_with_retry_after(self) -> None:
        request = b"POST /heartbeat HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
        body = self.beat()
        self.client.channel.dataReceived((request % len(body) + body) * 3)
        first, second, third = self.client.answers("POST", "POST", "POST")
        self.check(first, 200)
        self.check(second, 200)
        self.check(third, 503, "full")
        self.assertEqual(third.headers["retry-after"], "1")
        self.lab.settle()
        self.check(self.send(body), 200)

    def test_a_stopping_receiver_is_503_with_retry_after(self) -> None:
        self.successResultOf(self.rig.heartbeats.stopService())
        answer = self.send(self.beat())
        self.check(answer, 503, "stopping")
        self.assertEqual(answer.headers["retry-after"], "5")

    def test_a_foreign_host_or_origin_is_403_in_the_same_form_and_counted(self) -> None:
        self.check(self.send(self.beat(), host="evil.example"), 403, "evil.example")
        self.check(self.send(self.beat(), headers={"Origin": "http://evil.example"}), 403, "evil.example")
        self.check(self.client.get("/heartbeat", host="evil.example"), 403)
        stats = self.client.get("/heartbeat/stats").json
        self.assertEqual((stats["total_received"], stats["total_errors"], stats["total_processed"]), (3, 3, 0))

    def test_a_host_that_is_not_text_is_refused_in_the_same_form(self) -> None:
        self.client.send(b"POST /heartbeat HTTP/1.1\r\nHost: \xff\r\nContent-Length: 0\r\n\r\n")
        (answer,) = self.client.answers("POST")
        self.check(answer, 400, "UTF-8")

    def test_stats_count_what_came(self) -> None:
        self.send(self.beat())
        self.send(b"{")
        stats = self.client.get("/heartbeat/stats").json
        self.assertEqual((stats["total_received"], stats["total_processed"], stats["total_errors"]), (2, 1, 1))
        self.assertEqual((stats["queue_depth"], stats["queue_size"], stats["workers"]), (0, 2, 1))
        self.check_problem(self.client.ask("DELETE", "/heartbeat/stats", token="x"), 401, None)
