"""The wiring of the daemon: which service gets what, in which order they start and stop. No logic."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

from twisted.application.service import MultiService
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import ILogObserver, Logger
from twisted.python.failure import Failure

from daemon import __version__, faults
from daemon.aio.logsink import LogSink
from daemon.aio.memory import bound_arenas, give_back
from daemon.aio.sdnotify import ServiceManager
from daemon.assembly import apply_watchers, make_parts, stop_all
from daemon.config.load import LoadedConfig
from daemon.control.config_manager import Step
from daemon.control.control import Control, NodeSettings
from daemon.control.node import node_facts
from daemon.durable.atomic import write_atomic
from daemon.durable.lock import DirectoryLock
from daemon.durable.workdir import WorkDir, kept_secret
from daemon.errors import DaemonError, ListenError, StorageError
from daemon.events.service import EventJournalService
from daemon.logs.own import RotatingStream, attend
from daemon.model.agent import AgentState
from daemon.model.event import Severity
from daemon.procfs.table import sweep
from daemon.updater.selfupdate.handing_over import HandOver, Invocation, become
from daemon.updating import make_daemon_target, make_updates
from daemon.uplink import Uplink
from daemon.web.api import Api
from daemon.web.certificate import HttpCertificate
from daemon.web.exposition import DaemonMetrics
from daemon.web.families import PartsMetrics
from daemon.web.host_families import HostMetrics
from daemon.web.names import names_of_host
from daemon.web.peers import group_id
from daemon.web.scrape import Exposition
from daemon.web.service import HttpService, http_connections_max

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
        invocation: how we were started.

    Raises:
        DaemonError: D1004, the work_dir cannot be used.
    """

    log = Logger()

    def __init__(
        self, loaded: LoadedConfig, reactor: Any, sink: LogSink, lock: DirectoryLock, invocation: Invocation
    ) -> None:
        super().__init__()
        bound_arenas()
        config = loaded.config
        self.exit_status = 0
        self._loaded = loaded
        self._reactor = reactor
        self._sink = sink
        self._lock = lock
        paths = WorkDir(Path(config.daemon.work_dir))
        self._adopted = False
        self._stopping = False
        self._asked_once = False
        self._hand_over: HandOver | None = None
        self._facts = node_facts(paths.root, config.daemon.id)
        self.service_manager = ServiceManager(os.environ, reactor, os.getpid())
        self.parts = parts = make_parts(loaded, reactor, sink, self._facts)
        self.daemon_target = make_daemon_target(
            parts, lambda: self.control.readiness(), self, invocation, self.service_manager.variables
        )
        self.updates = make_updates(reactor, parts, self.daemon_target)
        self.control = Control(
            agents=parts.agents,
            world=parts.world,
            collectors=parts.collectors,
            bus=parts.bus,
            facts=self._facts,
            settings=NodeSettings(
                labels=config.daemon.labels,
                work_dir=config.daemon.work_dir,
                heartbeat_socket=config.daemon.socket_path,
                control_socket=config.daemon.control_socket,
                manager_address=config.manager.address,
                started_at=time.time(),
            ),
            records=parts.records,
            config=parts.config,
            updates=self.updates,
            checks={
                "config": lambda: "",
                "agents": lambda: "" if self._adopted else "agents are being taken back",
                "heartbeat-socket": lambda: parts.heartbeats.error,
                "http": lambda: self.http.tcp_error,
                "control-socket": lambda: self.http.control_error,
                **({"grpc": lambda: self.uplink.error} if config.daemon.grpc_port else {}),
            },
        )
        self.uplink = Uplink(reactor, self.control, parts, self._facts, config)
        parts.leaders.on_state = self._state_changed
        parts.alerts.subscribe(lambda _alert: self.service_manager.changed())
        parts.config.applied_by(
            [*parts.reload_steps, Step(name="Manager", apply=lambda old, new: self.uplink.apply(new))]
        )
        certificate = HttpCertificate(
            config.daemon.http_tls, "daemon.http_tls", clock=reactor, wall=time.time, threads=parts.threads,
            alerts=parts.alerts,
        )
        metrics = PartsMetrics(
            heartbeats=parts.heartbeats, http_heartbeats=parts.http_heartbeats, health=parts.health,
            resources=parts.resources, host_history=parts.host_history, logs=parts.logs,
            webhook=parts.webhook, alerts=parts.alerts, store=parts.world.store, sink=sink,
            updates=self.updates,
            certificate_ends=lambda: {"http": certificate.not_after, **self.uplink.certificate_ends},
        )
        exposition = Exposition(DaemonMetrics(
            self.control, reactor.seconds, lambda: chain(metrics.collect(), self.uplink.collect())
        ))
        self.http = HttpService(
            reactor,
            Api(
                reactor, self.control, parts.http_heartbeats, exposition,
                Exposition(HostMetrics(parts.collectors, time.time), process=False), parts.threads,
            ),
            parts.http_heartbeats,
            token=kept_secret(paths.root / "api.token"),
            host=config.daemon.http_host,
            port=config.daemon.http_port,
            certificate=certificate,
            connections_max=http_connections_max(),
            inline_max=lambda: parts.config.in_force.update.max_inline_size,
            control_path=config.daemon.control_socket,
            control_gid=group_id(config.daemon.control_group),
            our_names=names_of_host(self._facts.hostname, config.daemon.http_host),
            notifier=parts.notifier,
            events=parts.bus,
        )
        for name, service in (
            ("agents", parts.agents), ("collectors", parts.collectors), ("health", parts.health),
            ("resources", parts.resources),
            ("host-history", parts.host_history), ("last-heartbeats", parts.keeper), ("logs", parts.logs),
            ("webhook", parts.webhook), ("config-watch", parts.watch),
            ("heartbeat-socket", parts.heartbeats), ("heartbeat-http", parts.http_heartbeats),
            ("http", self.http), ("updater", self.updates),
        ):
            self._add(name, service)
        if parts.journal is not None:
            self._add("events", EventJournalService(reactor, parts.bus, parts.journal))

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
            if self._hand_over is not None:
                return  # it is leaving already; there will be no exec at the end
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
        self.parts.bus.publish(
            "daemon.started", f"hostdaemon {__version__} started, pid {os.getpid()}",
            data={"version": __version__, "pid": os.getpid()},
        )
        self._child("events")
        self.updates.recall()  # what is half way goes on once agents are taken back
        self.parts.agents.take_over(config.agents, sweep())
        self.parts.keeper.restore()
        self._child("agents")
        self._adopted = True
        self._child("heartbeat-socket")
        await self._open_heartbeats()
        self._child("heartbeat-http")
        self._child("http")
        await self.http.open()
        await self.uplink.open()
        if self._stopping:
            return
        apply_watchers(self.parts, config)
        self._child("logs")  # first: what a daemon that died left half rotated is mended
        self.parts.agents.start_missing()
        for name in (
            "health", "resources", "last-heartbeats", "webhook", "collectors", "host-history", "config-watch",
        ):
            self._child(name)
        self._child("updater")
        self.uplink.start_link()
        if isinstance(self._sink.stream, RotatingStream):
            attend(self._sink.stream, self._reactor, self.parts.threads)
        self.parts.config.keep_first().addErrback(
            lambda failure: self.log.failure("the last good configuration", failure=failure)
        )
        give_back()
        self.log.info(
            "hostdaemon {version} is ready: {agents} agents, {adopted} taken back; "
            "http {http}, grpc {grpc}, heartbeats {socket}, control {control}",
            version=__version__, agents=len(self.parts.agents.registry),
            adopted=self.parts.agents.adopted_total,
            http=self._http_url(), grpc=self.uplink.listening, socket=config.daemon.socket_path,
            control=config.daemon.control_socket,
        )
        self.service_manager.ready(self._status(), os.getpid())
        self.service_manager.keep_status(self._status)
        self.service_manager.changed()
        # Also while we stop, which may take longer than the watchdog's time; a loop that hangs pings no more.
        self.service_manager.feed_watchdog(lambda: True)
        self.daemon_target.ready()

    def _state_changed(self, agent_id: str) -> None:
        self.uplink.state_changed(agent_id)
        self.service_manager.changed()

    def _status(self) -> str:
        """One line for the service manager."""
        agents = self.parts.agents.registry.list()
        running = sum(agent.state is AgentState.RUNNING for agent in agents)
        ill = sum(agent.illness.unhealthy for agent in agents)
        refused = self.parts.config.state().error
        return f"{running} of {len(agents)} agents run, {ill} unhealthy" + (
            f"; the configuration stays as it was: {refused}" if refused else ""
        )

    async def _open_heartbeats(self) -> None:
        """Without the default socket there is no start; an agent's own path may fail by itself."""
        try:
            await self.parts.heartbeats.open()
        except ListenError as error:
            if self._loaded.config.daemon.socket_path not in self.parts.heartbeats.listening:
                raise
            self.log.error("{error}; the other sockets are listened to", error=str(error), error_code="D1003")
            self.parts.bus.publish(
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
        self._reactor.callFromThread(self._reload)

    def _reload(self) -> None:
        """Opens the log by its name again, as after logrotate, and reloads the configuration."""
        stream = self._sink.stream
        if isinstance(stream, RotatingStream):
            try:
                stream.reopen()
            except StorageError as error:
                self.log.warn("{error}", error=str(error), error_code="D1004")
        if self._adopted and not self._stopping:
            self.service_manager.reloading()
            done = self.parts.config.hang_up()
            done.addCallback(self._reloaded)

    def _reloaded(self, _done: None) -> None:
        if not self._stopping:
            self.service_manager.ready(self._status(), os.getpid())

    # ------------------------------------------------------------------- stop

    def stopService(self) -> Deferred[None]:
        """Leaves in order; agents run on."""
        self.running = 0
        self._stopping = True
        leave_at_last(WORK_PATIENCE_S + 2 * LEAVE_PATIENCE_S)
        self._reactor.addSystemEventTrigger("after", "shutdown", self._end)
        return Deferred.fromCoroutine(self._leave())

    def hand_over(self, hand_over: HandOver) -> bool:
        """A stop whose end is an exec, no exit: :class:`daemon.updater.selfupdate.handing_over.GivesWay`."""
        if self._hand_over is not None or self._stopping or self._asked_once:
            return False
        self._hand_over = hand_over
        self._reactor.stop()
        return True

    async def _leave(self) -> None:
        if self._hand_over is not None:
            self.log.info("giving way to version {version}; agents run on", version=self._hand_over.version)
            self.service_manager.giving_way(self._hand_over.version)
        else:
            self.log.info("stopping; agents run on")
            self.service_manager.stopping()
        self.http.refuse()
        self.uplink.refuse()
        self.updates.refuse()
        self.parts.bus.publish("daemon.stopping", f"hostdaemon stops, pid {os.getpid()}; agents run on")
        await self._stop_child("updater")  # an agent between two versions gets one
        await self.daemon_target.leaving()
        await self._stop_child("config-watch")
        await self._stop_child("health")  # before the agents: a verdict now would only be in the way
        for name in ("heartbeat-http", "heartbeat-socket", "agents"):
            await self._stop_child(name)
        parts = self.parts
        await stop_all([
            parts.resources, parts.host_history, parts.keeper, parts.logs, parts.collectors, parts.webhook,
        ])
        await self.uplink.stop()
        await self._stop_child("http")
        await self.service_manager.stop()
        parts.commands.stop()
        parts.notifier.stop()
        await self._stop_child("events")
        stuck = await parts.threads.stop(LEAVE_PATIENCE_S)
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
        if self.parts.journal is not None:
            self.parts.journal.close()
        if self._hand_over is not None:
            self._become(self._hand_over)
        pid_file = self._loaded.config.daemon.pid_file
        if pid_file:
            _remove_own_pid_file(Path(pid_file))
        self._lock.release()
        if self.exit_status:
            os._exit(self.exit_status)

    def _become(self, hand_over: HandOver) -> None:
        """The exec; returns where there was none, to end as after any stop."""
        try:
            if self._asked_once:
                hand_over.abandoned("somebody asked the daemon to stop before it had given way")
                return
            hand_over.before()
            faults.hit("update.daemon.left")
            self._lock.set_inheritable(True)
            become(hand_over, self._lock.fd)
        except (OSError, DaemonError) as error:  # the watcher of the update brings the old version back
            self.log.error("D4003 version {version} cannot be started: {error}",
                           version=hand_over.version, error=str(error), error_code="D4003")
            self.exit_status = 1


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
