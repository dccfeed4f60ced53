"""The reading routes of the API, through the real Site."""

from __future__ import annotations

import json

from daemon import __version__
from daemon.config.schema import AgentType
from daemon.errors import CollectError
from daemon.model.heartbeat import Heartbeat
from tests.fakes.control import FakeCollector, RigCase


class HealthTest(RigCase):
    def test_all_health_routes_answer_ok(self) -> None:
        for route in ("/livez", "/readyz", "/health", "/healthz", "/-/healthy", "/-/ready"):
            answer = self.client.get(route)
            self.assertEqual((answer.status, answer.body), (200, b'{"status":"ok"}'), route)
            self.assertEqual(answer.type, "application/json")

    def test_verbose_lists_every_check_with_or_without_a_value(self) -> None:
        for query in ("?verbose", "?verbose=1", "?x=2&verbose", "?verbose="):
            body = self.client.get("/readyz" + query).json
            self.assertEqual(body["status"], "ok")
            self.assertEqual(
                body["checks"],
                [{"name": "config", "ok": True, "error": None}, {"name": "agents", "ok": True, "error": None}],
            )
        self.assertNotIn("checks", self.client.get("/readyz?verbosely&xverbose=1").json)
        self.assertEqual(self.client.get("/livez?verbose").json["checks"][0]["name"], "loop")

    def test_a_failing_check_is_503_and_named_while_livez_stays(self) -> None:
        self.rig.failing["agents"] = "agents are being taken back"
        for route in ("/readyz", "/health", "/healthz", "/-/ready"):
            answer = self.client.get(route)
            self.assertEqual(answer.status, 503)
            self.assertEqual(answer.json["status"], "unavailable")
            self.assertEqual(
                answer.json["checks"],
                [{"name": "agents", "ok": False, "error": "agents are being taken back"}],
            )
        self.assertEqual(len(self.client.get("/readyz?verbose").json["checks"]), 2)
        self.assertEqual(self.client.get("/livez").status, 200)

    def test_neither_a_dead_agent_nor_a_missing_manager_makes_it_unready(self) -> None:
        self.lab.host.processes[self.lab.life.agent().pid].die(self.lab.program().status)
        self.lab.settle()
        self.assertEqual(self.client.get("/readyz").status, 200)


class ViewsTest(RigCase):
    collectors = (
        FakeCollector("cpu", {"usage_percent": 1.5, "model": "\N{SNOWMAN}", "nothing": None}),
        FakeCollector("disk", CollectError("cannot read")),
    )

    def prepare(self) -> None:
        self.lab.spec("web", name="the web")
        self.lab.spec("beat", type=AgentType.FILEBEAT)
        self.lab.spec("off", enabled=False)

    def test_the_index_names_routes_that_exist(self) -> None:
        index = self.client.get("/").json
        routes = [r for value in index.values() for r in ([value] if isinstance(value, str) else value)]
        self.assertGreater(len(routes), 5)
        for route in routes:
            self.assertEqual(self.client.get(route).status, 200, route)

    def test_the_node_has_the_keys_of_the_contract(self) -> None:
        answer = self.client.get("/v1/node")
        self.assertEqual((answer.status, answer.type), (200, "application/json"))
        body = answer.json
        contract = (
            "node_id hostname ip os arch labels daemon_version agent_version register_at started_at config manager"
        )
        self.assertLessEqual(set(contract.split()), set(body))
        self.assertEqual(set(body["config"]), {"path", "loaded_at", "ok", "error", "needs_restart"})
        self.assertEqual(
            set(body["manager"]),
            {
                "address", "connected", "since", "last_error", "queued", "delivered", "dropped",
                "refused", "registered_at",
            },
        )
        self.assertEqual(body["daemon_version"], __version__)
        self.assertEqual(body["labels"], {"rack": "7"})
        self.assertIsNone(body["register_at"])
        self.assertEqual(body["agents"]["running"], 2)
        self.assertEqual(body["agents"]["stopped"], 1)
        self.assertRegex(body["started_at"], r"^2023-11-14T22:30:\d\d\.\d{3}Z$")

    def test_the_metrics_are_the_latest_of_every_collector_that_has_one(self) -> None:
        self.assertEqual(self.client.get("/v1/metrics").json, {})
        self.rig.collectors.startService()
        self.addCleanup(self.rig.collectors.stopService)
        self.assertEqual(
            self.client.get("/v1/metrics").json,
            {"cpu": {
                "name": "cpu", "timestamp": "2023-11-14T22:13:20.500Z",
                "values": {"usage_percent": 1.5, "model": "\N{SNOWMAN}", "nothing": None},
            }},
        )

    def test_agents_are_listed_in_the_order_of_the_file_and_by_type(self) -> None:
        listed = self.client.get("/v1/agents").json["agents"]
        self.assertEqual([a["id"] for a in listed], ["web", "beat", "off"])
        one = self.client.get("/v1/agents?type=filebeat").json["agents"]
        self.assertEqual([a["id"] for a in one], ["beat"])
        for query in ("?type=telegraf", "?type=nonsense", "?type=%ff", "?type=%3Cscript%3E"):
            self.assertEqual(self.client.get("/v1/agents" + query).json, {"agents": []})
        self.assertEqual(len(self.client.get("/v1/agents?type=").json["agents"]), 3)

    def test_one_agent_is_the_same_view_as_in_the_list(self) -> None:
        listed = {a["id"]: a for a in self.client.get("/v1/agents").json["agents"]}
        for agent_id in ("web", "beat", "off"):
            self.assertEqual(self.client.get(f"/v1/agents/{agent_id}").json, listed[agent_id])

    def test_an_unknown_agent_is_404_without_a_code(self) -> None:
        self.check_problem(self.client.get("/v1/agents/nope"), 404, None, "no agent 'nope'")

    def test_heartbeat_stats_have_the_keys_of_the_contract(self) -> None:
        keys = ("total_received total_processed total_errors last_received_time average_latency "
                "queue_depth queue_size workers")
        self.assertEqual(set(self.client.get("/heartbeat/stats").json), set(keys.split()))

    def test_a_heartbeat_shows_in_the_view(self) -> None:
        agent = self.lab.life.agent("web")
        agent.record(Heartbeat(pid=agent.pid, timestamp=0.0, version="9.9", cpu=2.5, memory=1024))
        view = self.client.get("/v1/agents/web").json
        self.assertEqual((view["cpu_percent"], view["memory_bytes"], view["version"]), (2.5, 1024, "9.9"))
        self.assertEqual(self.client.get("/v1/node").json["agent_version"], "9.9")
        json.dumps(view)
