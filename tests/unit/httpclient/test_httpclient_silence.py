"""The other side's silence is measured, not ours."""

from __future__ import annotations

from twisted.internet.task import Clock

from daemon.httpclient.silence import Silence


class Ear:
    """A measured silence of ten seconds."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.broken: list[float] = []
        self.silence = Silence(self.clock, 10.0, lambda: self.broken.append(self.clock.seconds()))


def test_nothing_is_measured_before_there_is_a_connection() -> None:
    ear = Ear()
    ear.clock.advance(100)
    assert ear.broken == []
    assert ear.clock.getDelayedCalls() == []


def test_it_breaks_once_ten_seconds_after_the_last_byte() -> None:
    ear = Ear()
    ear.silence.heard()
    ear.clock.advance(6)
    ear.silence.heard()
    ear.clock.advance(9.9)
    assert ear.broken == []
    ear.clock.advance(0.2)
    assert ear.broken == [16.1]
    ear.silence.heard()
    ear.clock.advance(100)
    assert len(ear.broken) == 1
    assert ear.clock.getDelayedCalls() == []


def test_time_in_which_we_do_not_listen_does_not_count() -> None:
    ear = Ear()
    ear.silence.heard()
    ear.clock.advance(9)
    ear.silence.hold()
    ear.clock.pump([5] * 20)
    ear.silence.release()
    ear.clock.pump([1] * 9)
    assert ear.broken == []
    ear.clock.pump([1] * 11)
    assert len(ear.broken) == 1


def test_many_bytes_cost_one_timer_and_the_end_leaves_none() -> None:
    ear = Ear()
    for _ in range(1000):
        ear.silence.heard()
    assert len(ear.clock.getDelayedCalls()) == 1
    ear.silence.end()
    assert ear.clock.getDelayedCalls() == []
    ear.silence.heard()
    assert ear.clock.getDelayedCalls() == []
