"""The wiring of the daemon: which service gets what, in which order they start and stop. No logic."""

from __future__ import annotations

import math
import os
import random
import resource
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from prometheus_client.core import CounterMetricFamily, Metric
from twisted.application.service import MultiService
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import ILogObserver, Logger
from twisted.python.failure import Failure

from daemon import __version__
from daemon.agents.belongings import Sweeper, Terminator
from daemon.agents.manager import MultiAgentManager
from daemon.agents.metadata import FileMetadataStore
from daemon.agents.registry import AgentRegistry
from daemon.agents.world import AgentWorld
from daemon.aio.command import PidfdCommandRunner
from daemon.aio.logsink import LogSink
from daemon.aio.memory import bound_arenas, give_back
from daemon.aio.process import PidfdLauncher
from daemon.aio.reactor import Clock
from daemon.aio.threads import ThreadLanes
from daemon.aio.turn import TurnBudget
from daemon.collectors.base import CollectorServices
from daemon.collectors.factory import CollectorFactory
from daemon.collectors.manager import CollectorManager
from daemon.config.load import LoadedConfig
from daemon.control.control import Control, NodeSettings
from daemon.control.node import node_facts
from daemon.durable.atomic import write_atomic
from daemon.durable.lock import DirectoryLock
from daemon.durable.workdir import WorkDir, kept_secret
from daemon.errors import DaemonError, ListenError, StorageError
from daemon.events.bus import EventBus
from daemon.events.journal import EventJournal
from daemon.events.service import EventJournalService
from daemon.heartbeat.http_receiver import HTTPHeartbeatReceiver
from daemon.heartbeat.socket_receiver import HeartbeatReceiver
from daemon.model.event import Severity
from daemon.procfs.age import process_age_s
from daemon.procfs.identity import boot_id
from daemon.procfs.table import sweep
from daemon.web.api import Api
from daemon.web.exposition import DaemonMetrics, Exposition
from daemon.web.names import names_of_host
from daemon.web.peers import group_id
from daemon.web.service import CONNECTIONS_MAX, HttpService

WORK_PATIENCE_S = 30.0  # for work in hand when the daemon stops
LEAVE_PATIENCE_S = 5.0  # beyond that the process leaves with os._exit


class HostDaemon(MultiService):
    """The service tree of ``twistd hostdaemon``.

    Making it opens files and starts nothing (twistd may fork afterwards).

    Args:
        loaded: the configuration.
        reactor: the reactor.
        sink: the log, handed to twistd as its observer.
        lock: held; one daemon per work_dir.

    Raises:
        DaemonError: D1004, the work_dir cannot be used.
    """

    log = Logger()

    def __init__(self, loaded: LoadedConfig, reactor: Any, sink: LogSink, lock: DirectoryLock) -> None:
        super().__init__()
        bound_arenas()
        config = loaded.config
        self.exit_status = 0
        self._loaded = loaded
        self._reactor = reactor
        self._sink = sink
        self._lock = lock
        self._paths = paths = WorkDir(Path(config.daemon.work_dir))
        self._adopted = False
        self._stopping = False
        self._asked_once = False
        self._facts = node_facts(paths.root, config.daemon.id)
        clock: Clock = reactor
        wall = time.time

        self.threads = ThreadLanes(reactor)
        self._journal = _open_journal(paths.events, self.threads)
        self.bus = EventBus(wall, self._journal)
        launcher = PidfdLauncher(reactor)
        self._commands = PidfdCommandRunner(reactor, launcher)
        sweeper = Sweeper(self.threads, sweep)
        self.world = AgentWorld(
            clock=clock,
            wall=wall,
            launcher=launcher,
            sweeper=sweeper,
            terminator=Terminator(clock, launcher, sweeper),
            threads=self.threads,
            commands=self._commands,
            events=self.bus,
            store=FileMetadataStore(paths.metadata, clock, self.threads, self.bus),
            budget=TurnBudget(clock, time.perf_counter),
            logs_dir=paths.logs,
            socket_path=config.daemon.socket_path,
            daemon_env=dict(os.environ),
            boot_id=boot_id(),
            new_token=lambda: secrets.token_hex(16),
            random_unit=random.random,
            process_age_s=process_age_s,
        )
        self.agents = MultiAgentManager(
            self.world, AgentRegistry(), secret=kept_secret(paths.state / "mark.key").encode()
        )
        services = CollectorServices(
            clock=clock, threads=self.threads, wall=wall, runner=self._commands, env=dict(os.environ)
        )
        self.collectors = CollectorManager(
            clock, self.threads, wall, self.bus, CollectorFactory(services, self.bus).build(config.collectors)
        )
        cores = os.cpu_count() or 1
        beat = config.daemon.heartbeat
        sockets = [config.daemon.socket_path, *(a.socket_path for a in config.agents if a.socket_path)]
        self.heartbeats = HeartbeatReceiver(
            reactor, wall, self.agents, self.bus, sockets,
            require_pid_match=beat.require_pid_match, max_rate=math.ceil(beat.max_rate), cores=cores,
        )
        self.http_heartbeats = HTTPHeartbeatReceiver(
            clock, wall, self.agents, workers=beat.workers, queue_size=beat.queue, cores=cores
        )
        self.control = Control(
            agents=self.agents,
            world=self.world,
            collectors=self.collectors,
            bus=self.bus,
            facts=self._facts,
            settings=NodeSettings(
                labels=config.daemon.labels,
                work_dir=config.daemon.work_dir,
                heartbeat_socket=config.daemon.socket_path,
                control_socket=config.daemon.control_socket,
                manager_address=config.manager.address,
                config_path=str(loaded.path),
                config_loaded_at=wall(),
                started_at=wall(),
            ),
            checks={
                "config": lambda: "",
                "agents": lambda: "" if self._adopted else "agents are being taken back",
                "heartbeat-socket": lambda: "" if self.heartbeats.listening else "not listening",
                "http": lambda: self.http.tcp_error,
                "control-socket": lambda: self.http.control_error,
            },
        )
        exposition = Exposition(DaemonMetrics(self.control, clock.seconds, self._receiver_metrics))
        self.http = HttpService(
            reactor,
            Api(clock, self.control, self.http_heartbeats, exposition),
            self.http_heartbeats,
            token=kept_secret(paths.root / "api.token"),
            host=config.daemon.http_host,
            port=config.daemon.http_port,
            tls=config.daemon.http_tls,
            connections_max=http_connections_max(),
            control_path=config.daemon.control_socket,
            control_gid=group_id(config.daemon.control_group),
            our_names=names_of_host(self._facts.hostname, config.daemon.http_host),
        )
        self._add("agents", self.agents)
        self._add("collectors", self.collectors)
        self._add("heartbeat-socket", self.heartbeats)
        self._add("heartbeat-http", self.http_heartbeats)
        self._add("http", self.http)
        if self._journal is not None:
            self._add("events", EventJournalService(clock, self.bus, self._journal))

    def _add(self, name: str, service: Any) -> None:
        service.setName(name)
        service.setServiceParent(self)

    def setServiceParent(self, parent: Any) -> None:
        """Called by twistd with its application: our log becomes its log."""
        super().setServiceParent(parent)
        if hasattr(parent, "setComponent"):
            parent.setComponent(ILogObserver, self._sink)

    # ------------------------------------------------------------------ start

    def startService(self) -> None:
        """Begins when the reactor runs: twistd has daemonised by then."""
        self.running = 1
        signal.signal(signal.SIGHUP, self._hang_up)
        self._reactor.callWhenRunning(self._begin)

    def _asked_to_stop(self, number: int, frame: Any) -> None:
        """SIGTERM or SIGINT. A second one changes nothing: Twisted would log a traceback for it."""
        if not self._asked_once:
            self._asked_once = True
            (self._reactor.sigInt if number == signal.SIGINT else self._reactor.sigTerm)(number, frame)

    def _begin(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._asked_to_stop)
        starting = Deferred.fromCoroutine(self._start())
        starting.addErrback(self._start_failed)

    async def _start(self) -> None:
        config = self._loaded.config
        for warning in self._loaded.warnings:
            self.log.warn("D1002 {warning}", warning=str(warning), error_code="D1002")
        self._lock.note_pid()
        self._write_pid_file(config.daemon.pid_file)
        group = config.daemon.control_group
        if group and group_id(group) is None:
            self.log.warn(
                "D1002 daemon.control_group: there is no group {group} on this host, so only root and the "
                "daemon's user may use the control socket; create it and restart",
                group=group, error_code="D1002",
            )
        if self._facts.replaced:
            self.log.warn(
                "this machine is a clone: node id {old} is another's, ours is {new}",
                old=self._facts.replaced, new=self._facts.node_id,
            )
        self.bus.publish(
            "daemon.started", f"hostdaemon {__version__} started, pid {os.getpid()}",
            data={"version": __version__, "pid": os.getpid()},
        )
        self._child("events")
        self.agents.take_over(config.agents, sweep())
        self._child("agents")
        self._adopted = True
        self._child("heartbeat-socket")
        await self._open_heartbeats()
        self._child("heartbeat-http")
        self._child("http")
        await self.http.open()
        if self._stopping:
            return
        self.agents.start_missing()
        self._child("collectors")
        give_back()
        self.log.info(
            "hostdaemon {version} is ready: {agents} agents, {adopted} taken back; "
            "http {http}, heartbeats {socket}, control {control}",
            version=__version__, agents=len(self.agents.registry), adopted=self.agents.adopted_total,
            http=self._http_url(), socket=config.daemon.socket_path, control=config.daemon.control_socket,
        )

    async def _open_heartbeats(self) -> None:
        """Without the default socket there is no start; an agent's own path may fail by itself."""
        try:
            await self.heartbeats.open()
        except ListenError as error:
            if self._loaded.config.daemon.socket_path not in self.heartbeats.listening:
                raise
            self.log.error("{error}; the other sockets are listened to", error=str(error), error_code="D1003")
            self.bus.publish(
                "daemon.socket_failed", error.message, severity=Severity.ERROR, data={"code": "D1003"}
            )

    def _http_url(self) -> str:
        daemon = self._loaded.config.daemon
        if not daemon.http_port:
            return "off"
        host = f"[{daemon.http_host}]" if ":" in daemon.http_host else daemon.http_host
        return f"{'https' if daemon.http_tls.cert_file else 'http'}://{host}:{self.http.tcp_port}"

    def _child(self, name: str) -> None:
        if name in self.namedServices:
            self.namedServices[name].startService()

    def _write_pid_file(self, path: str) -> None:
        if not path:
            return
        try:
            write_atomic(Path(path), f"{os.getpid()}\n".encode(), mode=0o644, fsync=False)
        except StorageError as error:
            self.log.warn("pid_file: {error}; it is for information only", error=str(error))

    def _start_failed(self, failure: Failure) -> None:
        error = failure.value
        if isinstance(error, CancelledError) and self._stopping:
            return
        if isinstance(error, DaemonError):
            text = str(error)
            self.log.error("{error}", error=text, error_code=error.code.value)
        else:
            self.log.failure("a fault of the daemon at its start", failure=failure)
            text = f"a fault of the daemon at its start: {failure.getErrorMessage()}; its log says more"
        self._sink.tell_stderr(f"hostdaemon: {text}")
        self.exit_status = 1
        if not self._stopping and not self._asked_once:
            self._asked_once = True
            self._reactor.stop()

    def _hang_up(self, _number: int, _frame: object) -> None:
        """SIGHUP would kill us; a handler (not SIG_IGN) leaves it at its default in agents."""
        self._reactor.callFromThread(
            self.log.info, "SIGHUP: reloading the configuration is not built yet; restart the daemon"
        )

    # ------------------------------------------------------------------- stop

    def stopService(self) -> Deferred[None]:
        """Leaves in order; agents run on."""
        self.running = 0
        self._stopping = True
        leave_at_last(WORK_PATIENCE_S + 2 * LEAVE_PATIENCE_S)
        self._reactor.addSystemEventTrigger("after", "shutdown", self._end)
        return Deferred.fromCoroutine(self._leave())

    async def _leave(self) -> None:
        self.log.info("stopping; agents run on")
        self.http.refuse()
        self.bus.publish("daemon.stopping", f"hostdaemon stops, pid {os.getpid()}; agents run on")
        for name in ("heartbeat-http", "heartbeat-socket", "agents", "collectors", "http"):
            await self._stop_child(name)
        self._commands.stop()
        await self._stop_child("events")
        stuck = await self.threads.stop(LEAVE_PATIENCE_S)
        if stuck:
            self.log.warn("calls still hang in {lanes}; leaving without them", lanes=", ".join(stuck))

    async def _stop_child(self, name: str) -> None:
        service = self.namedServices.get(name)
        if service is None or not service.running:
            return
        try:
            await service.stopService()
        except Exception:  # noqa: BLE001 - logged; the others must stop all the same
            self.log.failure("{name} did not stop well", name=name)

    def _end(self) -> None:
        """After shutdown: the last lines, and the exit status a SystemExit in the reactor would lose."""
        if self._journal is not None:
            self._journal.close()
        pid_file = self._loaded.config.daemon.pid_file
        if pid_file:
            _remove_own_pid_file(Path(pid_file))
        self._lock.release()
        if self.exit_status:
            os._exit(self.exit_status)

    # ------------------------------------------------------------------ metrics

    def _receiver_metrics(self) -> Iterator[Metric]:
        stats = self.heartbeats.stats()
        http = self.http_heartbeats.stats()
        accepted = CounterMetricFamily(
            "hostdaemon_heartbeats_accepted", "Heartbeats accepted.", labels=("receiver",)
        )
        refused = CounterMetricFamily(
            "hostdaemon_heartbeats_refused", "Heartbeats refused.", labels=("receiver",)
        )
        accepted.add_metric(("socket",), stats.accepted_total)
        accepted.add_metric(("http",), http.total_processed)
        refused.add_metric(("socket",), sum(stats.errors_total.values()))
        refused.add_metric(("http",), http.total_errors)
        yield accepted
        yield refused
        yield CounterMetricFamily(
            "hostdaemon_metadata_write_failures", "Saves of agents' metadata that failed.",
            self.world.store.write_failures_total,
        )
        yield CounterMetricFamily(
            "hostdaemon_log_lines_lost", "Log lines of the daemon that could not be written.",
            self._sink.lost_total,
        )


def _open_journal(directory: Path, threads: ThreadLanes) -> EventJournal | None:
    """The event journal; without one (a disk that refuses) events live in memory only."""
    try:
        return EventJournal(directory, time.time, threads)
    except StorageError as error:
        HostDaemon.log.error("{error}; events are kept in memory only", error=str(error), error_code="D1004")
        return None


def http_connections_max() -> int:
    """Per listener; a quarter of the descriptors, so that connections never cost agents their restarts."""
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return CONNECTIONS_MAX if soft == resource.RLIM_INFINITY else min(CONNECTIONS_MAX, max(8, soft // 4))


def _remove_own_pid_file(path: Path) -> None:
    try:
        if path.read_text(encoding="ascii").strip() == str(os.getpid()):
            path.unlink()
    except (OSError, ValueError):
        return  # information only


def leave_at_last(after_s: float, leave: Callable[[int], None] = os._exit) -> None:
    """Ends the process with status 1 when a stop takes too long; a thread: a held loop cannot hold it."""
    timer = threading.Timer(after_s, leave, (1,))
    timer.daemon = True
    timer.start()


