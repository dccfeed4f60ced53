"""An answer that serves many callers: how long it is given, and what takes it away."""

from __future__ import annotations

from daemon.rpc.recent import FRESH_S, RecentAnswer


class Now:
    """Seconds a test sets."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_it_is_given_for_its_time_and_no_longer() -> None:
    now = Now()
    recent = RecentAnswer(now=now)
    assert recent.get() is None
    assert recent.keep(b"one") == b"one"
    now.seconds = FRESH_S * 0.9
    assert recent.get() == b"one"
    now.seconds = FRESH_S
    assert recent.get() is None


def test_a_change_takes_it_away_at_once() -> None:
    recent = RecentAnswer(now=Now())
    recent.keep(b"one")
    recent.forget()
    assert recent.get() is None
    recent.keep(b"two")
    assert recent.get() == b"two"

