"""The wiring of the Manager: which part gets what, in which order they start and stop. No logic."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from twisted.application.service import MultiService
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import ILogObserver, Logger
from twisted.python.failure import Failure

from daemon import __version__
from daemon.aio.logsink import LogSink
from daemon.aio.threads import ThreadLanes
from daemon.durable.lock import DirectoryLock
from daemon.durable.workdir import kept_secret
from daemon.errors import DaemonError, RequestError, StorageError
from daemon.logs.own import RotatingStream, attend
from daemon.manager import queries, records
from daemon.manager.api import ManagerApi
from daemon.manager.commands import Commands
from daemon.manager.daemons import Daemons, target_of
from daemon.manager.database import Database
from daemon.manager.exposition import ManagerMetrics
from daemon.manager.fleet import Fleet
from daemon.manager.http import ManagerHttp
from daemon.manager.intake import Intake
from daemon.manager.load import LoadedConfig
from daemon.manager.server import LoggedAlerts, ManagerServer
from daemon.model.event import Severity
from daemon.web.certificate import HttpCertificate
from daemon.web.names import names_of_host
from daemon.web.scrape import Exposition

WORK_PATIENCE_S = 5.0  # at the stop, for operations and commits in hand
LEAVE_AFTER_S = 20.0  # beyond that the process leaves with os._exit


class HostManager(MultiService):
    """The service tree of ``twistd hostmanager``. Making it starts nothing: twistd may fork afterwards.

    Args:
        loaded: the configuration.
        reactor: the reactor.
        sink: the log, handed to twistd as its observer.
        lock: held; one Manager per work_dir.
        leave: ends the process with a status when a stop takes too long, and after a failed start.

    Raises:
        DaemonError: D1004, the token can be neither read nor made.

    Attributes:
        exit_status: what the process ends with.
    """

    log = Logger()

    def __init__(
        self, loaded: LoadedConfig, reactor: Any, sink: LogSink, lock: DirectoryLock, *,
        leave: Callable[[int], Any] = os._exit,
    ) -> None:
        super().__init__()
        config = loaded.config
        hostname = socket.gethostname()
        name = config.id or hostname
        self.exit_status = 0
        self._loaded = loaded
        self._reactor = reactor
        self._sink = sink
        self._lock = lock
        self._leave_with = leave
        self._stopping = False
        self._asked_once = False
        self._starting: Deferred[None] | None = None
        self.threads = ThreadLanes(reactor)
        self.database = Database(reactor, config.database_path)
        self.intake = Intake(self.database.write)
        self.fleet = Fleet(reactor, time.time, self.intake, config)
        self.rpc = ManagerServer(reactor, self.fleet, config, _LoggedEvents(), threads=self.threads)
        daemons = Daemons(reactor, self.threads, config, name)
        self.commands = Commands(
            reactor, time.time, self.intake, self.database.read,
            target_of=lambda node: target_of(node, config), operate=daemons.operate,
        )
        metrics = ManagerMetrics(self.database, self.intake, self.fleet, self.rpc, self.commands, sink)
        api = ManagerApi(
            name=name, config=config, read=self.database.read, fleet=self.fleet, commands=self.commands,
            checks=self._checks, exposition=Exposition(metrics).encode, wall=time.time,
        )
        self.http = ManagerHttp(
            reactor, api, config,
            HttpCertificate(
                config.http_tls, "manager.http_tls", clock=reactor, wall=time.time, threads=self.threads,
                alerts=LoggedAlerts(),
            ),
            token=kept_secret(Path(config.work_dir) / "api.token"),
            our_names=names_of_host(hostname, config.http_host),
        )
        self.rpc.setServiceParent(self)
        self.http.setServiceParent(self)

    def setServiceParent(self, parent: Any) -> None:
        """Called by twistd with its application: our log becomes its log."""
        super().setServiceParent(parent)
        if hasattr(parent, "setComponent"):
            parent.setComponent(ILogObserver, self._sink)

    def _checks(self) -> dict[str, str]:
        return {"database": self.database.error, "grpc": self.rpc.error, "http": self.http.error}

    # ------------------------------------------------------------------ start

    def startService(self) -> None:
        """Begins when the reactor runs: twistd has daemonised by then."""
        self.running = 1
        self._reactor.callWhenRunning(self._begin)

    def _begin(self) -> None:
        if isinstance(self._sink.stream, RotatingStream):
            attend(self._sink.stream, self._reactor, self.threads)
        self._starting = Deferred.fromCoroutine(self._start())
        self._starting.addErrback(self._start_failed)

    def take_signals(self) -> None:
        """Signals are ours from now on; once the reactor, which takes some as it starts, runs."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._asked_to_stop)
        signal.signal(signal.SIGHUP, lambda _number, _frame: self._reactor.callFromThread(self._reopen_log))

    def _reopen_log(self) -> None:
        """As after logrotate: the log goes on in the file of that name. No configuration is reloaded."""
        stream = self._sink.stream
        if not isinstance(stream, RotatingStream):
            return
        try:
            stream.reopen()
        except StorageError as error:
            self.log.warn("{error}", error=str(error), error_code="D1004")
        else:
            self.log.info("SIGHUP: the log is opened by its name; a changed configuration needs a restart")

    def _asked_to_stop(self, number: int, frame: Any) -> None:
        """A second signal changes nothing: Twisted would log a traceback for it."""
        if not self._asked_once:
            self._asked_once = True
            (self._reactor.sigInt if number == signal.SIGINT else self._reactor.sigTerm)(number, frame)

    async def _start(self) -> None:
        for warning in self._loaded.warnings:
            self.log.warn("D1002 {warning}", warning=str(warning), error_code="D1002")
        self._lock.note_pid()
        await self.database.open()
        abandoned = await self.intake.submit(lambda tx: records.abandon_commands(tx, time.time()))
        known = await self.database.read(queries.nodes)
        self.fleet.start(known)
        await self.http.open()  # first: it shows what is known, whatever daemons do next
        await self.rpc.open()
        self.rpc.startService()
        self.http.startService()
        config = self._loaded.config
        scheme = "https" if config.http_tls.cert_file else "http"
        self.log.info(
            "hostmanager {version} is ready: {nodes} nodes known, {abandoned} operations without an answer; "
            "gRPC {grpc}, HTTP {http}, database {database}",
            version=__version__, nodes=len(known), abandoned=abandoned,
            grpc=self.rpc.listening or "not served",
            http=f"{scheme}://{config.http_host}:{self.http.port}" if self.http.port else "off",
            database=config.database_path,
        )

    def _start_failed(self, failure: Failure) -> None:
        error = failure.value
        if self._stopping and failure.check(CancelledError, StorageError, RequestError):
            return  # the stop took the database away
        if isinstance(error, DaemonError):
            text = str(error)
            self.log.error("{error}", error=text, error_code=error.code.value)
        else:
            self.log.failure("a fault of the Manager at its start", failure=failure)
            text = f"a fault of the Manager at its start: {failure.getErrorMessage()}; its log says more"
        self._sink.tell_stderr(f"hostmanager: {text}")
        self.exit_status = 1
        if not self._stopping and not self._asked_once:
            self._asked_once = True
            self._reactor.stop()

    # ------------------------------------------------------------------- stop

    def stopService(self) -> Deferred[None]:
        """Leaves in order: refuse, finish what is in hand, commit, close."""
        self.running = 0
        self._stopping = True
        timer = threading.Timer(LEAVE_AFTER_S, self._leave_with, (1,))  # a thread: a held loop cannot hold it
        timer.daemon = True
        timer.start()
        self._reactor.addSystemEventTrigger("after", "shutdown", self._end, timer)
        return Deferred.fromCoroutine(self.leave())

    async def leave(self) -> None:
        """The steps of the stop, each awaited; one that fails is logged and the next one follows."""
        self._stopping = True
        self.log.info("stopping; daemons keep their reports and come back")
        if self._starting is not None:
            self._starting.cancel()
        self.http.refuse()
        self.rpc.refuse()
        for name, step in (
            ("operations", lambda: Deferred.fromCoroutine(self.commands.stop(WORK_PATIENCE_S))),
            ("the fleet", lambda: self._in_time(Deferred.fromCoroutine(self.fleet.stop()))),
            ("gRPC", self.rpc.stopService),
            ("HTTP", self.http.stopService),
            ("the database", lambda: Deferred.fromCoroutine(self.database.close(WORK_PATIENCE_S))),
        ):
            try:
                await step()
            except CancelledError:
                self.log.warn("{name} did not end in time; leaving without", name=name)
            except Exception:  # noqa: BLE001 - logged; the others must stop all the same
                self.log.failure("{name} did not stop well", name=name)
        stuck = await self.threads.stop(2.0)
        if stuck:
            self.log.warn("calls still hang in {lanes}; leaving without them", lanes=", ".join(stuck))

    def _in_time(self, work: Deferred[None]) -> Deferred[None]:
        return work.addTimeout(
            WORK_PATIENCE_S, self._reactor, onTimeoutCancel=lambda result, _timeout: result
        )

    def _end(self, timer: threading.Timer) -> None:
        """After shutdown: the exit status a SystemExit in the reactor would lose."""
        timer.cancel()
        self._lock.release()
        if self.exit_status:
            self._leave_with(self.exit_status)


class _LoggedEvents:
    """The Manager keeps no events of its own: what would be one is a line of the log."""

    log = Logger()

    def publish(
        self, type: str, message: str, *, severity: Severity = Severity.INFO, agent_id: str = "",
        data: Mapping[str, Any] | None = None,
    ) -> None:
        """See :class:`daemon.interfaces.EventSink`."""
        self.log.info("{type}: {message}", type=type, message=message)
