"""Makes the parts of the daemon and hands each what it needs; starts nothing. Called by ``daemon.app``."""

from __future__ import annotations

import math
import os
import random
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twisted.internet.defer import DeferredList
from twisted.logger import Logger

from daemon.agents.belongings import Sweeper, Terminator
from daemon.agents.launch import home_of, side_command, small_environment
from daemon.agents.manager import MultiAgentManager
from daemon.agents.metadata import FileMetadataStore
from daemon.agents.registry import AgentRegistry
from daemon.agents.world import AgentWorld
from daemon.agents.writers import writers_of
from daemon.aio.command import PidfdCommandRunner
from daemon.aio.dial import Dial, try_to_connect
from daemon.aio.logsink import LogSink
from daemon.aio.notify import InotifyNotifier
from daemon.aio.process import PidfdLauncher
from daemon.aio.reactor import Clock
from daemon.aio.sessions import SessionIndex
from daemon.aio.threads import ThreadLanes
from daemon.aio.turn import TurnBudget
from daemon.alerts.book import AlertBook
from daemon.alerts.webhook import Webhook
from daemon.collectors.base import CollectorServices
from daemon.collectors.factory import CollectorFactory
from daemon.collectors.manager import CollectorManager
from daemon.config.load import LoadedConfig, load
from daemon.config.schema import AgentConfig, Config
from daemon.control.config_manager import ConfigManager, Step
from daemon.control.config_watch import ConfigWatch
from daemon.control.node import NodeFacts
from daemon.control.records import Records
from daemon.durable.workdir import WorkDir, kept_secret
from daemon.errors import StorageError
from daemon.events.bus import EventBus
from daemon.events.journal import EventJournal
from daemon.health.checker import MultiHealthChecker
from daemon.health.probing import ProbeCommand, Probes
from daemon.heartbeat.http_receiver import HTTPHeartbeatReceiver
from daemon.heartbeat.socket_receiver import HeartbeatReceiver
from daemon.httpclient import HttpClient
from daemon.logs.manager import LogManager
from daemon.model.agent import Identity
from daemon.model.event import Severity
from daemon.procfs.age import process_age_s
from daemon.procfs.identity import boot_id
from daemon.procfs.sessions import SessionScan
from daemon.procfs.table import sweep
from daemon.procfs.usage import SessionMeter
from daemon.resources.heartbeats import HeartbeatKeeper
from daemon.resources.history import History
from daemon.resources.host import HostHistory
from daemon.resources.monitor import ResourceMonitor

log = Logger()

EVENTS_ALERT = "events_storage"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Everything the daemon is made of, but the edges."""

    threads: ThreadLanes
    notifier: InotifyNotifier
    journal: EventJournal | None
    bus: EventBus
    alerts: AlertBook
    commands: PidfdCommandRunner
    world: AgentWorld
    agents: MultiAgentManager
    collectors: CollectorManager
    heartbeats: HeartbeatReceiver
    http_heartbeats: HTTPHeartbeatReceiver
    resources: ResourceMonitor
    host_history: HostHistory
    keeper: HeartbeatKeeper
    health: MultiHealthChecker
    logs: LogManager
    webhook: Webhook
    config: ConfigManager
    watch: ConfigWatch
    records: Records
    leaders: Leaders
    reload_steps: Sequence[Step]


def make_parts(loaded: LoadedConfig, reactor: Any, sink: LogSink, facts: NodeFacts) -> Parts:
    """Makes them all.

    Raises:
        DaemonError: D1004, the work_dir cannot be used.
    """
    config = loaded.config
    paths = WorkDir(Path(config.daemon.work_dir))
    wall = time.time
    cores = os.cpu_count() or 1
    beat = config.daemon.heartbeat

    threads = ThreadLanes(reactor)
    notifier = InotifyNotifier(reactor)
    journal = _open_journal(paths.events, threads)
    bus = EventBus(wall, journal)
    alerts = AlertBook(wall, bus)
    bus.when_refused(lambda text: _journal_refuses(alerts, text))
    launcher = PidfdLauncher(reactor)
    commands = PidfdCommandRunner(reactor, launcher)
    sweeper = Sweeper(threads, sweep)
    world = AgentWorld(
        clock=reactor,
        wall=wall,
        launcher=launcher,
        sweeper=sweeper,
        terminator=Terminator(reactor, launcher, sweeper),
        threads=threads,
        commands=commands,
        events=bus,
        alerts=alerts,
        store=FileMetadataStore(paths.metadata, reactor, threads, bus, alerts),
        budget=TurnBudget(reactor, time.perf_counter),
        logs_dir=paths.logs,
        socket_path=config.daemon.socket_path,
        daemon_env=dict(os.environ),
        boot_id=boot_id(),
        new_token=lambda: secrets.token_hex(16),
        random_unit=random.random,
        process_age_s=process_age_s,
    )
    registry = AgentRegistry()
    leaders = Leaders(reactor)
    agents = MultiAgentManager(
        world, registry, secret=kept_secret(paths.state / "mark.key").encode(), on_leader=leaders.changed,
        on_transition=lambda agent_id, old, new: leaders.on_state(agent_id),
    )
    services = CollectorServices(
        clock=reactor, threads=threads, wall=wall, runner=commands, env=dict(os.environ)
    )
    factory = CollectorFactory(services, bus)
    collectors = CollectorManager(reactor, threads, wall, bus, factory.build(config.collectors))
    heartbeats = HeartbeatReceiver(
        reactor, wall, agents, bus, socket_paths(config), notifier=notifier, make_folder=paths.make,
        require_pid_match=beat.require_pid_match, max_rate=math.ceil(beat.max_rate), cores=cores,
    )
    http_heartbeats = HTTPHeartbeatReceiver(
        reactor, wall, agents, workers=beat.workers, queue_size=beat.queue, cores=cores
    )
    sessions = SessionIndex(reactor, threads, SessionScan())

    def meter(leader: Identity, max_age_s: float) -> SessionMeter:
        return SessionMeter(leader, lambda session: sessions.members(session, max_age_s))

    resources = ResourceMonitor(
        reactor, wall, threads, agents, meter, History(paths.state / "resources"), bus, alerts,
        sessions.fresh,
    )
    host_history = HostHistory(
        paths.state / "host.ring", reactor, wall, threads, collectors.get_latest, bus, alerts
    )
    http = HttpClient(reactor, threads)
    health = MultiHealthChecker(
        reactor, agents, meter,
        Probes(
            http=http,
            connect=lambda host, port, timeout_s: try_to_connect(
                Dial(reactor, threads, host, port, timeout_s)
            ),
            commands=commands,
            command_of=lambda spec: _probe_command(spec, world),
        ),
        alerts,
    )
    logs = LogManager(
        paths.logs, reactor, wall, threads, notifier, bus, alerts,
        lambda agent_id: writers_of(registry, world, agent_id),
    )
    webhook = Webhook(
        reactor, http, bus, node_id=facts.node_id, hostname=facts.hostname, random_unit=random.random
    )
    alerts.subscribe(webhook.take)
    manager = ConfigManager(
        loaded, load, threads, wall, bus, alerts, paths.state / "config.last-good.yaml"
    )
    leaders.watchers = (health, resources, logs)
    steps: list[Step] = []
    parts = Parts(
        threads=threads, notifier=notifier, journal=journal, bus=bus, alerts=alerts, commands=commands,
        world=world, agents=agents, collectors=collectors, heartbeats=heartbeats,
        http_heartbeats=http_heartbeats, resources=resources, host_history=host_history,
        keeper=HeartbeatKeeper(paths.state / "heartbeats.json", reactor, threads, agents, world.boot_id),
        health=health, logs=logs, webhook=webhook, config=manager,
        watch=ConfigWatch(reactor, notifier, threads, manager),
        records=Records(registry, resources, host_history, logs, alerts), leaders=leaders, reload_steps=steps,
    )
    steps += reload_steps(parts, factory, sink)
    return parts


def reload_steps(parts: Parts, factory: CollectorFactory, sink: LogSink) -> Sequence[Step]:
    """Who takes a new configuration, in which order: sockets before the agents that look for them."""

    def take_log(old: Config, new: Config) -> None:
        sink.set_level(new.daemon.log_level.value)

    async def take_sockets(old: Config, new: Config) -> None:
        await parts.heartbeats.set_paths(socket_paths(new))

    def take_agents(old: Config, new: Config) -> None:
        parts.agents.apply(new.agents)

    def take_watchers(old: Config, new: Config) -> None:
        apply_watchers(parts, new)

    def take_collectors(old: Config, new: Config) -> None:
        if old.collectors != new.collectors:
            parts.collectors.replace(factory.build(new.collectors))

    return (
        Step(name="log", apply=take_log),
        Step(name="heartbeat sockets", apply=take_sockets),
        Step(name="agents", apply=take_agents),
        Step(name="health, history, logs and webhook", apply=take_watchers),
        Step(name="collectors", apply=take_collectors),
    )


def apply_watchers(parts: Parts, config: Config) -> None:
    """Hands a configuration to those who watch over agents; at the start and at each reload."""
    parts.health.apply(config.agents)
    parts.resources.apply(config.resources, [agent.id for agent in config.agents])
    parts.host_history.apply(config.resources)
    parts.logs.apply({agent.id: agent.logs for agent in config.agents})
    parts.webhook.apply(config.resources.webhook)


def socket_paths(config: Config) -> list[str]:
    """Every heartbeat socket: the daemon's, and those that agents name."""
    own = (agent.socket_path for agent in config.agents if agent.socket_path)
    return list(dict.fromkeys([config.daemon.socket_path, *own]))


async def stop_all(services: Sequence[Any]) -> None:
    """Stops services that do not wait for each other; each one's failure is logged by itself."""
    work = [service.stopService() for service in services if service.running]
    for success, result in await DeferredList([w for w in work if w is not None], consumeErrors=True):
        if not success:
            log.failure("a service did not stop well", failure=result)


class Leaders:
    """Tells those who watch agents that another process leads one; a turn later: successors must not wait.

    Attributes:
        watchers: told by ``process_changed``.
        on_state: hears every change of an agent's state.
    """

    def __init__(self, clock: Clock) -> None:
        self.watchers: Sequence[Any] = ()
        self.on_state: Callable[[str], None] = lambda agent_id: None
        self._clock = clock
        self._changed: dict[str, None] = {}

    def changed(self, agent_id: str) -> None:
        """Another process leads that agent, or none."""
        if not self._changed:
            self._clock.callLater(0, self._tell)
        self._changed[agent_id] = None

    def _tell(self) -> None:
        changed, self._changed = self._changed, {}
        for agent_id in changed:
            for watcher in self.watchers:
                watcher.process_changed(agent_id)


def _probe_command(spec: AgentConfig, world: AgentWorld) -> ProbeCommand:
    """A command probe, run as the agent's user."""
    return ProbeCommand(
        argv=side_command(spec, spec.health_check.command),
        env=small_environment(home_of(spec.user), world.daemon_env) | dict(spec.env),
        cwd=spec.work_dir if Path(spec.work_dir).is_dir() else None,
    )


def _open_journal(directory: Path, threads: ThreadLanes) -> EventJournal | None:
    """The event journal; without one (a disk that refuses) events live in memory only."""
    try:
        return EventJournal(directory, time.time, threads)
    except StorageError as error:
        log.error("{error}; events are kept in memory only", error=str(error), error_code="D1004")
        return None


def _journal_refuses(alerts: AlertBook, text: str) -> None:
    if text:
        alerts.raise_alert(EVENTS_ALERT, text, severity=Severity.ERROR)
    else:
        alerts.clear(EVENTS_ALERT, message="the journal takes events again")
