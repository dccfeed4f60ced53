"""History, logs, alerts and configuration over HTTP."""

from __future__ import annotations

import json

import msgspec

from daemon.model.agent import HealthStatus
from daemon.model.health import HealthVerdict
from daemon.model.usage import Usage, UsagePoint
from daemon.resources.host_record import HOST, HostSample
from daemon.resources.ring import Ring
from daemon.web.api import STREAMS_MAX
from daemon.web.bodies import point_body
from daemon.web.points import PIECE, pieces
from tests.fakes.control import RigCase

BAD = "daemon: {work_dir: /w, http_prot: 1}\nagents: 7\n"


class RecordsRoutes(RigCase):
    def prepare(self) -> None:
        self.lab.spec("web")

    def write_log(self, text: bytes) -> None:
        path = self.lab.life.work_dir / "logs" / "web" / "agent.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab") as file:
            file.write(text)
        self.rig.notifier.touch(path)

    def test_points_by_duration_and_step(self) -> None:
        self.rig.used[self.lab.life.agent("web").pid] = Usage(cpu_percent=1.5, rss_bytes=7000, read_bytes=None)
        self.lab.run(60 - self.lab.clock.seconds() % 60)
        self.rig.resources.startService()
        self.lab.run(200, step=5)
        self.client = self.rig.connect()  # the first connection was closed: 75 s without a request
        answer = self.client.get("/v1/agents/web/metrics?duration=1h")
        self.assertEqual(answer.status, 200)
        points = answer.json["data_points"]
        self.assertEqual(len(points), 3)
        self.assertEqual((points[0]["memory_rss"], points[0]["disk_read_bytes"]), (7000, None))
        self.assertRegex(points[0]["timestamp"], r"^\d{4}-\d\d-\d\dT.*Z$")
        self.assertLessEqual(len(self.client.get("/v1/agents/web/metrics?duration=3600&step=600").json["data_points"]), 2)
        self.assertEqual(self.client.get("/v1/agents/web/metrics?duration=90").json["data_points"], points[-2:])
        for query in ("duration=-1", "duration=soon", "step=1x", "duration=99999999999", "duration=1e400",
                      "duration=", "duration", "step=0.5", "step=500ms"):
            self.assertEqual(self.client.get(f"/v1/agents/web/metrics?{query}").status, 400, query)
        self.assertEqual(self.client.get("/v1/agents/nobody/metrics").status, 404)
        self.successResultOf(self.rig.resources.stopService())

    def test_a_long_history_is_one_body_written_piece_by_piece(self) -> None:
        for count in (0, 1, PIECE, 2 * PIECE + 1):
            points = [UsagePoint(timestamp=60 * n, cpu=1.5) for n in range(count)]
            written = list(pieces('a"b', points))
            self.assertLessEqual(max(map(len, written)), 400 * PIECE)
            body = json.loads(b"".join(written))
            self.assertEqual(body, {"agent_id": 'a"b', "data_points": [msgspec.to_builtins(point_body(p)) for p in points]})

    def test_what_the_host_did_by_duration_and_step(self) -> None:
        now = int(self.lab.wall())
        self.assertEqual(self.client.get("/v1/metrics/history").json, {"data_points": []})
        ring = Ring(self.lab.life.work_dir / "state" / "host.ring", 1440, HOST)
        ring.append(HostSample(at=now - 60 * n, cpu=10.0 + n, memory_used=7000) for n in range(90, -1, -1))
        points = self.client.get("/v1/metrics/history").json["data_points"]
        self.assertEqual(len(points), 61)
        self.assertEqual((points[-1]["cpu"], points[-1]["memory_used"], points[-1]["load1"]), (10.0, 7000, None))
        self.assertRegex(points[0]["timestamp"], r"^\d{4}-\d\d-\d\dT.*Z$")
        self.assertEqual(len(self.client.get("/v1/metrics/history?duration=2h").json["data_points"]), 91)
        self.assertIn(len(self.client.get("/v1/metrics/history?step=10m").json["data_points"]), (6, 7))
        for query in ("duration=-1", "duration=soon", "step=1x", "duration=", "step=500ms", "duration=99999999999"):
            self.assertEqual(self.client.get(f"/v1/metrics/history?{query}").status, 400, query)

    def test_the_end_of_a_log(self) -> None:
        self.write_log(b"".join(b"line %d\n" % n for n in range(300)) + b"\xff not text")
        answer = self.client.get("/v1/agents/web/logs?lines=2")
        self.assertEqual((answer.status, answer.body), (200, b"line 299\n\xff not text\n"))
        self.assertTrue(answer.type.startswith("text/plain"))
        self.assertEqual(self.client.get("/v1/agents/web/logs?grep=line%207&lines=1").body, b"line 79\n")
        self.assertEqual(self.client.get("/v1/agents/web/logs").body.count(b"\n"), 100)
        self.assertEqual(self.client.get("/v1/agents/web/logs?lines=0").body, b"")
        for query in ("lines=x", "lines=10001", "lines=-1", "follow=perhaps", "grep=" + "x" * 300):
            self.assertEqual(self.client.get(f"/v1/agents/web/logs?{query}").status, 400, query)
        self.assertEqual(self.client.get("/v1/agents/nobody/logs").status, 404)

    def test_a_followed_log_is_streamed_until_the_client_leaves(self) -> None:
        self.write_log(b"one\ntwo\n")
        self.rig.logs.startService()
        self.lab.run(1)
        self.client.request("GET", "/v1/agents/web/logs?follow=true&lines=1")
        self.assertIn(b"two\n", self.client.streamed())
        self.write_log(b"three\n")
        self.lab.settle()
        self.assertTrue(self.client.streamed().endswith(b"three\n"), self.client.streamed())
        self.assertEqual(self.rig.logs.stats().followers, 1)
        self.client.leave()
        self.lab.settle()
        self.assertEqual(self.rig.logs.stats().followers, 0)
        self.successResultOf(self.rig.logs.stopService())

    def test_the_daemon_that_stops_ends_followers_and_a_crowd_is_refused(self) -> None:
        self.rig.logs.startService()
        clients = [self.rig.connect() for _ in range(STREAMS_MAX)]
        for client in clients:
            client.request("GET", "/v1/agents/web/logs?follow=true")
        self.assertEqual(self.client.get("/v1/agents/web/logs?follow=true").status, 503)
        self.rig.api.stop()
        self.lab.settle()
        self.assertEqual(self.rig.logs.stats().followers, 0)
        self.assertEqual(self.client.get("/v1/agents/web/logs?follow=true").status, 503)
        self.successResultOf(self.rig.logs.stopService())

    def test_alerts_with_null_for_the_daemons_own(self) -> None:
        self.rig.alerts.raise_alert("storage", "full <script>")
        [alert] = self.client.get("/v1/alerts").json["alerts"]
        self.assertEqual((alert["agent_id"], alert["cleared_at"], alert["message"]), (None, None, "full <script>"))

    def test_health_shows_the_last_verdict_on_the_present_process(self) -> None:
        agent = self.lab.life.agent("web")
        self.lab.run(2)
        agent.judge(HealthVerdict(status=HealthStatus.HEALTHY, reason="every check passes"))
        health = self.client.get("/v1/agents/web").json["health"]
        self.assertEqual((health["status"], health["reason"]), ("healthy", "every check passes"))
        self.assertIn('hostdaemon_agent_health{agent="web",status="healthy"} 1.0', self.client.get("/metrics").body.decode())

    def test_the_configuration_in_force_without_its_secrets(self) -> None:
        self.rig.config_file.write_text(
            f"daemon: {{work_dir: {self.lab.root}, labels: {{api_token: hunter2}}}}\n"
            "resources: {webhook: 'http://x/secret/path'}\n")
        answer = self.client.post("/v1/config/reload")
        self.assertEqual(answer.status, 200)
        text = json.dumps(answer.json) + self.client.get("/v1/config").body.decode()
        self.assertNotIn("hunter2", text)
        self.assertNotIn("secret/path", text)

    def test_a_dry_run_changes_nothing_and_a_change_needs_the_token(self) -> None:
        text = self.rig.config_file.read_text().replace("}", ", log_level: debug}")
        self.rig.config_file.write_text(text)
        self.assertEqual(self.client.post("/v1/config/reload", token="").status, 401)
        plan = self.client.post("/v1/config/reload?dry_run=true").json
        self.assertEqual(plan, {"applied": False, "warnings": [], "changes": [
            {"agent": "", "key": "daemon.log_level", "from": "info", "to": "debug", "effect": "live"}]})
        self.assertEqual(self.client.get("/v1/config").json["daemon"]["log_level"], "info")
        self.assertTrue(self.client.post("/v1/config/reload").json["applied"])
        self.assertEqual(self.client.get("/v1/config").json["daemon"]["log_level"], "debug")

    def test_a_bad_file_is_422_with_every_fault_and_shows_in_node_and_metrics(self) -> None:
        self.rig.config_file.write_text(BAD)
        answer = self.client.post("/v1/config/reload")
        self.assertEqual((answer.status, answer.json["code"]), (422, "D1002"))
        self.assertEqual(len(answer.json["faults"]), 2)
        self.assertIn("daemon.yaml:1:", answer.json["faults"][0])
        config = self.client.get("/v1/node").json["config"]
        self.assertFalse(config["ok"])
        self.assertIn("D1002", config["error"])
        metrics = self.client.get("/metrics").body.decode()
        self.assertIn("hostdaemon_config_last_reload_successful 0.0", metrics)
        self.assertIn("hostdaemon_config_reload_failures_total 1.0", metrics)
