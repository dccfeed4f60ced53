"""Views: exactly the keys of the wire contract, true in every state of an agent."""

from __future__ import annotations

import msgspec

from daemon.agents.operations import Verb
from daemon.config.schema import AgentType, RestartConfig
from daemon.control.views import AgentView
from daemon.model.agent import ExitStatus
from daemon.model.heartbeat import Heartbeat
from daemon.model.moment import rfc3339
from tests.fakes.control import Rig, RigCase
from tests.fakes.host import Program

WIRE = (
    "id type name binary_path config_file work_dir socket_path enabled wanted status pid version start_time "
    "uptime_seconds restart_count lifetime_restarts last_restart next_try created_at updated_at last_heartbeat "
    "cpu_percent memory_bytes health last_exit why log_file adopted"
)
RFC3339 = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$"


class AgentViewTest(RigCase):
    def prepare(self) -> None:
        self.lab.spec("web", name="the web", type=AgentType.CUSTOM, config_file="", args=("-x",))
        self.lab.spec("off", enabled=False)
        self.lab.spec("never", missing=True, restart=RestartConfig(max_retries=1, slow_retry=0.0))
        self.lab.spec("waits", missing=True)

    def view(self, agent_id: str = "web") -> AgentView:
        return self.rig.control.agent(agent_id)

    def test_the_keys_are_exactly_those_of_the_contract_in_every_state(self) -> None:
        for view in self.rig.control.list_agents():
            body = msgspec.to_builtins(view)
            self.assertEqual(list(body), WIRE.split())
            self.assertEqual(set(body["health"]), {"status", "reason", "since"})
            if body["last_exit"] is not None:
                self.assertEqual(set(body["last_exit"]), {"code", "signal", "reason", "at"})
            self.assertEqual(msgspec.json.decode(msgspec.json.encode(view)), body)

    def test_a_running_agent(self) -> None:
        self.lab.run(10)
        agent = self.lab.life.agent("web")
        view = self.view()
        self.assertEqual(
            (view.id, view.type, view.name, view.binary_path),
            ("web", "custom", "the web", str(self.lab.binary("web"))),
        )
        self.assertEqual((view.enabled, view.wanted, view.status, view.pid), (True, "running", "running", agent.pid))
        self.assertEqual(view.uptime_seconds, 12.0)
        self.assertEqual((view.health.status, view.last_exit, view.adopted), ("healthy", None, False))
        self.assertEqual((view.cpu_percent, view.memory_bytes, view.last_heartbeat), (None, None, None))
        self.assertEqual((view.restart_count, view.lifetime_restarts, view.last_restart), (0, 0, None))
        self.assertIsNone(view.next_try)
        self.assertEqual(view.socket_path, self.lab.life.world.socket_path)
        self.assertTrue(view.log_file.endswith("/logs/web/agent.log"))
        self.assertIn("wanted running", view.why)
        self.assertIn("it runs as configured", view.why)
        for moment in (view.start_time, view.created_at, view.updated_at, view.health.since):
            self.assertRegex(moment, RFC3339)

    def test_a_heartbeat_and_then_the_end_of_its_process(self) -> None:
        agent = self.lab.life.agent("web")
        agent.record(Heartbeat(pid=agent.pid, timestamp=0.0, cpu=0.0, memory=0, version="2.0"))
        view = self.view()
        self.assertEqual((view.cpu_percent, view.memory_bytes, view.version), (0.0, 0, "2.0"))
        self.assertRegex(view.last_heartbeat, RFC3339)
        self.rig.control.operate("web", Verb.STOP)
        self.lab.settle()
        view = self.view()
        self.assertEqual((view.status, view.wanted, view.pid), ("stopped", "stopped", None))
        self.assertEqual((view.cpu_percent, view.memory_bytes, view.start_time), (None, None, None))
        self.assertEqual((view.uptime_seconds, view.health.status), (0.0, "dead"))
        self.assertRegex(view.last_heartbeat, RFC3339)
        assert view.last_exit is not None
        self.assertEqual((view.last_exit.code, view.last_exit.signal), (None, 15))
        self.assertIn("the operator stopped it", view.why)

    def test_a_disabled_agent_says_why_it_is_down(self) -> None:
        view = self.view("off")
        self.assertEqual((view.enabled, view.status, view.wanted), (False, "stopped", "running"))
        self.assertIn("enabled: false", view.why)

    def test_a_waiting_agent_shows_its_next_try_and_the_cause(self) -> None:
        view = self.view("waits")
        self.assertEqual(view.status, "restarting")
        self.assertRegex(view.next_try, RFC3339)
        self.assertIn("install it or correct binary_path", view.why)
        assert view.last_exit is not None
        self.assertIn("install it", view.last_exit.reason)
        before = view.next_try
        self.lab.run(1)
        self.assertEqual(self.view("waits").next_try, before)

    def test_a_next_try_that_is_overdue_is_now(self) -> None:
        agent = self.lab.life.agent("waits")
        agent.book.remember(next_try_mono=self.lab.clock.seconds() - 50)
        self.assertEqual(self.view("waits").next_try, rfc3339(self.lab.wall()))

    def test_a_failed_agent_has_no_next_try(self) -> None:
        self.lab.run(60)
        view = self.view("never")
        self.assertEqual((view.status, view.next_try, view.health.status), ("failed", None, "dead"))
        self.assertEqual(view.restart_count, view.lifetime_restarts)

    def test_an_agent_that_just_started_is_starting(self) -> None:
        self.lab.life.process("web").die(ExitStatus(code=1))
        self.lab.settle()
        view = self.view()
        self.assertEqual((view.status, view.health.status), ("starting", "starting"))
        self.assertEqual((view.restart_count, view.lifetime_restarts), (1, 1))
        self.assertRegex(view.last_restart, RFC3339)
        assert view.last_exit is not None
        self.assertEqual((view.last_exit.code, view.last_exit.reason), (1, "exit code 1"))

    def test_an_agent_that_left_the_file_while_it_stops_is_still_shown(self) -> None:
        self.lab.host.programs[str(self.lab.binary("web"))] = Program()
        self.lab.life.process("web").program.stop_takes_s = 5.0
        del self.lab.specs["web"]
        self.lab.life.manager.apply(self.lab.specs.values())
        view = self.view()
        self.assertEqual((view.enabled, view.binary_path, view.name), (False, "", ""))
        self.assertIn("no longer in the configuration", view.why)

    def test_a_taken_back_agent_says_so(self) -> None:
        pid = self.view().pid
        self.lab.run(1)
        self.lab.next_daemon()
        view = Rig(self.lab).control.agent("web")
        self.assertEqual((view.pid, view.adopted, view.status), (pid, True, "running"))
        self.assertAlmostEqual(view.uptime_seconds, 3.0, delta=0.1)
