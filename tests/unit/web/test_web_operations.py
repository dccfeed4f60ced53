"""Operations over HTTP: outcomes, patience, refusals, and who asked."""

from __future__ import annotations

import signal
from typing import Any

from daemon.agents.operations import Verb
from daemon.model.agent import ExitStatus
from tests.fakes.control import TOKEN, Answer, RigCase
from tests.fakes.host import Program

UNMOVED = frozenset({int(signal.SIGTERM)})


class OperationTest(RigCase):
    def prepare(self) -> None:
        self.lab.spec("web")
        self.lab.spec("stubborn", stop_timeout=200.0)
        self.lab.program("stubborn").ignores = UNMOVED

    def view(self, agent_id: str = "web") -> Any:
        return self.rig.connect().get(f"/v1/agents/{agent_id}").json

    def post_and_run(self, target: str, seconds: float, **how: Any) -> Answer:
        self.client.request("POST", target, token=TOKEN, body=b"", **how)
        self.assertEqual(self.client.transport.value(), b"")
        self.lab.run(seconds)
        (answer,) = self.client.answers("POST")
        return answer

    def test_stop_start_and_restart_answer_with_the_view_afterwards(self) -> None:
        first = self.view()["pid"]
        stopped = self.client.post("/v1/agents/web/stop")
        self.assertEqual((stopped.status, stopped.type), (200, "application/json"))
        self.assertEqual(
            [stopped.json[k] for k in ("id", "status", "wanted", "pid")], ["web", "stopped", "stopped", None]
        )
        started = self.post_and_run("/v1/agents/web/start", 1.0)
        self.assertEqual([started.json[k] for k in ("status", "wanted")], ["running", "running"])
        restarted = self.post_and_run("/v1/agents/web/restart", 1.0)
        self.assertEqual((restarted.status, restarted.json["status"]), (200, "running"))
        self.assertEqual(len({first, started.json["pid"], restarted.json["pid"]}), 3)
        self.assertEqual(restarted.json["restart_count"], 0)
        self.assertNotIn("warnings", restarted.json)
        self.assertNotIn("message", restarted.json)

    def test_what_is_so_already_succeeds(self) -> None:
        self.assertEqual(self.client.post("/v1/agents/web/start").status, 200)
        for _ in range(2):
            self.assertEqual(self.client.post("/v1/agents/web/stop").status, 200)

    def test_an_operation_past_90_s_is_202_and_goes_on(self) -> None:
        answer = self.post_and_run("/v1/agents/stubborn/stop", 90.0)
        self.assertEqual(answer.status, 202)
        self.assertEqual(answer.json["status"], "stopping")
        self.assertIn("goes on", answer.json["message"])
        self.lab.run(120)
        self.assertEqual(self.view("stubborn")["status"], "stopped")
        self.assertEqual(self.client.transport.value(), b"")

    def test_graceful_false_kills_at_once(self) -> None:
        for text in ("false", "0", "no", "FALSE"):
            answer = self.client.post(f"/v1/agents/stubborn/stop?graceful={text}")
            self.assertEqual((answer.status, answer.json["status"]), (200, "stopped"))
            self.post_and_run("/v1/agents/stubborn/start", 1.0)

    def test_graceful_must_be_a_truth_value(self) -> None:
        for text in ("maybe", "2", "%ff", "%00", "falsee", "", "true&graceful="):
            answer = self.client.post(f"/v1/agents/web/stop?graceful={text}")
            self.check_problem(answer, 400, None, "graceful must be true or false")
        self.assertEqual(self.view()["status"], "running")

    def test_a_start_superseded_by_a_stop_is_409(self) -> None:
        self.client.post("/v1/agents/web/stop")
        self.client.request("POST", "/v1/agents/web/start", token=TOKEN, body=b"")
        self.assertEqual(self.rig.connect().post("/v1/agents/web/stop").status, 200)
        (answer,) = self.client.answers("POST")
        self.check_problem(answer, 409, None, "superseded")

    def test_a_binary_that_is_missing_is_500_with_d3001_and_the_next_step(self) -> None:
        self.client.post("/v1/agents/web/stop")
        self.lab.binary("web").unlink()
        answer = self.client.post("/v1/agents/web/start")
        self.check_problem(answer, 500, "D3001", "install it or correct binary_path")

    def test_a_process_that_dies_before_start_seconds_is_500_with_d3001(self) -> None:
        self.client.post("/v1/agents/web/stop")
        self.lab.host.programs[str(self.lab.binary("web"))] = Program(lives_s=0.5, status=ExitStatus(code=3))
        answer = self.post_and_run("/v1/agents/web/start", 1.0)
        self.check_problem(answer, 500, "D3001", "exit code 3")

    def test_a_process_that_survives_sigkill_is_500_with_d3002(self) -> None:
        self.client.post("/v1/agents/web/stop")
        self.lab.host.programs[str(self.lab.binary("web"))] = Program(stuck=True, ignores=UNMOVED)
        self.post_and_run("/v1/agents/web/start", 1.0)
        answer = self.post_and_run("/v1/agents/web/stop?graceful=false", 60.0)
        self.check_problem(answer, 500, "D3002")

    def test_an_agent_that_is_disabled_or_unknown_is_refused_without_a_code(self) -> None:
        self.check_problem(self.client.post("/v1/agents/nope/start"), 404, None, "no agent 'nope'")
        self.lab.spec("web", enabled=False)
        self.lab.life.manager.apply(self.lab.specs.values())
        self.lab.run(1)
        answer = self.client.post("/v1/agents/web/start")
        self.check_problem(answer, 409, None)

    def test_all_enabled_agents_get_a_result_each(self) -> None:
        self.lab.spec("broken", missing=True)
        self.lab.spec("off", enabled=False)
        self.lab.life.manager.apply(self.lab.specs.values())
        answer = self.post_and_run("/v1/agents/restart?graceful=false", 1.0)
        self.assertEqual(answer.status, 200)
        results = answer.json["results"]
        self.assertEqual(set(results), {"web", "stubborn", "broken"})
        self.assertEqual(results["web"], {"success": True, "error": ""})
        self.assertIs(results["broken"]["success"], False)
        self.assertIn("D3001", results["broken"]["error"])
        answer = self.client.post("/v1/agents/stop?graceful=false")
        self.assertEqual([self.view(i)["status"] for i in ("web", "stubborn")], ["stopped", "stopped"])
        self.assertEqual({r["success"] for r in answer.json["results"].values()}, {True})
        started = self.post_and_run("/v1/agents/start", 1.0)
        self.assertIs(started.json["results"]["web"]["success"], True)

    def test_while_stopping_new_work_is_503_with_retry_after_and_reading_goes_on(self) -> None:
        self.rig.api.stop()
        for target in ("/v1/agents/web/stop", "/v1/agents/restart"):
            answer = self.client.post(target)
            self.check_problem(answer, 503, None, "stopping")
            self.assertEqual(answer.headers["retry-after"], "5")
        self.check_problem(self.client.get("/v1/events"), 503, None, "stopping")
        self.assertEqual(self.client.get("/v1/agents/web").json["status"], "running")
        self.assertEqual(self.client.get("/livez").status, 200)

    def test_waiting_for_the_outcome_when_the_daemon_leaves_is_503(self) -> None:
        self.client.post("/v1/agents/web/stop")
        self.client.request("POST", "/v1/agents/web/start", token=TOKEN, body=b"")
        self.successResultOf(self.lab.life.leave())
        (answer,) = self.client.answers("POST")
        self.check_problem(answer, 503, None, "the daemon is stopping")

    def test_a_client_that_leaves_stops_nothing(self) -> None:
        self.client.request("POST", "/v1/agents/stubborn/stop", token=TOKEN, body=b"")
        self.client.leave()
        self.lab.run(210)
        self.assertEqual(self.view("stubborn")["status"], "stopped")
        events = [e for e in self.rig.bus.latest(50) if e.type == "operation"]
        self.assertEqual(events[-1].agent_id, "stubborn")
        other = self.rig.connect()
        other.request("POST", "/v1/agents/restart", token=TOKEN, body=b"")
        other.leave()
        self.lab.run(5)
        self.assertEqual(self.view()["status"], "running")

    def test_a_warning_of_a_full_disk_is_in_the_answer(self) -> None:
        agent = self.lab.life.agent("web")
        self.client.post("/v1/agents/web/stop")
        self.client.request("POST", "/v1/agents/web/start", token=TOKEN, body=b"")
        agent.board.warn(Verb.START, "it could not be stored")
        self.lab.run(1)
        (answer,) = self.client.answers("POST")
        self.assertEqual((answer.status, answer.json["warnings"]), (200, ["it could not be stored"]))

    def test_the_audit_names_the_peer(self) -> None:
        self.rig.connect(local=True, peer="uid 0 pid 77").ask("POST", "/v1/agents/web/stop", body=b"")
        self.client.post("/v1/agents/web/stop")
        events = [e for e in self.rig.bus.latest(50) if e.type == "operation"]
        self.assertEqual(events[0].data["peer"], "uid 0 pid 77")
        self.assertIn("127.0.0.1", events[1].data["peer"])
        self.assertRegex(str(events[1].data["peer"]), r"^127\.0\.0\.1:\d+$")
