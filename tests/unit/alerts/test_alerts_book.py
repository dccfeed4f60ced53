"""The one list of alerts: what stands, what is announced, what is kept."""

from __future__ import annotations

import pytest
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from daemon.alerts.book import CLEARED_KEPT, MESSAGE_MAX, STANDING_MAX, AlertBook
from daemon.model.alert import Alert
from daemon.model.event import Severity
from tests.fakes.directory import FakeEvents, Published


class Book:
    def __init__(self) -> None:
        self.now = 100.0
        self.events = FakeEvents()
        self.book = AlertBook(lambda: self.now, self.events)
        self.heard: list[Alert] = []
        self.unsubscribe = self.book.subscribe(self.heard.append)

    def announced(self) -> list[tuple[str, str, Severity]]:
        return [(event.type, event.agent_id, event.severity) for event in self.events.published]


@pytest.fixture
def lab() -> Book:
    return Book()


def test_an_alert_stands_until_it_is_cleared_and_says_since_when_and_until_when(lab: Book) -> None:
    lab.book.raise_alert("cpu", "uses 80 %", agent_id="web", current_value=80.0, threshold=50.0)
    (alert,) = lab.book.standing()
    assert alert == Alert(
        agent_id="web", type="cpu", message="uses 80 %", current_value=80.0, threshold=50.0, timestamp=100.0
    )
    lab.now += 90
    lab.book.clear("cpu", agent_id="web", message="uses 10 %")
    lab.book.clear("cpu", agent_id="web")
    assert lab.book.standing() == ()
    (over,) = lab.book.list()
    assert (over.timestamp, over.cleared_at, over.current_value) == (100.0, 190.0, 80.0)
    assert lab.heard == [alert, over]
    assert lab.announced() == [("alert.raised", "web", Severity.WARN), ("alert.cleared", "web", Severity.INFO)]
    assert lab.events.published[0].data == {"type": "cpu", "current_value": 80.0, "threshold": 50.0}
    assert lab.events.published[1].message == "cpu of agent web is over after 90 s: uses 10 %"
    assert (lab.book.raised_total, lab.book.cleared_total) == (1, 1)


def test_one_that_stands_takes_new_values_silently(lab: Book) -> None:
    lab.book.raise_alert("cpu", "80 %", agent_id="web", current_value=80.0)
    lab.now += 30
    lab.book.raise_alert("cpu", "95 %", agent_id="web", current_value=95.0)
    (alert,) = lab.book.standing()
    assert (alert.current_value, alert.message, alert.timestamp) == (95.0, "95 %", 100.0)
    assert (len(lab.heard), len(lab.events.published), lab.book.raised_total) == (1, 1, 1)


def test_a_severity_that_rises_is_told_again_and_one_that_falls_is_not(lab: Book) -> None:
    for severity in (Severity.WARN, Severity.ERROR, Severity.WARN):
        lab.book.raise_alert("storage", "the disk is full", severity=severity)
    assert [alert.severity for alert in lab.heard] == [Severity.WARN, Severity.ERROR]
    assert [event.severity for event in lab.events.published] == [Severity.WARN, Severity.ERROR]
    assert lab.book.standing()[0].severity is Severity.WARN
    assert lab.book.raised_total == 1


def test_agents_and_the_daemon_have_alerts_of_the_same_type_side_by_side(lab: Book) -> None:
    for agent_id in ("", "a", "b"):
        lab.book.raise_alert("storage", "full", agent_id=agent_id)
    lab.book.clear("storage", agent_id="a")
    lab.book.clear("storage")
    assert [alert.agent_id for alert in lab.book.standing()] == ["b"]
    assert "storage of the daemon is over" in lab.events.published[-1].message


def test_clearing_what_does_not_stand_says_nothing(lab: Book) -> None:
    lab.book.clear("cpu", agent_id="web")
    assert (lab.heard, lab.events.published, lab.book.cleared_total) == ([], [], 0)


def test_one_that_comes_back_is_a_new_alert(lab: Book) -> None:
    lab.book.raise_alert("cpu", "x")
    lab.book.clear("cpu")
    lab.now += 1
    lab.book.raise_alert("cpu", "x")
    assert lab.book.standing()[0].timestamp == 101.0
    assert (lab.book.raised_total, len(lab.heard), len(lab.book.list())) == (2, 3, 2)


def test_the_newest_comes_first_and_those_that_stand_before_those_that_are_over(lab: Book) -> None:
    for type in ("one", "two", "three", "four"):
        lab.book.raise_alert(type, "x")
    lab.book.clear("three")
    lab.book.clear("one")
    lab.book.raise_alert("two", "a refreshed one keeps its place")
    assert [alert.type for alert in lab.book.list()] == ["four", "two", "one", "three"]
    assert [alert.type for alert in lab.book.standing()] == ["four", "two"]


def test_an_agent_that_is_forgotten_takes_its_alerts_along(lab: Book) -> None:
    for agent_id, type in (("a", "cpu"), ("b", "cpu"), ("a", "memory"), ("", "storage")):
        lab.book.raise_alert(type, "x", agent_id=agent_id)
    lab.book.forget("a")
    assert [alert.agent_id for alert in lab.book.standing()] == ["", "b"]
    assert all("left the configuration" in event.message for event in lab.events.published[-2:])
    assert lab.book.cleared_total == 2


def test_floods_are_bounded_and_counted(lab: Book) -> None:
    for number in range(STANDING_MAX + 5):
        lab.book.raise_alert("cpu", "x", agent_id=f"a{number}")
    assert (len(lab.book.standing()), lab.book.dropped_total) == (STANDING_MAX, 5)
    assert lab.book.raised_total == STANDING_MAX
    lab.book.raise_alert("cpu", "one that stands is still refreshed", agent_id="a0")
    assert lab.book.dropped_total == 5
    for number in range(STANDING_MAX):
        lab.book.clear("cpu", agent_id=f"a{number}")
    assert len(lab.book.list()) == CLEARED_KEPT
    assert lab.book.list()[0].agent_id == f"a{STANDING_MAX - 1}"


def test_a_message_is_bounded_and_can_be_sent(lab: Book) -> None:
    lab.book.raise_alert("one", "cannot open /tmp/\udcff")
    lab.book.raise_alert("two", "x" * 100_000)
    two, one = lab.book.standing()
    assert one.message == "cannot open /tmp/\\udcff"
    assert (len(two.message), two.message[-1]) == (MESSAGE_MAX, "\N{HORIZONTAL ELLIPSIS}")


def test_a_clock_set_back_makes_no_negative_duration(lab: Book) -> None:
    lab.book.raise_alert("cpu", "x")
    lab.now -= 3600
    lab.book.clear("cpu")
    assert "over after 0 s" in lab.events.published[-1].message


def test_an_observer_that_left_hears_no_more(lab: Book) -> None:
    lab.book.raise_alert("one", "x")
    lab.unsubscribe()
    lab.unsubscribe()
    lab.book.raise_alert("two", "x")
    assert [alert.type for alert in lab.heard] == ["one"]


def test_an_event_that_changes_alerts_itself_is_told_in_order(lab: Book) -> None:
    """The event journal raises its alert again when it refuses the very event that the alert is over."""

    def refuse(event: Published) -> None:
        if event.type == "alert.cleared":
            lab.book.raise_alert("events_storage", "the disk is full again")

    lab.book.raise_alert("events_storage", "the disk is full")
    lab.events.watcher = refuse
    lab.book.clear("events_storage")
    assert [alert.cleared_at is not None for alert in lab.heard] == [False, True, False]
    assert len(lab.book.standing()) == 1


class FaultTest(SynchronousTestCase):
    def test_an_observer_that_fails_hurts_neither_the_source_nor_the_others(self) -> None:
        lab = Book()
        lab.unsubscribe()
        lab.book.subscribe(lambda alert: 1 / 0)
        lab.book.subscribe(lab.heard.append)
        lab.book.raise_alert("cpu", "x")
        self.assertEqual((len(lab.heard), len(lab.book.standing())), (1, 1))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_a_flood_is_said_once_until_half_of_it_is_over(self) -> None:
        lines: list[str] = []
        globalLogPublisher.addObserver(observer := lambda event: lines.append(str(event.get("log_format"))))
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        lab = Book()

        def floods() -> int:
            for number in range(STANDING_MAX + 2):
                lab.book.raise_alert("cpu", "x", agent_id=f"a{number}")
            return len([line for line in lines if "no more are kept" in line])

        self.assertEqual(floods(), 1)
        lab.book.clear("cpu", agent_id="a0")
        self.assertEqual(floods(), 1)
        for number in range(STANDING_MAX // 2 + 1):
            lab.book.clear("cpu", agent_id=f"a{number}")
        self.assertEqual(floods(), 2)
