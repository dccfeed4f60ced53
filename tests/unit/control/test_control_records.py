"""What edges may ask of agents' history, logs and alerts: known agents and sensible numbers alone."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from daemon.control.records import DURATION_MAX_S, GREP_MAX, LINES_MAX
from daemon.errors import RequestError, RequestFault
from daemon.model.usage import Usage
from tests.fakes.control import RigCase


class RecordsTest(RigCase):
    def prepare(self) -> None:
        self.lab.spec("web")

    def asked(self, work: Any) -> Any:
        return self.successResultOf(Deferred.fromCoroutine(work))

    def refused(self, work: Any) -> RequestFault:
        fault: RequestFault = self.failureResultOf(Deferred.fromCoroutine(work), RequestError).value.fault
        return fault

    def test_unknown_agents_and_absurd_numbers_are_refused(self) -> None:
        records = self.rig.control.records
        self.assertIs(self.refused(records.usage("nobody")), RequestFault.UNKNOWN)
        self.assertIs(self.refused(records.log_lines("nobody")), RequestFault.UNKNOWN)
        with self.assertRaises(RequestError):
            records.follow_log("nobody")
        for work in (records.usage("web", -1), records.usage("web", DURATION_MAX_S + 1), records.usage("web", 1, -1),
                     records.log_lines("web", -1), records.log_lines("web", LINES_MAX + 1),
                     records.log_lines("web", 1, "x" * (GREP_MAX + 1))):
            self.assertIs(self.refused(work), RequestFault.INVALID)

    def test_the_history_of_an_agent(self) -> None:
        self.rig.used[self.lab.life.agent("web").pid] = Usage(cpu_percent=12.0, rss_bytes=5000)
        self.rig.resources.startService()
        self.lab.run(130, step=5)
        self.assertEqual([p.memory_rss for p in self.asked(self.rig.control.records.usage("web"))], [5000, 5000])
        latest = self.rig.control.records.latest("web")
        assert latest is not None
        self.assertEqual(latest.rss_bytes, 5000)
        self.assertEqual(self.rig.control.agent("web").memory_bytes, 5000)
        self.assertEqual(self.rig.control.agent("web").cpu_percent, 12.0)
        self.successResultOf(self.rig.resources.stopService())

    def test_alerts_are_listed_and_counted(self) -> None:
        self.rig.alerts.raise_alert("storage", "full")
        self.assertEqual([a.type for a in self.rig.control.records.alerts()], ["storage"])
        self.assertEqual(self.rig.control.node().alerts, 1)
        self.rig.alerts.clear("storage")
        self.assertEqual(self.rig.control.node().alerts, 0)
        self.assertEqual(len(self.rig.control.records.alerts()), 1)
