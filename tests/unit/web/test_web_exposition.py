"""``/metrics``: parsable in both formats, complete, and named as Prometheus wants."""

from __future__ import annotations

import re
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from daemon import __version__
from daemon.agents.operations import Verb
from daemon.errors import CollectError
from daemon.model.heartbeat import Heartbeat
from daemon.model.usage import Usage
from daemon.web.exposition import DaemonMetrics
from daemon.web.scrape import PIECE_BYTES, Exposition
from tests.fakes.control import FakeCollector, RigCase

OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


class ExpositionTest(RigCase):
    collectors = (
        FakeCollector("cpu", {"usage_percent": 1.5}),
        FakeCollector("disk", CollectError("cannot read")),
    )

    def prepare(self) -> None:
        self.lab.spec("web")
        self.lab.spec("off", enabled=False)

    def families(self, accept: str = "") -> dict[str, Metric]:
        answer = self.client.get("/metrics", headers={"Accept": accept} if accept else {})
        self.assertEqual(answer.status, 200)
        parse = parse_openmetrics if "openmetrics" in accept else parse_text
        return {family.name: family for family in parse(answer.body.decode())}

    def value(self, name: str, **labels: str) -> float:
        for family in self.families().values():
            for sample in family.samples:
                if sample.name == name and sample.labels == labels:
                    return sample.value
        raise AssertionError(f"no {name}{labels}")

    def test_text_is_the_default_and_parsable(self) -> None:
        answer = self.client.get("/metrics")
        self.assertTrue(answer.type.startswith("text/plain; version=0.0.4"), answer.type)
        self.assertEqual(self.value("hostdaemon_build_info", version=__version__), 1.0)
        self.assertIn("process_resident_memory_bytes", self.families())

    def test_openmetrics_by_accept_ends_with_eof_and_is_parsable(self) -> None:
        answer = self.client.get("/metrics", headers={"Accept": OPENMETRICS})
        self.assertTrue(answer.type.startswith("application/openmetrics-text; version=1.0.0"), answer.type)
        self.assertTrue(answer.body.endswith(b"# EOF\n"))
        self.assertIn("hostdaemon_build", self.families(OPENMETRICS))

    def test_any_accept_gets_one_of_the_two(self) -> None:
        for accept in ("*/*", "text/html", ",,;;q=x", "application/openmetrics-text", "x" * 8000, "text/plain;q=0.5"):
            self.assertEqual(self.client.get("/metrics", headers={"Accept": accept}).status, 200)

    def test_agents_show_their_state_restarts_start_and_heartbeats(self) -> None:
        states = {
            (s.labels["agent"], s.labels["state"]): s.value
            for s in self.families()["hostdaemon_agent_state"].samples
        }
        self.assertEqual(len(states), 2 * 6)
        self.assertEqual(
            {key for key, value in states.items() if value}, {("web", "running"), ("off", "stopped")}
        )
        agent = self.lab.life.agent("web")
        self.assertNotIn("hostdaemon_agent_heartbeat_age_seconds", self.sampled())
        agent.record(Heartbeat(pid=agent.pid, timestamp=0.0))
        self.lab.run(3)
        self.assertEqual(self.value("hostdaemon_agent_heartbeat_age_seconds", agent="web"), 3.0)
        self.assertEqual(self.value("hostdaemon_agent_heartbeats_total", agent="web"), 1.0)
        self.assertEqual(
            self.value("hostdaemon_agent_start_time_seconds", agent="web"), agent.metadata.started_at
        )
        self.lab.life.process("web").die(self.lab.program("web").status)
        self.lab.run(2)
        self.assertEqual(self.value("hostdaemon_agent_restarts_total", agent="web"), 1.0)

    def test_agents_show_what_they_use_as_long_as_they_run(self) -> None:
        life, now = self.lab.life, self.lab.clock.seconds
        self.assertNotIn("hostdaemon_agent_cpu_seconds_total", self.sampled())
        self.rig.used[life.agent("web").pid] = Usage(
            cpu_percent=5.0, rss_bytes=4096, vms_bytes=8192, open_files=None, threads=3, cpu_seconds=1.5
        )
        self.lab.run(60 - now() % 60)
        self.rig.resources.startService()
        self.addCleanup(self.rig.resources.stopService)
        self.lab.run(70, step=5)
        self.client = self.rig.connect()
        self.assertEqual(self.value("hostdaemon_agent_cpu_seconds_total", agent="web"), 1.5)
        self.assertEqual(self.value("hostdaemon_agent_resident_memory_bytes", agent="web"), 4096)
        self.assertEqual(self.value("hostdaemon_agent_virtual_memory_bytes", agent="web"), 8192)
        self.assertEqual(self.value("hostdaemon_agent_threads", agent="web"), 3)
        self.assertNotIn("hostdaemon_agent_open_fds", self.sampled())  # they may not be counted
        stopped = self.rig.control.operate("web", Verb.STOP, graceful=False, peer="t")
        self.lab.run(5)
        self.successResultOf(stopped)
        self.assertNotIn("hostdaemon_agent_resident_memory_bytes", self.sampled())
        self.assertNotIn("hostdaemon_agent_start_time_seconds", self.sampled())
        self.assertEqual(self.value("hostdaemon_agent_cpu_seconds_total", agent="web"), 1.5)  # a counter stays

    def test_every_agent_has_its_type_and_one_health(self) -> None:
        self.assertEqual(self.value("hostdaemon_agent_info", agent="web", type="custom", version=""), 1.0)
        shown = {
            (s.labels["agent"], s.labels["status"]) for s in self.families()["hostdaemon_agent_health"].samples
            if s.value
        }
        self.assertEqual(shown, {("web", "healthy"), ("off", "dead")})

    def sampled(self) -> set[str]:
        return {s.name for family in self.families().values() for s in family.samples}

    def test_collectors_show_their_success(self) -> None:
        self.rig.collectors.startService()
        self.addCleanup(self.rig.collectors.stopService)
        self.assertEqual(self.value("hostdaemon_collector_success", collector="cpu"), 1.0)
        self.assertEqual(self.value("hostdaemon_collector_success", collector="disk"), 0.0)
        self.assertEqual(self.value("hostdaemon_collector_failures_total", collector="disk"), 1.0)

    def test_events_are_counted(self) -> None:
        before = self.value("hostdaemon_events_total")
        self.rig.bus.publish("x", "y")
        self.assertEqual(self.value("hostdaemon_events_total"), before + 1)
        self.assertEqual(self.value("hostdaemon_events_lost_total"), 0)

    def test_names_follow_the_conventions_and_every_family_has_help(self) -> None:
        text = self.client.get("/metrics").body.decode()
        typed = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M))
        helped = set(re.findall(r"^# HELP (\S+) \S", text, re.M))
        for name, kind in typed.items():
            self.assertIn(name, helped)
            self.assertEqual(name.endswith("_total"), kind == "counter", name)
            self.assertRegex(name, r"^(hostdaemon|process)_[a-z0-9_]+$")
            self.assertNotRegex(name, r"_(ms|milliseconds|percent|kb|count)$")

    def test_families_of_others_are_added(self) -> None:
        def extra() -> Iterator[Metric]:
            yield CounterMetricFamily("hostdaemon_more", "More.", 5)

        exposition = Exposition(DaemonMetrics(self.rig.control, self.lab.clock.seconds, extra))
        body, kind = exposition.encode("")
        self.assertIn(b"hostdaemon_more_total 5.0", body)
        self.assertIn("text/plain", kind)

    def test_a_body_is_the_same_in_pieces_and_comes_over_several_turns(self) -> None:
        def extra() -> Iterator[Metric]:
            for n in range(9):
                family = GaugeMetricFamily(f"hostdaemon_family_{n}", "Of a size.", labels=("n",))
                for each in range(500):
                    family.add_metric((str(each),), 1.0)
                yield family

        for accept, end in (("", b"\n"), (OPENMETRICS, b"# EOF\n")):
            exposition = Exposition(DaemonMetrics(self.rig.control, self.lab.clock.seconds, extra), process=False)
            whole, kind = exposition.encode(accept)
            pieces, same_kind = exposition.pieces(accept)
            found = list(pieces)
            self.assertEqual((b"".join(found), kind), (whole, same_kind))
            self.assertTrue(whole.endswith(end) and whole.count(b"# EOF") == (end == b"# EOF\n"))
            self.assertGreater(len(found), 5)
            self.assertLess(max(map(len, found)), 2 * PIECE_BYTES + 20_000)

    def test_head_has_the_type_and_no_body(self) -> None:
        for path in ("/metrics", "/metrics/host"):
            answer = self.client.ask("HEAD", path)
            self.assertEqual((answer.status, answer.body), (200, b""))
            self.assertTrue(answer.type.startswith("text/plain; version=0.0.4"))

    def test_a_scraper_that_leaves_in_the_middle_costs_nothing(self) -> None:
        client = self.rig.connect(transport=None)
        client.channel.dataReceived(b"GET /metrics HTTP/1.1\r\nHost: localhost:8084\r\n\r\n")
        client.leave()
        self.lab.settle()
        self.assertEqual(self.client.get("/metrics").status, 200)
