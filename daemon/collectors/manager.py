"""Runs all collectors, each on its own timer, so that a slow or failing one touches no other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from twisted.application.service import Service
from twisted.internet.defer import Deferred, gatherResults

from daemon.aio.reactor import Clock
from daemon.aio.threads import Threads
from daemon.collectors.base import Collector
from daemon.collectors.runner import CollectorRunner, CollectorStats
from daemon.interfaces import EventSink, WallClock
from daemon.model.metrics import Metrics

__all__ = ["CollectorManager", "CollectorStats"]


class CollectorManager(Service):
    """The service of all collectors. The first round of each comes within ``startService``.

    Args:
        clock: timers and durations.
        threads: where collectors that block are called.
        wall: Unix seconds.
        events: hears ``collector.failed`` and ``collector.recovered``.
        collectors: what to run; their names are unique.

    Raises:
        ValueError: two collectors have one name.
    """

    def __init__(
        self,
        clock: Clock,
        threads: Threads,
        wall: WallClock,
        events: EventSink,
        collectors: Sequence[Collector],
    ) -> None:
        self._clock = clock
        self._threads = threads
        self._wall = wall
        self._events = events
        self._runners: dict[str, CollectorRunner] = {}
        self._leaving: set[Deferred[None]] = set()
        self.replace(collectors)

    def get_latest(self) -> Mapping[str, Metrics]:
        """The last sample of every collector that has one, by name."""
        return {name: run.latest for name, run in self._runners.items() if run.latest is not None}

    def stats(self) -> Mapping[str, CollectorStats]:
        """How every collector is doing, by name."""
        return {name: run.stats for name, run in self._runners.items()}

    def startService(self) -> None:
        """Begins with the first round of every collector."""
        super().startService()
        for run in self._runners.values():
            run.start()

    def stopService(self) -> Deferred[None]:
        """Fires when no timer, thread call or command of a collector is left."""
        super().stopService()
        for run in self._runners.values():
            self._leave(run)
        return gatherResults(list(self._leaving)).addCallback(lambda _results: None)

    def replace(self, collectors: Sequence[Collector]) -> None:
        """Takes a new set of collectors, as after a reload.

        The same object goes on undisturbed. Another one of a known name begins with a round at once, and
        keeps the latest sample and the counts. What is no longer there is stopped and forgotten.

        Raises:
            ValueError: two collectors have one name; nothing was changed.
        """
        names = [collector.name for collector in collectors]
        if len(set(names)) != len(names):
            raise ValueError(f"two collectors have one name: {', '.join(sorted(names))}")
        before, self._runners = self._runners, {}
        for collector in collectors:
            known = before.get(collector.name)
            if known is not None and known.collector is collector:
                self._runners[collector.name] = before.pop(collector.name)
                continue
            self._runners[collector.name] = run = CollectorRunner(
                self._clock, self._threads, self._wall, self._events, collector, known
            )
        for run in before.values():
            self._leave(run)
        if self.running:
            for run in self._runners.values():
                if not run.started:
                    run.start()

    def _leave(self, run: CollectorRunner) -> None:
        """Stops a collector; until it is gone, ``stopService`` waits for it."""
        gone = run.stop()
        self._leaving.add(gone)
        gone.addCallback(lambda _none: self._leaving.discard(gone))
