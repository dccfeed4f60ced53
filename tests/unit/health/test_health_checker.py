"""Silence, hogs, hung endpoints, slow starters: each found when it must be, with its numbers, and not before."""

from __future__ import annotations

from health_lab import QUIET, WardCase

from daemon.config.schema import AgentType
from daemon.health.checker import TOGETHER
from daemon.httpclient import HttpClient
from daemon.model.agent import AgentState, ExitStatus, HealthStatus
from tests.fakes.commands import FakeProgram
from tests.fakes.threads import InlineThreads

HEALTHY, STARTING = HealthStatus.HEALTHY, HealthStatus.STARTING
SILENT, OVER, FAILED = HealthStatus.NO_HEARTBEAT, HealthStatus.OVER_THRESHOLD, HealthStatus.ENDPOINT_FAILED
URL = "http://127.0.0.1:9100/metrics"


class Silence(WardCase):
    def test_a_silent_agent_is_found_at_its_timeout_and_not_before(self) -> None:
        agent = self.admit(heartbeat_timeout=90.0)
        for _ in range(10):
            agent.beats(self.clock.seconds())
            self.wait(10)
        last = self.clock.seconds() - 10
        self.wait(last + 89.9 - self.clock.seconds(), step=0.1)
        self.assertIs(self.status(agent), HEALTHY)
        self.wait(0.2, step=0.1)
        verdict = agent.verdicts[-1]
        self.assertIs(verdict.status, SILENT)
        self.assertRegex(verdict.reason, r"^no heartbeat for 90\.[01] s, the limit is 90 s$")
        self.assertEqual((verdict.check, verdict.limit), ("heartbeat", 90.0))
        alert = self.alerts.standing["a", "no_heartbeat"]
        self.assertEqual((alert.current_value, alert.threshold), (verdict.value, 90.0))

    def test_it_is_well_again_within_a_second_of_its_next_heartbeat(self) -> None:
        agent = self.admit(heartbeat_timeout=20.0, interval=60.0)
        agent.beats(self.clock.seconds())
        self.wait(90)
        self.assertIs(self.status(agent), SILENT)
        agent.beats(self.clock.seconds())
        self.wait(1.1, step=0.1)
        self.assertIs(self.status(agent), HEALTHY)
        self.assertEqual(self.alerts.standing, {})

    def test_an_agent_that_never_sent_one_is_not_armed_whatever_is_written(self) -> None:
        for type in (AgentType.FILEBEAT, AgentType.TELEGRAF, AgentType.NODE_EXPORTER, AgentType.CUSTOM):
            agent = self.admit(type.value, type=type, heartbeat_timeout=5.0)
            self.wait(100)
            self.assertIs(self.status(agent), HEALTHY)

    def test_type_custom_with_the_timeout_on_the_agent_counts_from_its_start(self) -> None:
        agent = self.admit(heartbeat_timeout=30.0, from_start=True)
        self.wait(29.5)
        self.assertIsNot(self.status(agent), SILENT)
        self.wait(1)
        self.assertIs(self.status(agent), SILENT)

    def test_armed_by_an_earlier_daemon_it_counts_from_our_own_start(self) -> None:
        agent = self.admit(heartbeat_timeout=30.0)
        agent.ever_heartbeat = True  # an adopted one: what it sent while no daemon listened is unknown
        agent.heartbeat_mono = self.clock.seconds() - 500
        agent.started_mono = self.clock.seconds() - 5000
        self.wait(29)
        self.assertIs(self.status(agent), HEALTHY)
        self.wait(12)
        self.assertIs(self.status(agent), SILENT)

    def test_a_new_process_has_its_whole_timeout(self) -> None:
        agent = self.admit(heartbeat_timeout=30.0)
        agent.beats(self.clock.seconds())
        self.wait(40)
        self.assertIs(self.status(agent), SILENT)
        agent.runs(999, self.clock.seconds())
        self.checker.process_changed("a")
        self.assertEqual(self.alerts.standing, {})
        self.wait(29)
        self.assertIs(self.status(agent), HEALTHY)
        self.wait(2)
        self.assertIs(self.status(agent), SILENT)

    def test_0_switches_it_off_and_a_new_timeout_counts_from_the_reload(self) -> None:
        agent = self.admit(heartbeat_timeout=0.0)
        agent.beats(self.clock.seconds())
        self.wait(1000, step=5)
        self.assertIs(self.status(agent), HEALTHY)
        self.reconfigure(heartbeat_timeout=50.0)
        self.wait(49)
        self.assertIs(self.status(agent), HEALTHY)
        self.wait(2)
        self.assertIs(self.status(agent), SILENT)

    def test_start_period_forgives_silence_too(self) -> None:
        agent = self.admit(heartbeat_timeout=5.0, from_start=True, start_period=60.0)
        self.wait(59)
        self.assertIs(self.status(agent), STARTING)
        self.wait(2)
        self.assertIs(self.status(agent), SILENT)

    def test_a_shorter_timeout_counts_from_the_reload_which_itself_restarts_nobody(self) -> None:
        agent = self.admit(heartbeat_timeout=500.0)
        agent.beats(self.clock.seconds())
        self.wait(30)
        self.reconfigure(heartbeat_timeout=20.0)
        self.wait(19.5)
        self.assertIs(self.status(agent), HEALTHY)
        self.wait(1)
        self.assertIs(self.status(agent), SILENT)

    def test_a_timeout_newly_written_on_an_old_process_counts_from_the_reload(self) -> None:
        agent = self.admit(heartbeat_timeout=90.0)
        self.wait(1000, step=5)
        self.reconfigure(heartbeat_timeout=90.0, from_start=True)
        self.wait(89)
        self.assertIs(self.status(agent), HEALTHY)
        self.wait(2)
        self.assertIs(self.status(agent), SILENT)


class Hogs(WardCase):
    def hog(self) -> None:
        self.cpu = 180.0

    def test_a_cpu_hog_is_found_after_the_duration_with_its_numbers(self) -> None:
        agent = self.admit(cpu_threshold=50.0, threshold_duration=60.0)
        self.wait(30)
        self.hog()
        self.wait(59)
        self.assertIs(self.status(agent), HEALTHY)
        self.wait(20)
        verdict = next(v for v in agent.verdicts if v.status is OVER)
        self.assertIn("CPU 180.0 % of one core, above 50 % for 60.0 s (threshold_duration", verdict.reason)
        self.assertEqual((verdict.check, verdict.value, verdict.limit), ("cpu", 180.0, 50.0))
        assert verdict.duration_s is not None
        self.assertGreaterEqual(verdict.duration_s, 59.9)

    def test_a_spike_shorter_than_the_duration_is_nothing_however_often(self) -> None:
        agent = self.admit(cpu_threshold=50.0, threshold_duration=60.0)
        for _ in range(5):
            self.hog()
            self.wait(55)
            self.cpu = 10.0
            self.wait(15)
        self.assertEqual([v.status for v in agent.verdicts], [HEALTHY])

    def test_a_memory_hog_and_the_end_of_it(self) -> None:
        agent = self.admit(memory_threshold=500_000_000, threshold_duration=30.0)
        self.wait(20)
        self.rss = 600_000_000
        self.wait(45)
        self.assertIs(self.status(agent), OVER)
        self.assertEqual(agent.verdicts[-1].value, 600_000_000)
        self.assertIn("572.2 MiB, above 476.8 MiB", agent.verdicts[-1].reason)
        self.rss = 1
        self.wait(10)
        self.assertIs(self.status(agent), HEALTHY)
        self.assertEqual(self.alerts.standing, {})

    def test_exactly_at_the_threshold_is_not_above_it(self) -> None:
        agent = self.admit(memory_threshold=1000, cpu_threshold=50.0, threshold_duration=0.0)
        self.rss, self.cpu = 1000, 50.0
        self.wait(100)
        self.assertEqual([v.status for v in agent.verdicts], [HEALTHY])

    def test_no_thresholds_mean_no_samples(self) -> None:
        self.admit()
        self.wait(100)
        self.assertEqual(self.meters, 0)

    def test_another_process_begins_anew_with_a_meter_of_its_own(self) -> None:
        agent = self.admit(cpu_threshold=50.0, threshold_duration=60.0)
        self.hog()
        self.wait(55)
        agent.runs(555, self.clock.seconds())
        self.checker.process_changed("a")
        self.wait(59)
        self.assertIs(self.status(agent), HEALTHY)
        self.assertEqual(self.meters, 2)

    def test_a_changed_threshold_counts_anew_and_an_unchanged_one_goes_on(self) -> None:
        agent = self.admit(cpu_threshold=50.0, threshold_duration=60.0)
        self.hog()
        self.wait(55)
        self.reconfigure(cpu_threshold=50.0, threshold_duration=60.0, http_timeout=1.0)
        self.wait(25)
        self.assertIs(self.status(agent), OVER)
        self.reconfigure(cpu_threshold=60.0, threshold_duration=60.0)
        self.assertIs(self.status(agent), HEALTHY)
        self.wait(80)
        self.assertIs(self.status(agent), OVER)

    def late_first_sample(self) -> float:
        """Memory is above at a sample that comes 50 ms late, as under load; when that was."""
        self.rss = 10
        self.admit(memory_threshold=1000, threshold_duration=60.0)
        self.wait(2)  # past the first look
        looks = self.checker.stats().looks_total
        while self.checker.stats().looks_total == looks:
            self.clock.advance(0.001)
        self.clock.advance(9.9)
        self.rss = 2000
        self.clock.advance(0.15)
        return self.clock.seconds()

    def test_a_sample_a_hair_too_early_is_taken_when_it_is_due_not_an_interval_later(self) -> None:
        since = self.late_first_sample()
        self.wait(since + 59.999 - self.clock.seconds(), step=0.001)
        self.assertIs(self.status(self.roster.agents[0]), HEALTHY)
        self.wait(0.002, step=0.001)
        self.assertIs(self.status(self.roster.agents[0]), OVER)
        self.assertGreaterEqual(self.roster.agents[0].verdicts[-1].duration_s or 0, 60.0)

    def test_a_spike_a_hair_shorter_than_the_duration_is_nothing(self) -> None:
        since = self.late_first_sample()
        self.wait(since + 59.98 - self.clock.seconds(), step=0.001)
        self.rss = 10
        self.wait(60)
        self.assertEqual([v.status for v in self.roster.agents[0].verdicts], [HEALTHY])

    def test_a_stop_takes_the_sample_back_that_was_to_come_a_hair_later(self) -> None:
        since = self.late_first_sample()
        self.wait(since + 59.98 - self.clock.seconds(), step=0.001)
        self.successResultOf(self.checker.stopService())
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.checker.startService()

    def test_what_a_start_costs_is_forgiven(self) -> None:
        agent = self.admit(cpu_threshold=50.0, threshold_duration=30.0, start_period=100.0)
        self.hog()
        self.wait(129)
        self.assertNotIn(OVER, [v.status for v in agent.verdicts])
        self.wait(15)
        self.assertIs(self.status(agent), OVER)

    def test_numbers_are_fresh_while_it_lasts(self) -> None:
        agent = self.admit(cpu_threshold=50.0, threshold_duration=20.0)
        self.hog()
        self.wait(60)
        self.cpu = 90.0
        self.wait(10)
        self.assertEqual(agent.verdicts[-1].value, 90.0)
        self.assertEqual(len(self.alerts.told), 1)
        self.assertEqual(self.alerts.standing["a", "over_threshold"].current_value, 90.0)


class Endpoints(WardCase):
    def test_a_failing_endpoint_is_found_after_its_misses(self) -> None:
        agent = self.admit(http_endpoint=URL, failure_threshold=3)
        self.wait(25)
        self.assertIs(self.status(agent), HEALTHY)
        self.web.answers[URL] = "connection refused"
        self.wait(20)
        self.assertIs(self.status(agent), HEALTHY)
        self.wait(10)
        verdict = agent.verdicts[-1]
        self.assertIs(verdict.status, FAILED)
        self.assertEqual(
            verdict.reason, f"GET {URL}: connection refused; 3 times in a row (failure_threshold 3)"
        )
        self.web.answers[URL] = 302
        self.wait(10)
        self.assertIs(self.status(agent), HEALTHY)

    def test_one_success_in_between_begins_the_count_anew(self) -> None:
        agent = self.admit(http_endpoint=URL, failure_threshold=2)
        self.wait(5)
        for answer in (500, 200, 404, 200, 503, 204):
            self.web.answers[URL] = answer
            self.wait(10)
        self.assertNotIn(FAILED, [v.status for v in agent.verdicts])

    def test_a_hung_endpoint_is_missed_at_its_timeout_and_probes_never_pile_up(self) -> None:
        self.web.answers[URL] = None
        agent = self.admit(http_endpoint=URL, http_timeout=25.0, failure_threshold=2, interval=10.0)
        self.wait(100)
        self.assertIs(self.status(agent), FAILED)
        self.assertIn("no answer within 25 s", agent.verdicts[-1].reason)
        self.assertLessEqual(len(self.web.asked), 5)
        self.assertGreater(self.checker.stats().probes_skipped_total, 3)
        self.assertLessEqual(self.checker.stats().probes_running, 1)

    def test_a_slow_starter_is_left_alone_and_is_healthy_as_soon_as_it_answers(self) -> None:
        self.web.answers[URL] = "connection refused"
        agent = self.admit(http_endpoint=URL, failure_threshold=1, start_period=100.0)
        self.wait(95)
        self.assertEqual({v.status for v in agent.verdicts}, {STARTING})
        self.web.answers[URL] = 200
        self.wait(10)
        self.assertIs(self.status(agent), HEALTHY)

    def test_misses_in_the_start_period_do_not_count_afterwards(self) -> None:
        self.web.answers[URL] = "connection refused"
        agent = self.admit(http_endpoint=URL, failure_threshold=3, start_period=50.0)
        self.wait(69)
        self.assertIsNot(self.status(agent), FAILED)
        self.wait(20)
        self.assertIs(self.status(agent), FAILED)

    def test_tcp_and_command_probes(self) -> None:
        agent = self.admit(tcp="db.example:5432", command=("/bin/check", "-q"), failure_threshold=1)
        self.programs["/bin/check"] = FakeProgram(output=b"all\nwell\n")
        self.wait(20)
        self.assertIs(self.status(agent), HEALTHY)
        self.programs["/bin/check"] = FakeProgram(output=b"first\ndisk 97 % full\n", status=ExitStatus(code=2))
        self.wait(10)
        self.assertEqual(agent.verdicts[-1].check, "command")
        self.assertIn("command /bin/check: exit 2: disk 97 % full; once (failure_threshold 1)", agent.verdicts[-1].reason)
        self.ports[5432] = "the name db.example does not resolve"
        self.wait(10)
        self.assertEqual(agent.verdicts[-1].check, "tcp")
        self.assertIn("db.example does not resolve", agent.verdicts[-1].reason)

    def test_a_command_that_hangs_is_killed_and_one_that_is_missing_says_so(self) -> None:
        agent = self.admit(command=("/bin/check",), failure_threshold=1, http_timeout=5.0)
        self.programs["/bin/check"] = FakeProgram(takes_s=float("inf"))
        self.wait(20)
        self.assertIn("no end within 5 s", agent.verdicts[-1].reason)
        self.assertEqual(self.commands.killed[0], ("/bin/check",))
        del self.programs["/bin/check"]
        self.wait(20)
        self.assertIn("No such file", agent.verdicts[-1].reason)

    def test_the_silent_one_comes_first_and_alerts_change_with_the_verdict(self) -> None:
        self.web.answers[URL] = 500
        agent = self.admit(http_endpoint=URL, failure_threshold=1, heartbeat_timeout=50.0)
        agent.beats(self.clock.seconds())
        self.wait(30)
        self.assertEqual(list(self.alerts.standing), [("a", "endpoint_failed")])
        self.wait(40)
        self.assertIs(self.status(agent), SILENT)
        self.assertEqual(list(self.alerts.standing), [("a", "no_heartbeat")])

    def test_a_connection_has_one_deadline_however_many_addresses_there_are_and_a_stop_does_not_wait(self) -> None:
        self.ports[5432] = ""  # never comes to an end, not even when told to
        agent = self.admit(tcp="db.example:5432", http_timeout=4.0, failure_threshold=2)
        self.wait(25)
        self.assertIs(self.status(agent), FAILED)
        self.assertIn("tcp db.example:5432: no connection within 4 s;", agent.verdicts[-1].reason)
        self.assertLessEqual(self.checker.stats().probes_running, 1)
        self.wait(6)
        self.successResultOf(self.checker.stopService())
        self.checker.startService()

    def test_a_name_server_that_hangs_for_ever_is_a_miss_and_holds_nobody_else(self) -> None:
        threads = InlineThreads(self.clock)
        threads.hang("dns:dead.example")
        self.web.real = HttpClient(self.clock, threads)
        agent = self.admit(http_endpoint="http://dead.example/", http_timeout=3.0, failure_threshold=3)
        other = self.admit("b", http_endpoint=URL, failure_threshold=1)
        self.wait(40)
        self.assertIs(self.status(agent), FAILED)
        self.assertIn("the name dead.example is not answered for", agent.verdicts[-1].reason)
        self.assertIs(self.status(other), HEALTHY)
        self.assertEqual(threads.calls, ["dns:dead.example"])  # later ones are refused, they do not queue up

    def test_an_agent_that_closes_its_port_while_it_is_stopped_is_not_ill(self) -> None:
        agent = self.admit(http_endpoint=URL, failure_threshold=1, heartbeat_timeout=15.0)
        agent.beats(self.clock.seconds())
        self.wait(10)
        agent.state = AgentState.STOPPING
        self.web.answers[URL] = "connection refused"
        self.wait(60)
        self.assertEqual({v.status for v in agent.verdicts}, {HEALTHY})
        self.assertEqual(self.alerts.told, [])

    def test_a_healthy_verdict_says_which_checks_have_not_gone_well_yet(self) -> None:
        self.web.answers[URL] = "connection refused"
        agent = self.admit(http_endpoint=URL, failure_threshold=100, start_period=5.0)
        self.wait(20)
        self.assertEqual((agent.verdicts[-1].status, agent.verdicts[-1].waits), (HEALTHY, ("http",)))
        self.web.answers[URL] = 200
        self.wait(60)
        self.assertEqual((agent.verdicts[-1].status, agent.verdicts[-1].waits), (HEALTHY, ()))
        self.web.answers[URL] = "connection refused"
        self.wait(60)
        self.assertEqual(agent.verdicts[-1].waits, ())  # it did go well; now failure_threshold decides

    def test_a_fault_of_whoever_hears_the_verdict_is_logged_and_ends_nothing(self) -> None:
        self.web.answers[URL] = None
        agent = self.admit(http_endpoint=URL, failure_threshold=1, http_timeout=2.0)
        self.wait(8)
        agent.judge = self.broken  # type: ignore[method-assign]
        self.wait(12)
        self.assertGreaterEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        del agent.judge
        self.wait(12)
        self.assertIs(self.status(agent), FAILED)

    def broken(self, verdict: object) -> None:
        raise ZeroDivisionError

    def test_secrets_in_the_endpoint_are_not_shown(self) -> None:
        url = "http://user:hunter2@127.0.0.1:1/x?token=abc"
        self.web.answers[url] = 500
        agent = self.admit(http_endpoint=url, failure_threshold=1)
        self.wait(20)
        self.assertNotIn("hunter2", agent.verdicts[-1].reason)
        self.assertNotIn("abc", agent.verdicts[-1].reason)

    def test_another_endpoint_begins_without_the_misses_of_the_old_one(self) -> None:
        self.web.answers[URL] = None
        agent = self.admit(http_endpoint=URL, failure_threshold=2, http_timeout=9.0)
        self.wait(35)
        self.assertIs(self.status(agent), FAILED)
        self.reconfigure(http_endpoint=URL + "/other", failure_threshold=2)
        self.wait(11)
        self.assertIs(self.status(agent), HEALTHY)

    def test_a_stop_in_the_middle_of_probes_leaves_nothing(self) -> None:
        self.web.answers[URL] = None
        self.admit(http_endpoint=URL, http_timeout=1000.0)
        self.wait(15)
        self.successResultOf(self.checker.stopService())
        self.assertEqual(self.web.cancelled, 1)
        self.checker.startService()

    def test_at_most_32_probes_run_at_once_and_the_others_have_their_turn(self) -> None:
        for n in range(100):
            self.web.answers[f"http://h/{n}"] = None
            self.admit(f"a{n}", http_endpoint=f"http://h/{n}", http_timeout=4.0, interval=600.0)
        self.wait(1.2)
        self.assertEqual(len(self.web.asked), 32)
        self.assertEqual(self.checker.stats().probes_running, 100)
        self.wait(15)
        self.assertEqual(len(set(self.web.asked)), 100)


class Roster(WardCase):
    def test_nothing_is_looked_at_without_a_process(self) -> None:
        agent = self.admit(http_endpoint=URL, cpu_threshold=50.0)
        self.wait(20)
        agent.ends()
        self.checker.process_changed("a")
        asked = len(self.web.asked)
        self.wait(100)
        self.assertEqual(len(self.web.asked), asked)

    def test_the_result_of_a_probe_of_the_process_before_says_nothing(self) -> None:
        self.web.answers[URL] = None
        agent = self.admit(http_endpoint=URL, failure_threshold=1, http_timeout=8.0)
        self.wait(5)
        agent.runs(777, self.clock.seconds())  # nobody told the checker yet
        self.web.answers[URL] = 200
        self.wait(30)
        self.assertNotIn(FAILED, [v.status for v in agent.verdicts])

    def test_an_agent_that_leaves_the_configuration_is_no_longer_watched(self) -> None:
        agent = self.admit(memory_threshold=1, threshold_duration=0.0)
        self.wait(20)
        self.assertIs(self.status(agent), OVER)
        self.checker.apply([])
        self.assertEqual(self.alerts.standing, {})
        told = len(agent.verdicts)
        self.wait(100)
        self.assertEqual(len(agent.verdicts), told)

    def test_an_unchanged_agent_is_not_disturbed_by_a_reload(self) -> None:
        agent = self.admit(cpu_threshold=50.0, threshold_duration=60.0)
        self.cpu = 100.0
        for _ in range(8):
            self.wait(10)
            self.checker.apply(self.specs)
        self.assertIs(self.status(agent), OVER)

    def test_phases_of_many_agents_are_spread(self) -> None:
        for n in range(500):
            self.admit(f"a{n}", interval=50.0, memory_threshold=10**12)
        self.wait(50)
        before, most = self.checker.stats().looks_total, 0
        for _ in range(100):
            self.clock.advance(0.5)
            now = self.checker.stats().looks_total
            most, before = max(most, now - before), now
        self.assertEqual(most, TOGETHER)  # no two shifts at once
        self.assertEqual(self.meters, 500)

    def test_the_interval_is_live(self) -> None:
        self.admit(interval=100.0, memory_threshold=10**12)
        self.wait(200)
        looks = self.checker.stats().looks_total
        self.reconfigure(interval=1.0, memory_threshold=10**12)
        self.wait(50)
        self.assertGreater(self.checker.stats().looks_total, looks + 45)


def test_quiet_really_is_quiet() -> None:
    assert set(QUIET) == {"cpu_threshold", "memory_threshold", "heartbeat_timeout"}
