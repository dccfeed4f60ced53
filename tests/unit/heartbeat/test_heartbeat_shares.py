"""What keeps one connection from costing the others anything: turns, notices, the crowd."""

from __future__ import annotations

import resource
from collections.abc import Callable

import pytest
from twisted.internet.task import Clock

from daemon.heartbeat.crowd import CONNECTIONS_MAX, Crowd, connection_limit
from daemon.heartbeat.notices import NOTICE_EVERY_S, NOTICE_PEERS, Notices
from daemon.heartbeat.turns import TURN_S, Turns


class Worker:
    """Works for some time each turn, for as many turns as it has work."""

    def __init__(self, turns: Turns, spend: Callable[[], None], rounds: int = 1) -> None:
        self.turns, self.spend, self.rounds, self.done = turns, spend, rounds, 0

    def proceed(self) -> None:
        self.spend()
        self.done += 1
        if self.done < self.rounds:
            self.turns.queue(self)


class WorkClock(Clock):
    """A clock that work can move, and that turns as a reactor does: what is due now, once."""

    def work(self, seconds: float) -> None:
        self.rightNow += seconds

    def turn(self) -> None:
        due = [call for call in self.calls if call.getTime() <= self.seconds()]
        self.calls = [call for call in self.calls if call not in due]
        for call in due:
            call.called = 1
            call.func(*call.args, **call.kw)


def test_a_turn_is_spent_when_its_time_is() -> None:
    clock = WorkClock()
    turns = Turns(clock)
    assert not turns.spent()
    clock.work(TURN_S)
    assert turns.spent()
    clock.turn()
    assert not turns.spent()


def test_those_who_wait_are_served_in_order_and_get_half_a_turn() -> None:
    clock = WorkClock()
    turns = Turns(clock)
    workers = [Worker(turns, lambda: clock.work(TURN_S / 4), rounds=2) for _ in range(5)]
    for worker in workers:
        turns.queue(worker)
    seen = []
    for _ in range(5):
        clock.turn()
        seen.append([worker.done for worker in workers])
        assert not turns.spent()  # the other half is for fresh data
    assert seen[0] == [1, 1, 0, 0, 0]
    assert seen[1] == [1, 1, 1, 1, 0]
    assert seen[2] == [2, 1, 1, 1, 1]
    assert seen[4] == [2, 2, 2, 2, 2]
    assert turns.waiting == 0


def test_a_waiter_without_cost_gets_one_turn_at_a_time() -> None:
    clock = WorkClock()
    turns = Turns(clock)
    worker = Worker(turns, lambda: None, rounds=1000)
    turns.queue(worker)
    clock.turn()
    assert worker.done == 1


def test_who_is_forgotten_is_not_called() -> None:
    clock = Clock()
    turns = Turns(clock)
    first, second, third = (Worker(turns, lambda: None) for _ in range(3))
    first.spend = lambda: turns.forget(second)
    for worker in (first, second, third):
        turns.queue(worker)
    turns.forget(third)
    clock.advance(0)
    assert (first.done, second.done, third.done) == (1, 0, 0)


def test_stopped_turns_leave_no_timer() -> None:
    clock = Clock()
    turns = Turns(clock)
    turns.stop()
    turns.queue(Worker(turns, lambda: None))
    turns.stop()
    assert clock.getDelayedCalls() == []


def test_idle_turns_leave_no_timer() -> None:
    clock = Clock()
    turns = Turns(clock)
    turns.spent()
    clock.advance(0)
    clock.advance(0)
    assert clock.getDelayedCalls() == []


def test_a_peers_mistakes_are_told_once_a_minute_with_their_number() -> None:
    clock = Clock()
    notices = Notices(clock)
    assert [notices.due("a") for _ in range(4)] == [0, None, None, None]
    assert notices.due("b") == 0
    clock.advance(NOTICE_EVERY_S)
    assert notices.due("a") == 3
    assert notices.due("a") is None


def test_a_flood_of_peers_fills_neither_memory_nor_log() -> None:
    clock = Clock()
    notices = Notices(clock)
    told = [notices.due(peer) for peer in range(10_000)]
    assert told.count(0) == NOTICE_PEERS
    assert len(notices._told) == NOTICE_PEERS
    clock.advance(NOTICE_EVERY_S)
    assert notices.due("late") == 0
    assert len(notices._told) == NOTICE_PEERS


class Guest:
    def __init__(self) -> None:
        self.left = False

    def leave(self) -> None:
        self.left = True


def admitted(crowd: Crowd[Guest], holder: str, count: int) -> list[Guest]:
    guests = [Guest() for _ in range(count)]
    return [guest for guest in guests if crowd.admit(guest, holder)]


def test_a_crowd_of_strangers_makes_room_for_an_agent() -> None:
    crowd: Crowd[Guest] = Crowd(10)
    strangers = admitted(crowd, "uid 1000", 20)
    assert len(strangers) == 10
    assert len(admitted(crowd, "agent", 3)) == 3
    assert [guest.left for guest in strangers] == [False] * 7 + [True] * 3
    assert len(crowd) == 10


def test_nobody_takes_more_than_an_equal_share_from_others() -> None:
    crowd: Crowd[Guest] = Crowd(10)
    quiet = admitted(crowd, "quiet", 3)
    admitted(crowd, "loud", 100)
    admitted(crowd, "third", 100)
    assert not any(guest.left for guest in quiet)
    assert len(crowd) == 10


def test_a_full_house_of_equals_refuses_the_newcomer() -> None:
    crowd: Crowd[Guest] = Crowd(3)
    guests = [admitted(crowd, holder, 1)[0] for holder in "abc"]
    assert admitted(crowd, "d", 1) == []
    assert not any(guest.left for guest in guests)


def test_who_is_gone_makes_room() -> None:
    crowd: Crowd[Guest] = Crowd(2)
    guests = admitted(crowd, "a", 2)
    assert not crowd.admit(Guest(), "a")
    crowd.discard(guests[0])
    crowd.discard(guests[0])
    assert crowd.admit(Guest(), "a")
    assert len(list(crowd)) == 2


@pytest.mark.parametrize(
    ("descriptors", "limit"),
    [(1024, 512), (20, 16), (1_000_000, CONNECTIONS_MAX), (resource.RLIM_INFINITY, CONNECTIONS_MAX)],
)
def test_half_of_the_descriptors_are_for_everything_else(
    monkeypatch: pytest.MonkeyPatch, descriptors: int, limit: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (descriptors, descriptors))
    assert connection_limit() == limit
