"""The twistd plug-in ``hostmanager``: options and ``makeService``; knows the global reactor.

The configuration is read before anything heavy is imported: ``--check`` answers without a reactor.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from twisted.python import usage

from daemon import __version__
from daemon.config.schema import LogFormat
from daemon.errors import DaemonError, StorageError
from daemon.manager.load import DEFAULT_PATH, LoadedConfig, load

if TYPE_CHECKING:
    from daemon.manager.service import HostManager

WORK_DIR_MODE = 0o700


class Options(usage.Options):
    """Options of ``twistd hostmanager``."""

    synopsis = "[options]"
    longdesc = "The reference Manager: daemons register and report over gRPC, operators look over HTTP."
    optParameters = [
        ["config", "c", str(DEFAULT_PATH), "the configuration file"],
    ]
    optFlags = [
        ["check", None, "check the configuration and exit: status 0 good, 1 not"],
    ]

    def opt_version(self) -> NoReturn:
        """Display the version of hostmanager and exit."""
        print(f"hostmanager {__version__}")
        raise SystemExit(0)

    def postOptions(self) -> None:
        """The lock in work_dir holds a second Manager off; twistd's pid file would hold off a daemon."""
        if self.parent is not None and self.parent.get("pidfile") == "twistd.pid":
            self.parent["pidfile"] = None


def makeService(options: Options) -> HostManager:
    """Makes the service tree; starts nothing, for twistd may fork after it.

    Raises:
        SystemExit: 1 with one line per fault on stderr; with ``--check`` 0 or 1.
    """
    # SIGHUP (a terminal that closes) must not end the Manager; the service takes it once the reactor runs.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        loaded = load(Path(options["config"]))
        if options["check"]:
            for warning in loaded.warnings:
                print(f"warning: {warning}", file=sys.stderr)
            print(f"{loaded.path}: good")
            raise SystemExit(0)
        return _make(loaded, options)
    except DaemonError as error:
        found = error.details.get("faults")
        faults = found if isinstance(found, tuple) else (error.message,)
        lines = [f"{error.code.value} {fault}" for fault in faults]
    from daemon.aio.logsink import fault_line

    journal = os.environ.get("JOURNAL_STREAM", "")
    for line in lines:
        print(fault_line(f"hostmanager: {line}", sys.stderr, journal), file=sys.stderr)
    raise SystemExit(1)


def _make(loaded: LoadedConfig, options: Options) -> HostManager:
    from twisted.internet import reactor as global_reactor

    from daemon.aio.logsink import LogSink, LogStream, is_terminal, open_log_stream
    from daemon.durable.lock import DirectoryLock
    from daemon.logs.own import RotatingStream
    from daemon.manager.service import HostManager

    reactor: Any = global_reactor
    # Twisted's timers go by wall time; a clock that is set must neither hold nor hurry anything.
    reactor.seconds = time.monotonic
    config = loaded.config
    work_dir = Path(config.work_dir)
    _make_work_dir(work_dir)
    lock = DirectoryLock(work_dir)
    lock.acquire()
    if not config.log_file and options.parent is not None and not options.parent.get("nodaemon"):
        print(
            "hostmanager: the log goes to stderr, which a daemonised twistd does not have; "
            "write manager.log_file or use twistd -n",
            file=sys.stderr,
        )
    stream: LogStream
    if config.log_file:
        stream = RotatingStream(Path(config.log_file), "manager.log_file")
    else:
        stream = open_log_stream("", "manager.log_file")
    in_json = config.log_format is LogFormat.JSON or (
        config.log_format is LogFormat.AUTO and bool(config.log_file) and not is_terminal(stream)
    )
    sink = LogSink(
        config.log_level.value, in_json, stream, journal=os.environ.get("JOURNAL_STREAM", "")
    )
    service = HostManager(loaded, reactor, sink, lock)
    reactor.callWhenRunning(service.take_signals)
    return service


def _make_work_dir(path: Path) -> None:
    """Ours alone: the token and every node's facts are in it.

    Raises:
        StorageError: it cannot be made or set to its mode.
    """
    try:
        path.mkdir(mode=WORK_DIR_MODE, parents=True, exist_ok=True)
        path.chmod(WORK_DIR_MODE)
    except OSError as error:
        raise StorageError(
            f"{path} cannot be made or set to mode {WORK_DIR_MODE:o}: {error.strerror}; "
            "let the Manager's user own manager.work_dir, or choose another"
        ) from error
