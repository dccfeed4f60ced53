"""Requests nobody should send: each gets a plain answer or a closed connection, and costs nothing."""

from __future__ import annotations

from tests.fakes.control import TOKEN, Answer, RigCase

MIB = 1024 * 1024


class HostileTest(RigCase):
    def still_serves(self) -> None:
        self.assertEqual(self.rig.connect().get("/livez").status, 200)
        self.assertEqual(self.flushLoggedErrors(), [])

    def check_refused(self, answer: Answer) -> None:
        """400: a problem of ours, or Twisted's parser's, which has no body."""
        self.assertEqual(answer.status, 400)
        if answer.body:
            self.check_problem(answer, 400, None, "is not UTF-8")

    # -------------------------------------------------------------- routes

    def test_an_unknown_route_is_a_problem(self) -> None:
        for target in ("/nope", "/v1", "/v1/agents/", "/v1/agents/web/logs/x", "/livez/", "/heartbeat/x",
                       "/v1/agents/web/explode", "/%00", "/..%2f..%2fetc/passwd", "/v1/agents/web/../x"):
            self.check_problem(self.client.get(target), 404, None)

    def test_doubled_slashes_are_no_redirect_to_nowhere(self) -> None:
        for target in ("/v1//agents", "/v1/agents//web", "/v1//node"):
            self.check_problem(self.client.get(target), 404, None)

    def test_a_wrong_method_is_405_with_allow(self) -> None:
        for target, allowed in (
            ("/v1/agents", "GET, HEAD"), ("/v1/node", "GET, HEAD"), ("/metrics", "GET, HEAD"),
            ("/v1/agents/web", "GET, HEAD"), ("/livez", "GET, HEAD"),
        ):
            for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW"):
                answer = self.client.ask(method, target, token=TOKEN, body=b"")
                self.check_problem(answer, 405, None, "not allowed")
                self.assertEqual(answer.headers["allow"], allowed)
        answer = self.client.get("/v1/agents/web/start")
        self.check_problem(answer, 405, None)
        self.assertEqual(answer.headers["allow"], "POST")

    def test_unknown_methods_without_the_token_say_only_that(self) -> None:
        for method in ("BREW", "TRACE", "CONNECT", "OPTIONS", "G%45T", "get"):
            self.check_problem(self.client.ask(method, "/v1/agents"), 401, None)
        self.still_serves()

    def test_a_method_that_is_not_text_is_refused_cleanly(self) -> None:
        self.client.send(b"G\xffT /v1/agents HTTP/1.1\r\nHost: localhost\r\n\r\n")
        (answer,) = self.client.answers("GET")
        self.check_refused(answer)
        local = self.rig.connect(local=True)
        local.send(b"G\xffT /v1/agents HTTP/1.1\r\nHost: localhost\r\n\r\n")
        (answer,) = local.answers("GET")
        self.check_refused(answer)
        self.still_serves()

    def test_head_has_the_head_of_get_and_no_body(self) -> None:
        for target, status in (("/livez", 200), ("/v1/agents", 200), ("/metrics", 200), ("/v1/agents/x", 404),
                               ("/nope", 404), ("/v1/events?once", 200), ("/heartbeat", 405)):
            answer = self.client.ask("HEAD", target)
            self.assertEqual((answer.status, answer.body), (status, b""), target)

    def test_head_of_the_event_stream_ends(self) -> None:
        answer = self.client.ask("HEAD", "/v1/events")
        self.assertEqual((answer.status, answer.body), (200, b""))
        self.assertIn("text/event-stream", answer.type)
        self.assertEqual(self.client.get("/livez").status, 200)

    # --------------------------------------------------------------- paths

    def test_percent_encoding_is_undone_once(self) -> None:
        self.assertEqual(self.client.get("/v1/agents/%77eb").json["id"], "web")
        self.assertEqual(self.client.get("/v1/%61gents").status, 200)
        self.check_problem(self.client.get("/v1/agents/%2577eb"), 404, None)
        self.check_problem(self.client.get("/v1/agents/web%2f"), 404, None)

    def test_a_path_that_is_not_utf8_is_a_problem(self) -> None:
        for target in (b"/v1/agents/%ff%fe", b"/%c3%28", b"/v1/agents/\xff", b"/v1/agents/%ed%a0%80"):
            self.client.send(b"GET " + target + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
            (answer,) = self.client.answers("GET")
            self.check_refused(answer)
            self.client = self.rig.connect()
        self.still_serves()

    def test_markup_in_a_path_comes_back_as_json_only(self) -> None:
        for target in ("/%3Cscript%3Ealert(1)%3C/script%3E", "/v1/agents/%3Cimg%20src=x%3E"):
            answer = self.client.get(target)
            self.assertEqual((answer.status, answer.type), (404, "application/problem+json"))

    def test_a_very_long_id_is_404_and_does_not_come_back_whole(self) -> None:
        answer = self.client.get("/v1/agents/" + "a" * 12_000)
        self.check_problem(answer, 404, None)
        self.assertLess(len(answer.body), 2_000)
        answer = self.client.get("/" + "b" * 12_000)
        self.check_problem(answer, 404, None)
        self.assertLess(len(answer.body), 2_000)

    def test_an_absolute_target_is_served_or_refused_but_no_proxy(self) -> None:
        answer = self.client.ask("GET", "http://evil.example/v1/agents")
        self.assertIn(answer.status, (200, 400, 404))
        self.check_clean(answer)
        answer = self.client.ask("OPTIONS", "*")
        self.assertEqual(answer.body, b"")

    # -------------------------------------------------------------- bodies

    def test_a_body_over_the_limit_is_413_and_the_connection_serves_on(self) -> None:
        for size in (64 * 1024 + 1, MIB):
            answer = self.client.post("/v1/agents/web/stop", body=b"x" * size)
            self.check_problem(answer, 413, None, "65536 bytes")
        self.assertEqual(self.client.get("/v1/agents/web").json["status"], "running")
        self.assertEqual(self.client.post("/v1/agents/web/start", body=b"x" * 64 * 1024).status, 200)

    def test_a_chunked_body_over_the_limit_is_413(self) -> None:
        chunk = b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
        head = (f"POST /v1/agents/web/stop HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
                "Transfer-Encoding: chunked\r\n\r\n").encode()
        self.client.send(head + chunk * 5 + b"0\r\n\r\n")
        (answer,) = self.client.answers("POST")
        self.check_problem(answer, 413, None)

    def test_five_mebibytes_close_the_connection_and_are_not_kept(self) -> None:
        self.client.request("POST", "/v1/agents/web/stop", token=TOKEN, headers={"Content-Length": str(5 * MIB)})
        (request,) = self.client.channel.requests
        for _ in range(4):
            self.client.send(b"x" * MIB)
            self.assertEqual(request.content.getvalue(), b"")
        self.assertFalse(self.client.closing)
        self.client.send(b"x" * (MIB - 1))
        self.assertEqual(request.content.getvalue(), b"")
        self.assertTrue(self.client.closing)
        self.assertEqual(self.client.transport.value(), b"")
        self.assertEqual(self.lab.life.agent("web").state.value, "running")

    def test_an_endless_chunked_body_closes_the_connection(self) -> None:
        head = "POST /heartbeat HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        self.client.send(head.encode())
        chunk = b"%x\r\n" % MIB + b"x" * MIB + b"\r\n"
        sent = 0
        while sent < 5 and not self.client.closing:
            self.client.send(chunk)
            sent += 1
        self.assertTrue(self.client.closing)

    def test_a_content_length_that_lies_or_is_none_gets_400_or_waits_for_its_timeout(self) -> None:
        for length in ("-1", "ten", "1e3", "0x10", "+5", "1, 2", " "):
            client = self.rig.connect()
            client.request("POST", "/v1/agents/web/stop", token=TOKEN, headers={"Content-Length": length})
            self.assertTrue(client.closing, length)
            self.assertTrue(client.transport.value().startswith(b"HTTP/1.1 400"), length)
        self.client.request("POST", "/v1/agents/web/stop", token=TOKEN, headers={"Content-Length": "10"})
        self.client.send(b"123")
        self.assertEqual(self.client.transport.value(), b"")
        self.lab.run(100)
        self.assertTrue(self.client.closing)
        self.assertEqual(self.lab.life.agent("web").state.value, "running")

    def test_a_length_and_chunks_at_once_are_refused(self) -> None:
        self.client.request("POST", "/v1/agents/web/stop", token=TOKEN,
                            headers={"Content-Length": "5", "Transfer-Encoding": "chunked"})
        self.client.send(b"0\r\n\r\nGET /livez HTTP/1.1\r\n\r\n")
        self.assertNotIn(b"HTTP/1.1 200", self.client.transport.value())
        self.assertTrue(self.client.closing)

    def test_forms_and_broken_multiparts_change_nothing(self) -> None:
        for kind, body in (
            ("application/x-www-form-urlencoded", b"graceful=false&" + b"a=1&" * 1000),
            ("multipart/form-data; boundary=x", b"--x\r\nno end"),
            ("multipart/form-data", b"--x"),
            ("multipart/form-data; boundary=\xff", b"x"),
        ):
            client = self.rig.connect()
            client.request("POST", "/v1/agents/web/start", token=TOKEN, body=body,
                           headers={"Content-Type": kind if isinstance(kind, str) else ""})
            value = client.transport.value()
            self.assertRegex(value, rb"^HTTP/1.1 (200|400)")
            self.assertNotIn(b"<html", value.lower())
        self.still_serves()

    # ------------------------------------------------------------- headers

    def test_too_many_or_too_long_headers_close_the_connection(self) -> None:
        for flood in (b"X: 1\r\n" * 10_000, b"X: " + b"y" * 100_000 + b"\r\n", b"y" * 100_000):
            client = self.rig.connect()
            client.send(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n" + flood)
            self.assertTrue(client.closing)
            self.assertNotIn(b"200 OK", client.transport.value())
        client = self.rig.connect()
        client.send(b"GET /" + b"a" * 100_000)
        self.assertTrue(client.closing)
        self.still_serves()

    def test_headers_that_are_not_text_are_refused_cleanly(self) -> None:
        for name, target in (
            (b"Host", b"/v1/agents"), (b"Origin", b"/v1/agents"), (b"Authorization", b"/v1/agents"),
            (b"Accept", b"/metrics"), (b"Last-Event-ID", b"/v1/events?once"), (b"Last-Event-ID", b"/v1/events"),
        ):
            for method in (b"GET", b"POST"):
                client = self.rig.connect()
                client.send(method + b" " + target + b" HTTP/1.1\r\n" + name + b": \xff\xfe\x80\r\n\r\n")
                (answer,) = client.answers(method.decode())
                self.assertIn(answer.status, (200, 400, 401, 403), (name, method))
                self.check_clean(answer)
                if answer.status >= 400:
                    self.assertEqual(answer.type, "application/problem+json")
        self.still_serves()

    def test_garbage_is_closed_without_an_answer_that_serves_it(self) -> None:
        for garbage in (b"\0\0\0\0\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"GET\r\n\r\n",
                        b"GET /livez\r\n\r\n", b"GET /livez HTTP/9.9\r\n\r\n", b"a b c d e\r\n\r\n",
                        b"GET /livez HTTP/1.1\r\nHost : x\r\n\r\n", b"GET /livez HTTP/1.1\r\nno colon\r\n\r\n"):
            client = self.rig.connect()
            client.send(garbage)
            self.assertTrue(client.closing, garbage)
            self.assertNotIn(b"200 OK", client.transport.value())
            self.assertNotIn(b"<html", client.transport.value().lower())
        self.still_serves()

    # ---------------------------------------------------------- connections

    def test_requests_on_one_connection_are_answered_in_order(self) -> None:
        self.assertEqual(self.client.get("/livez").status, 200)
        self.assertEqual(self.client.get("/v1/agents/nope").status, 404)
        self.client.send(
            b"GET /v1/agents/web HTTP/1.1\r\nHost: localhost\r\n\r\n"
            b"GET /nope HTTP/1.1\r\nHost: localhost\r\n\r\n"
            b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
        )
        first, second, third = self.client.answers("GET", "GET", "GET")
        self.assertEqual((first.status, second.status, third.status), (200, 404, 200))
        self.assertEqual(first.json["id"], "web")

    def test_a_pipelined_request_waits_for_the_operation_before_it(self) -> None:
        self.client.request("POST", "/v1/agents/web/restart", token=TOKEN, body=b"")
        self.client.request("GET", "/v1/agents/web")
        self.assertEqual(self.client.transport.value(), b"")
        self.lab.run(1)
        operated, seen = self.client.answers("POST", "GET")
        self.assertEqual(operated.json["pid"], seen.json["pid"])

    def test_http_1_0_and_connection_close_end_the_connection(self) -> None:
        self.client.send(b"GET /livez HTTP/1.0\r\n\r\n")
        self.assertTrue(self.client.transport.value().startswith(b"HTTP/1.1 200") or
                        self.client.transport.value().startswith(b"HTTP/1.0 200"))
        self.assertTrue(self.client.closing)
        client = self.rig.connect()
        self.assertEqual(client.get("/livez", headers={"Connection": "close"}).status, 200)
        self.assertTrue(client.closing)

    def test_an_idle_connection_is_closed_and_an_active_one_is_not(self) -> None:
        self.client.get("/livez")
        self.lab.run(60, 5)
        self.client.get("/livez")
        self.lab.run(60, 5)
        self.assertFalse(self.client.closing)
        self.lab.run(60, 5)
        self.assertTrue(self.client.closing)

    def test_a_peer_turned_away_at_the_door_is_not_read(self) -> None:
        client = self.rig.connect(local=True, peer=None)
        self.assertTrue(client.transport.disconnected)
        client.send(b"POST /v1/agents/web/stop HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        self.assertEqual(client.transport.value(), b"")
        client.leave()
        self.assertEqual(self.lab.life.agent("web").state.value, "running")
        self.assertNotIn(client.channel, self.rig.channels)

    def test_connections_are_counted_until_they_end(self) -> None:
        before = len(self.rig.channels)
        clients = [self.rig.connect() for _ in range(3)]
        self.assertEqual(len(self.rig.channels), before + 3)
        for client in clients:
            client.leave()
        self.assertEqual(len(self.rig.channels), before)

    def test_a_fault_of_ours_is_500_without_its_traceback_and_is_logged(self) -> None:
        def broken() -> str:
            raise RuntimeError("secret path /x")

        self.rig.control._checks = {"broken": broken}
        answer = self.client.get("/readyz")
        self.check_problem(answer, 500, None, "its log says more")
        self.assertNotIn(b"secret", answer.body)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
