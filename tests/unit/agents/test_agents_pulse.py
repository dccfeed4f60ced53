"""What heartbeats leave behind of what they said."""

from __future__ import annotations

from daemon.agents.pulse import Pulse
from daemon.model.heartbeat import Heartbeat


def beat(**said: object) -> Heartbeat:
    return Heartbeat(pid=1, timestamp=0.0, **said)  # type: ignore[arg-type]  # keywords of a test


def test_before_the_first_heartbeat_nothing_is_known() -> None:
    pulse = Pulse()
    assert (pulse.received_mono, pulse.received_at, pulse.cpu, pulse.memory) == (None, 0.0, None, None)
    assert (pulse.version, pulse.status, pulse.count_total, pulse.announced_stop) == ("", "", 0, False)


def test_the_first_one_is_news_and_numbers_alone_are_not() -> None:
    pulse = Pulse()
    assert pulse.take(beat(cpu=1.5, memory=10, version="1.0", status="running"), 5.0, 100.0)
    assert not pulse.take(beat(cpu=2.5, memory=20, version="1.0"), 6.0, 101.0)
    assert (pulse.cpu, pulse.memory, pulse.received_mono, pulse.received_at) == (2.5, 20, 6.0, 101.0)
    assert (pulse.version, pulse.count_total) == ("1.0", 2)


def test_another_version_is_news_and_a_missing_one_is_none() -> None:
    pulse = Pulse()
    pulse.take(beat(version="1.0"), 1.0, 1.0)
    assert not pulse.take(beat(), 2.0, 2.0)
    assert pulse.version == "1.0"
    assert pulse.take(beat(version="1.1"), 3.0, 3.0)
    assert pulse.version == "1.1"


def test_the_first_heartbeat_at_monotonic_zero_is_remembered() -> None:
    pulse = Pulse()
    assert pulse.take(beat(), 0.0, 0.0)
    assert not pulse.take(beat(), 0.0, 0.0)


def test_what_a_heartbeat_does_not_say_keeps_the_last_value_and_zero_is_a_value() -> None:
    pulse = Pulse()
    pulse.take(beat(cpu=3.0, memory=7), 1.0, 1.0)
    pulse.take(beat(), 2.0, 2.0)
    assert (pulse.cpu, pulse.memory) == (3.0, 7)
    pulse.take(beat(cpu=0.0, memory=0), 3.0, 3.0)
    assert (pulse.cpu, pulse.memory) == (0.0, 0)


def test_an_announced_stop_holds_until_a_new_process() -> None:
    pulse = Pulse()
    pulse.take(beat(cpu=3.0, memory=7, version="1.0", status="stopping"), 1.0, 1.0)
    assert (pulse.announced_stop, pulse.status) == (True, "stopping")
    pulse.new_process()
    assert (pulse.announced_stop, pulse.status, pulse.cpu, pulse.memory) == (False, "", None, None)
    assert (pulse.received_mono, pulse.count_total, pulse.version) == (1.0, 1, "1.0")
