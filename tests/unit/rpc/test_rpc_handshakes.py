"""Connections that come to nothing: counted, told in our words, and not at every one of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from daemon.rpc.handshakes import DECIDED_S, PEERS_MAX, TELL_EVERY_S, Handshakes


class Reactor(Clock):
    """Runs at once what threads post."""

    def callFromThread(self, callable: Callable[..., Any], *args: Any, **kw: Any) -> None:
        """See IReactorFromThreads."""
        callable(*args, **kw)


class HandshakesTest(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = Reactor()
        self.made = Handshakes(self.reactor)
        self.told: list[int] = []
        globalLogPublisher.addObserver(self.observe)
        self.addCleanup(globalLogPublisher.removeObserver, self.observe)

    def observe(self, event: Any) -> None:
        if "made no call" in (event.get("log_format") or ""):
            self.told.append(event["count"])

    def test_connections_that_call_are_no_matter(self) -> None:
        for number in range(5):
            self.made.begun()
            self.made.called(f"ipv4:10.0.0.1:{number}")
            self.made.called(f"ipv4:10.0.0.1:{number}")
        self.reactor.pump([DECIDED_S] * 3)
        self.assertEqual((self.made.begun_total, self.made.connections_total, self.told), (5, 5, []))

    def test_those_that_do_not_are_told_with_their_number_once_an_hour(self) -> None:
        for _ in range(7):
            self.made.begun()
        self.made.called("ipv4:10.0.0.1:1")
        self.reactor.advance(DECIDED_S)
        self.reactor.advance(DECIDED_S)
        self.assertEqual(self.told, [6])
        for _ in range(10):
            self.made.begun()
            self.reactor.advance(DECIDED_S)
        self.assertEqual(self.told, [6])
        self.reactor.advance(TELL_EVERY_S)
        self.made.begun()
        self.reactor.pump([DECIDED_S] * 3)
        self.assertEqual(self.told, [6, 11])

    def test_a_handshake_that_is_young_is_not_judged(self) -> None:
        self.made.begun()
        self.reactor.advance(DECIDED_S - 1)
        self.made.begun()
        self.made.called("ipv4:10.0.0.1:1")
        self.reactor.advance(1)
        self.assertEqual(self.told, [])
        self.reactor.advance(DECIDED_S)
        self.assertEqual(self.told, [1])

    def test_no_timer_runs_while_nothing_is_undecided(self) -> None:
        self.made.begun()
        self.assertEqual(len(self.reactor.getDelayedCalls()), 1)
        self.reactor.pump([DECIDED_S] * 3)
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        self.made.begun()
        self.made.stop()
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_so_many_connections_are_remembered(self) -> None:
        for number in range(PEERS_MAX + 10):
            self.made.called(f"ipv4:10.0.0.1:{number}")
        self.assertEqual(self.made.connections_total, PEERS_MAX + 10)
        self.assertEqual(len(self.made._peers), PEERS_MAX)
