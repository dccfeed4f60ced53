"""From the configuration's ``collectors:`` to collectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from twisted.logger import Logger

from daemon.collectors.base import PROC, Collector, CollectorServices
from daemon.collectors.cpu import CpuCollector
from daemon.collectors.disk import DiskCollector
from daemon.collectors.exec import ExecCollector
from daemon.collectors.memory import MemoryCollector
from daemon.collectors.network import NetworkCollector
from daemon.collectors.plugins import EntryPoints, installed_entry_points, load_plugin
from daemon.collectors.textfile import TextfileCollector
from daemon.config.schema import CollectorsConfig
from daemon.errors import CollectError
from daemon.interfaces import EventSink
from daemon.model.event import Severity

log = Logger()

Make = Callable[[], Collector]


class CollectorFactory:
    """Makes the collectors of one configuration after another.

    A collector whose part of the configuration did not change is handed out again, the same object, so that
    a reload keeps its baselines and :meth:`CollectorManager.replace` leaves it running.

    Args:
        services: what collectors need of the daemon.
        events: hears of plug-ins that cannot be used, as ``collector.failed``.
        proc: where procfs is.
        entry_points: the installed plug-ins.
    """

    def __init__(
        self,
        services: CollectorServices,
        events: EventSink,
        *,
        proc: str = PROC,
        entry_points: EntryPoints = installed_entry_points,
    ) -> None:
        self._services = services
        self._events = events
        self._proc = proc
        self._entry_points = entry_points
        self._made: dict[str, tuple[Any, Collector]] = {}

    def build(self, config: CollectorsConfig) -> tuple[Collector, ...]:
        """The collectors that are wanted, built-in ones first.

        A plug-in that cannot be used, and a name that is taken already, is logged, announced and left out.
        """
        made: dict[str, tuple[Any, Collector]] = {}
        for name, section, make in self._wanted(config):
            if name in made:
                self._refuse(name, CollectError(f"the name {name!r} is taken already; choose another"))
                continue
            known = self._made.get(name)
            try:
                collector = known[1] if known is not None and known[0] == section else make()
            except CollectError as error:
                self._refuse(name, error)
                continue
            made[name] = (section, collector)
        self._made = made
        return tuple(collector for _section, collector in made.values())

    def _wanted(self, config: CollectorsConfig) -> Iterator[tuple[str, Any, Make]]:
        """Name, part of the configuration, and how to make it, of each one wanted."""
        lent, proc = self._services, self._proc
        cpu, memory, disk, network, text = (
            config.cpu, config.memory, config.disk, config.network, config.textfile,
        )  # fmt: skip
        if cpu.enabled:
            yield (
                "cpu",
                cpu,
                partial(
                    CpuCollector, interval_s=cpu.interval, timeout_s=cpu.timeout, wall=lent.wall, proc=proc
                ),
            )
        if memory.enabled:
            yield (
                "memory",
                memory,
                partial(
                    MemoryCollector,
                    interval_s=memory.interval,
                    timeout_s=memory.timeout,
                    wall=lent.wall,
                    proc=proc,
                ),
            )
        if disk.enabled:
            yield (
                "disk",
                disk,
                partial(
                    DiskCollector,
                    interval_s=disk.interval,
                    timeout_s=disk.timeout,
                    threads=lent.threads,
                    wall=lent.wall,
                    mount_points=disk.mount_points,
                    proc=proc,
                ),
            )
        if network.enabled:
            yield (
                "network",
                network,
                partial(
                    NetworkCollector,
                    interval_s=network.interval,
                    timeout_s=network.timeout,
                    clock=lent.clock,
                    wall=lent.wall,
                    interfaces=network.interfaces,
                    proc=proc,
                ),
            )
        if text.enabled:
            yield (
                "textfile",
                text,
                partial(
                    TextfileCollector,
                    directory=text.directory,
                    interval_s=text.interval,
                    timeout_s=text.timeout,
                    threads=lent.threads,
                    wall=lent.wall,
                ),
            )
        for one in config.exec:
            yield (
                one.name,
                one,
                partial(
                    ExecCollector,
                    name=one.name,
                    command=one.command,
                    interval_s=one.interval,
                    timeout_s=one.timeout,
                    runner=lent.runner,
                    wall=lent.wall,
                    env=lent.env,
                ),
            )
        for name, options in config.plugins.items():
            yield name, options, partial(load_plugin, name, options, lent, self._entry_points)

    def _refuse(self, name: str, error: CollectError) -> None:
        code = error.code.value
        log.warn(
            "collector {collector} is left out: {error}; the others run",
            collector=name, error=error, error_code=code, failure_cause=repr(error.__cause__),
        )  # fmt: skip
        self._events.publish(
            "collector.failed",
            f"collector {name} is left out: {error.message}",
            severity=Severity.WARN,
            data={"collector": name, "code": code, "error": error.message},
        )


def build_collectors(
    config: CollectorsConfig,
    services: CollectorServices,
    events: EventSink,
    *,
    proc: str = PROC,
    entry_points: EntryPoints = installed_entry_points,
) -> tuple[Collector, ...]:
    """The collectors of one configuration; for reloads keep a :class:`CollectorFactory` instead."""
    return CollectorFactory(services, events, proc=proc, entry_points=entry_points).build(config)
