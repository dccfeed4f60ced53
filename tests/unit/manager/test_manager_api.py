"""The API over the real Site: bodies, problems, the token, the page."""

from __future__ import annotations

import sqlite3

from twisted.internet.defer import Deferred

from daemon.manager.commands import UNDER_WAY_MAX
from daemon.manager.daemons import Answer
from daemon.manager.model import CommandState, Sample
from tests.fakes.control import Answer as Response
from tests.fakes.control import Connection
from tests.fakes.manager import BEGIN, ManagerCase, agent, event, node

PEER = "127.0.0.1:40001"  # where the fake client comes from
STOP = "/v1/nodes/n1/agents/web/stop"


class ApiCase(ManagerCase):
    def setUp(self) -> None:
        super().setUp()
        self.do(self.rig.register(node(labels={"rack": "7"})))
        self.do(self.rig.register(node("n2", ip="192.0.2.2")))
        self.do(self.rig.sync(agent("web"), agent("db", "failed", pid=0, last_heartbeat=int(BEGIN))))
        self.client: Connection = self.rig.connect()

    def problem(self, answer: Response, status: int) -> str:
        self.assertEqual((answer.status, answer.type), (status, "application/problem+json"), answer.body)
        self.assertEqual(answer.json["status"], status)
        return str(answer.json["detail"])


class ReadTest(ApiCase):
    def test_nodes(self) -> None:
        self.rig.clock.advance(30)
        first, second = self.client.get("/v1/nodes").json["nodes"]
        self.assertEqual(first, {
            "node_id": "n1", "hostname": "host-n1", "ip": "127.0.0.1", "os": "linux", "arch": "amd64",
            "labels": {"rack": "7"}, "daemon_version": "1.0.0", "agent_version": "", "state": "online",
            "state_since": "2027-01-15T08:00:00.000Z", "last_heartbeat": "2027-01-15T08:00:00.000Z",
            "age_seconds": 30.0, "first_seen_at": "2027-01-15T08:00:00.000Z",
            "registered_at": "2027-01-15T08:00:00.000Z", "daemon_address": "127.0.0.1:9091", "certificate": None,
            "reports_lost": 0, "agents": {"failed": 1, "running": 1},
        })
        self.assertIsNone(second["daemon_address"])  # another host, and no certificate
        self.assertEqual(self.client.get("/v1/nodes/n1").json, first)
        self.assertEqual(self.client.get("/v1/nodes?state=offline").json, {"nodes": []})
        self.problem(self.client.get("/v1/nodes?state=gone"), 400)

    def test_agents(self) -> None:
        db, web = self.client.get("/v1/nodes/n1/agents").json["agents"]
        self.assertEqual(db, {
            "id": "db", "type": "custom", "version": "1", "status": "failed", "since": "2027-01-15T08:00:00.000Z",
            "pid": None, "last_heartbeat": "2027-01-15T08:00:00.000Z", "seen_at": "2027-01-15T08:00:00.000Z",
            "age_seconds": 0.0,
        })
        self.assertEqual((web["id"], web["pid"], web["last_heartbeat"]), ("web", 7, None))

    def test_metrics_by_time_and_type(self) -> None:
        at = int(BEGIN)
        for number in range(3):
            self.do(self.rig.report(
                Sample("cpu", at - number * 3600, f'{{"a":{number}}}'), Sample("disk", at - number * 3600, "{}"),
            ))
        answer = self.client.get("/v1/nodes/n1/metrics?type=cpu").json  # the last hour
        self.assertEqual(answer["metrics"], [
            {"type": "cpu", "timestamp": at - 3600, "values": {"a": 1}},
            {"type": "cpu", "timestamp": at, "values": {"a": 0}},
        ])
        self.assertEqual(len(self.client.get("/v1/nodes/n1/metrics?from=0").json["metrics"]), 6)
        bounded = self.client.get(f"/v1/nodes/n1/metrics?from=0&to={at - 3600}&limit=3").json
        self.assertEqual((len(bounded["metrics"]), bounded["more"]), (3, True))
        zoned = self.client.get("/v1/nodes/n1/metrics?from=2027-01-15T15:00:00+08:00&type=cpu").json
        self.assertEqual(len(zoned["metrics"]), 2)
        for bad in ("from=yesterday", "to=-1", "from=1e5", "limit=0", "from=99999999999999", "to=2027-13-01"):
            self.problem(self.client.get(f"/v1/nodes/n1/metrics?{bad}"), 400)

    def test_events_newest_first(self) -> None:
        self.do(self.rig.tell(event("1-1", at=BEGIN + 5), event("1-2", "more", at=BEGIN + 6)))
        found = self.client.get(f"/v1/nodes/n1/events?from={BEGIN + 1:.0f}").json["events"]
        self.assertEqual([each["id"] for each in found], ["1-2", "1-1"])
        self.assertEqual(found[0], {
            "id": "1-2", "source": "event", "at": "2027-01-15T08:00:06.000Z",
            "received_at": "2027-01-15T08:00:00.000Z", "type": "agent.exited", "severity": "warn",
            "agent_id": "web", "message": "more", "data": {},
        })
        self.assertEqual(len(self.client.get("/v1/nodes/n1/events?limit=1").json["events"]), 1)

    def test_what_there_is_not_is_a_problem(self) -> None:
        for path in ("", "/agents", "/metrics", "/events", "/commands"):
            self.assertIn("no node 'n9'", self.problem(self.client.get(f"/v1/nodes/n9{path}"), 404))
        self.problem(self.client.get("/v1/commands/c"), 404)
        self.assertIn("no route", self.problem(self.client.get("/v2"), 404).replace("is not a route", "no route"))
        self.problem(self.client.get("//v1//nodes"), 404)
        self.assertEqual(self.client.ask("PUT", "/v1/nodes", token="f" * 64).status, 405)
        self.problem(self.client.ask("GET", "/v1/nodes/%ff"), 400)

    def test_health(self) -> None:
        self.assertEqual(self.client.get("/livez").json, {"status": "ok"})
        self.assertEqual(self.client.get("/readyz?verbose").json["checks"][0], {"name": "database", "ok": True, "error": None})
        self.rig.failing["grpc"] = "not listening"
        answer = self.client.get("/readyz")
        self.assertEqual((answer.status, answer.json["checks"][0]["error"]), (503, "not listening"))
        self.assertEqual(self.client.get("/metrics").body, b"up 1\n")

    def test_a_database_that_refuses_is_d1004(self) -> None:
        self.rig.database.refusing = sqlite3.OperationalError("disk I/O error")
        answer = self.client.get("/v1/nodes")
        self.problem(answer, 500)
        self.assertEqual(answer.json["code"], "D1004")
        self.rig.database.refusing = None


class OperateTest(ApiCase):
    def test_it_is_forwarded_and_written_down(self) -> None:
        answer = self.client.post(STOP)
        self.assertEqual(answer.status, 200)
        (target, agent_id, verb) = self.rig.daemons.asked[0]
        self.assertEqual((str(target), target.node_id, agent_id, verb), ("127.0.0.1:9091", "n1", "web", "stop"))
        command = answer.json
        self.assertEqual(
            [command[name] for name in ("operation", "state", "success", "message", "code", "peer")],
            ["stop", "done", True, "", None, PEER],
        )
        self.assertEqual(answer.headers["content-location"], f"/v1/commands/{command['id']}")
        self.assertEqual(self.client.get(f"/v1/commands/{command['id']}").json, command)
        self.assertEqual(self.client.get("/v1/nodes/n1/commands").json, {"commands": [command]})
        events = self.client.get("/v1/nodes/n1/events").json["events"]
        self.assertIn(("manager.operation", f"stop of web by {PEER}: done"), [(e["type"], e["message"]) for e in events])

    def test_without_the_token_nothing_changes(self) -> None:
        for token in ("", "0" * 64):
            detail = self.problem(self.client.ask("POST", STOP, token=token, body=b""), 401)
            self.assertIn("api.token", detail)
        self.problem(self.client.ask("POST", "/v1/nodes/n1/release", body=b""), 401)
        self.assertEqual(self.rig.daemons.asked, [])

    def test_a_page_of_somebody_else_may_not_use_it(self) -> None:
        self.problem(self.client.get("/v1/nodes", host="evil.example.org"), 403)
        self.problem(self.client.post(STOP, headers={"Origin": "https://evil.example.org"}), 403)
        self.assertEqual(self.client.get("/v1/nodes", host="fleet.example.org:8090").status, 200)

    def test_how_it_ended_decides_the_status(self) -> None:
        for status, code, expected in (
            ("NOT_FOUND", "UNKNOWN", 404), ("INVALID_ARGUMENT", "", 400), ("ABORTED", "SUPERSEDED", 409),
            ("FAILED_PRECONDITION", "", 409), ("RESOURCE_EXHAUSTED", "BUSY", 503), ("UNAVAILABLE", "", 502),
            ("DEADLINE_EXCEEDED", "", 504), ("INTERNAL", "D3001", 500), ("PERMISSION_DENIED", "", 502),
            ("ODD", "", 502),
        ):
            self.rig.daemons.answer = Answer(state=CommandState.FAILED, message="because", status=status, code=code)
            answer = self.client.post(STOP)
            self.assertEqual(self.problem(answer, expected), "because")
            self.assertEqual(answer.json["code"], code if code.startswith("D") else None)
            found = self.client.get(answer.headers["content-location"]).json
            self.assertEqual((found["success"], found["message"]), (False, "because"))

    def test_what_goes_on_is_202(self) -> None:
        self.rig.daemons.answer = Answer(state=CommandState.IN_PROGRESS, message="in progress")
        answer = self.client.post(STOP)
        self.assertEqual((answer.status, answer.json["success"], answer.json["state"]), (202, None, "in_progress"))

    def test_a_client_that_leaves_takes_nothing_back(self) -> None:
        waiting: list[Deferred[Answer]] = []
        self.rig.daemons.answer = waiting
        self.client.request("POST", STOP, token="f" * 64, body=b"")
        self.client.leave()
        waiting[0].callback(Answer(state=CommandState.DONE))
        (command,) = self.rig.connect().get("/v1/nodes/n1/commands").json["commands"]
        self.assertEqual(command["state"], "done")

    def test_a_fault_of_ours_is_written_down_and_logged(self) -> None:
        self.rig.daemons.answer = ZeroDivisionError()
        self.problem(self.client.post(STOP), 500)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        (command,) = self.client.get("/v1/nodes/n1/commands").json["commands"]
        self.assertEqual((command["state"], command["success"]), ("unknown", None))

    def test_a_node_without_a_way_to_it_is_409(self) -> None:
        self.assertIn("manager.daemon_tls", self.problem(self.client.post("/v1/nodes/n2/agents/web/stop"), 409))
        self.problem(self.client.post("/v1/nodes/n9/agents/web/stop"), 404)

    def test_too_many_are_told_to_come_again(self) -> None:
        waiting: list[Deferred[Answer]] = []
        self.rig.daemons.answer = waiting
        clients = [self.rig.connect() for _ in range(UNDER_WAY_MAX)]
        for client in clients:
            client.request("POST", STOP, token="f" * 64, body=b"")
        answer = self.client.post(STOP)
        self.problem(answer, 503)
        self.assertEqual(answer.headers["retry-after"], "5")
        for each in waiting:
            each.callback(Answer(state=CommandState.DONE))

    def test_a_stop_refuses_waits_and_leaves_the_rest_unknown(self) -> None:
        self.rig.daemons.answer = []
        self.client.request("POST", STOP, token="f" * 64, body=b"")
        stopped = Deferred.fromCoroutine(self.rig.commands.stop(5.0))
        self.rig.gate.stopping = True
        self.problem(self.rig.connect().post(STOP), 503)
        self.rig.clock.advance(4)
        self.assertNoResult(stopped)
        self.rig.clock.advance(1)
        self.successResultOf(stopped)
        (answer,) = self.client.answers("POST")
        self.assertEqual(answer.status, 503)
        (command,) = self.client.get("/v1/nodes/n1/commands").json["commands"]
        self.assertEqual(command["state"], "unknown")

    def test_release(self) -> None:
        self.do(self.rig.register(node("n3", owner="host-3"), "host-3"))
        self.assertEqual(self.client.get("/v1/nodes/n3").json["certificate"], "host-3")
        self.assertIsNone(self.client.post("/v1/nodes/n3/release").json["certificate"])
