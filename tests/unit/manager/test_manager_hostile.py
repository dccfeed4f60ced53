"""Requests nobody should send to the Manager's API: each gets a problem, a bounded answer, and changes nothing."""

from __future__ import annotations

from urllib.parse import quote

from daemon.manager import queries
from daemon.manager.model import Sample
from daemon.web.request import BODY_MAX
from tests.fakes.control import TOKEN
from tests.fakes.control import Answer as Response
from tests.fakes.manager import BEGIN, ManagerCase, agent, event, node

READING = (
    "/v1/nodes", "/v1/nodes/n1", "/v1/nodes/n1/agents", "/v1/nodes/n1/metrics", "/v1/nodes/n1/events",
    "/v1/nodes/n1/commands", "/nodes/n1", "/",
)
CHANGING = (
    "/v1/nodes/n1/agents/web/start", "/v1/nodes/n1/agents/web/stop", "/v1/nodes/n1/agents/web/restart",
    "/v1/nodes/n1/release",
)
BAD_IDS = (
    "n9", "%00", "%0a", "%7f", "a" * 3000, "..%2f..%2fetc", "%2e%2e", "%e2%80%ae", "'%20OR%201=1--", "{id}", "%25ff",
)


class HostileTest(ManagerCase):
    def setUp(self) -> None:
        super().setUp()
        self.do(self.rig.register())
        self.do(self.rig.sync(agent("web")))
        self.client = self.rig.connect()

    def tearDown(self) -> None:
        self.assertEqual(self.rig.connect().get("/livez").status, 200)
        self.assertEqual(self.flushLoggedErrors(), [])

    def refused(self, answer: Response, *statuses: int) -> str:
        self.assertIn(answer.status, statuses, answer.body)
        self.assertEqual(answer.type, "application/problem+json")
        body = answer.json
        self.assertEqual((body["status"], body["code"], body["type"]), (answer.status, None, "about:blank"))
        self.assertLess(len(answer.body), 4096)
        return str(body["detail"])

    def test_bad_ids_at_every_route(self) -> None:
        for bad in BAD_IDS:
            for path in READING[1:-1]:
                self.refused(self.rig.connect().get(path.replace("n1", bad)), 404)
            for path in CHANGING:
                self.refused(self.rig.connect().post(path.replace("n1", bad)), 400, 404)
            self.refused(self.rig.connect().get(f"/v1/commands/{bad}"), 404)
        self.assertEqual(self.rig.daemons.asked, [])

    def test_ids_that_are_no_text_are_400(self) -> None:
        for path in (*READING[1:6], "/v1/commands/n1"):
            self.refused(self.client.get(path.replace("n1", "%ff%fe")), 400)

    def test_an_agents_id_that_no_daemon_has_is_refused_before_it_is_written_down(self) -> None:
        for bad in ("%00", "a" * 129, "%0a", "%20"):
            self.refused(self.client.post(f"/v1/nodes/n1/agents/{bad}/stop"), 400)
        self.assertEqual(self.client.get("/v1/nodes/n1/commands").json, {"commands": []})

    def test_every_change_needs_the_token(self) -> None:
        for path in CHANGING:
            for header in ({}, {"Authorization": "Bearer"}, {"Authorization": f"Basic {TOKEN}"},
                           {"Authorization": f"Bearer {TOKEN}x"}, {"Authorization": "Bearer " + "\u00e9" * 9}):
                answer = self.client.ask("POST", path, body=b"", headers=header)
                self.assertIn("api.token of manager.work_dir", self.refused(answer, 401))
                self.assertEqual(answer.headers["www-authenticate"], 'Bearer realm="hostmanager"')
        self.assertEqual(self.rig.daemons.asked, [])

    def test_what_only_reads_takes_no_other_method(self) -> None:
        for path in READING:
            for method in ("POST", "PUT", "DELETE", "PATCH"):
                answer = self.client.ask(method, path, token=TOKEN, body=b"")
                self.refused(answer, 405)
                self.assertEqual(answer.headers["allow"], "GET, HEAD")
        for path in CHANGING:
            self.refused(self.client.get(path), 405)

    def test_huge_bodies_are_413_and_bodies_of_any_kind_change_nothing(self) -> None:
        for path in CHANGING:
            self.refused(self.rig.connect().post(path, body=b"x" * (BODY_MAX + 1)), 413)
        self.assertEqual(self.rig.daemons.asked, [])
        for body in (b"[]", b"null", b"\xff\x00", b'{"operation":"stop"}'):
            self.assertEqual(self.client.post(CHANGING[0], body=body).json["operation"], "start")

    def test_a_mistyped_query_is_told_and_not_overlooked(self) -> None:
        for path in (*READING[:6], "/v1/commands/c"):
            for query in ("form=1", "limits=5", "Limit=5", "x", "%66orm=1", "=&q=1"):
                self.assertIn("known in this query", self.refused(self.client.get(f"{path}?{query}"), 400))
        for path in CHANGING:
            self.refused(self.client.post(f"{path}?graceful=false"), 400)
        self.assertEqual(self.rig.daemons.asked, [])

    def test_numbers_and_times_out_of_range(self) -> None:
        for path in READING[:1] + READING[2:6]:
            for bad in ("0", "-1", "10001", "1.5", "1e3", "\u0661", "999999999999", "x"):
                self.refused(self.client.get(f"{path}?limit={quote(bad)}"), 400)
        for path in READING[3:5]:
            for bad in ("-1", "nan", "inf", "1e5", "\u0661", "2027-13-01", "253402300800", "9" * 400, "10:00"):
                for name in ("from", "to"):
                    self.refused(self.client.get(f"{path}?{name}={quote(bad)}"), 400)
            self.assertIn("exchange", self.refused(self.client.get(f"{path}?from=20&to=10"), 400))

    def test_places_to_go_on_that_no_answer_named(self) -> None:
        for bad in ("x", "1", "/", "1/", "-1/cpu", "99999999999999/cpu", "1.5/cpu", "\u0661/cpu"):
            self.refused(self.client.get(f"/v1/nodes/n1/metrics?after={quote(bad)}"), 400)
        for bad in ("x", "1", "1/event", "x/event/1", "nan/event/1"):
            self.refused(self.client.get(f"/v1/nodes/n1/events?after={quote(bad)}"), 400)
        for path in ("/v1/nodes", "/v1/nodes/n1/commands"):
            self.refused(self.client.get(f"{path}?after=nobody"), 404)

    def test_a_flood_of_samples_is_answered_in_parts_of_bounded_size(self) -> None:
        at = int(BEGIN)
        values = '{"a":"' + "x" * (queries.ANSWER_MAX // 4) + '"}'
        self.do(self.rig.report(*(Sample("cpu", at + number, values) for number in range(10))))
        seen: list[int] = []
        path = "/v1/nodes/n1/metrics?from=0&limit=10000"
        while path:
            answer = self.client.get(path)
            self.assertLess(len(answer.body), queries.ANSWER_MAX * 1.1)
            seen += [each["timestamp"] for each in answer.json["metrics"]]
            self.assertEqual(answer.json["more"], "next" in answer.json)
            path = answer.json["more"] and f"/v1/nodes/n1/metrics?from=0&after={quote(answer.json['next'])}"
        self.assertEqual(seen, [at + number for number in range(10)])

    def whole(self, path: str, name: str) -> list[str]:
        """Every id of a list, part by part."""
        found: list[str] = []
        after = ""
        while True:
            body = self.client.get(f"{path}?limit=2{after}").json
            self.assertLessEqual(len(body[name]), 2)
            found += [each.get("node_id") if name == "nodes" else each["id"] for each in body[name]]
            if "next" not in body:
                return found
            after = f"&after={quote(body['next'])}"

    def test_every_list_goes_on_where_it_ended(self) -> None:
        for number in range(2, 6):
            self.do(self.rig.register(node(f"n{number}", hostname="same")))
        self.assertEqual(self.whole("/v1/nodes", "nodes"), ["n1", "n2", "n3", "n4", "n5"])
        self.do(self.rig.sync(*(agent(f"a{number}") for number in range(5))))
        self.assertEqual(self.whole("/v1/nodes/n1/agents", "agents"), ["a0", "a1", "a2", "a3", "a4", "web"])
        self.do(self.rig.tell(*(event(f"1/{number}", at=BEGIN + 0.1) for number in range(5))))
        told = self.whole("/v1/nodes/n1/events", "events")
        self.assertEqual(told[:5], ["1/4", "1/3", "1/2", "1/1", "1/0"])
        for number in range(5):
            self.rig.clock.advance(number % 2)  # some at the same moment
            self.client.post(CHANGING[number % 3])
        commands = [each["id"] for each in self.client.get("/v1/nodes/n1/commands").json["commands"]]
        self.assertEqual(len(commands), 5)
        self.assertEqual(self.whole("/v1/nodes/n1/commands", "commands"), commands)

    def test_samples_of_one_moment_are_not_lost_between_parts(self) -> None:
        self.do(self.rig.report(*(Sample(type, int(BEGIN), "{}") for type in ("a", "b/c", "d"))))
        body = self.client.get("/v1/nodes/n1/metrics?limit=2").json
        self.assertEqual(([each["type"] for each in body["metrics"]], body["more"]), (["a", "b/c"], True))
        rest = self.client.get(f"/v1/nodes/n1/metrics?limit=2&after={quote(body['next'])}").json
        self.assertEqual(([each["type"] for each in rest["metrics"]], rest["more"]), (["d"], False))
