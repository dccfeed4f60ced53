"""The twistd plug-in ``hostdaemon``: options and ``makeService``; the one module that knows the reactor.

It reads the configuration before anything heavy is imported: pyOpenSSL, which costs 12 MB, is kept out
where nothing needs TLS, and ``--check`` answers without a reactor.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from twisted.python import usage

import daemon

if not getattr(daemon, "HOSTDAEMON", False):  # a plain check first: the next imports would fail obscurely
    raise SystemExit(
        "hostdaemon: the package 'daemon' found here is python-daemon's; "
        "install hostdaemon in a virtual environment without it (pip uninstall python-daemon)"
    )

from daemon import __version__, faults
from daemon.config.check import missing_files
from daemon.config.load import LoadedConfig, load
from daemon.config.places import DEFAULT_PATH
from daemon.config.schema import Config, LogFormat, LogLevel
from daemon.config.tls import needs_tls
from daemon.errors import ConfigValidateError, DaemonError

if TYPE_CHECKING:
    from daemon.app import HostDaemon
    from daemon.updater.selfupdate.handing_over import Invocation

TAP_CFG = (Path("tap.cfg"), Path("/etc/hostdaemon/tap.cfg"))
SECTION = "hostdaemon"
_DEFAULTS = {
    "config": str(DEFAULT_PATH), "log_level": "daemon.log_level", "log_format": "daemon.log_format",
    "log_file": "daemon.log_file",
}


class Options(usage.Options):
    """Options of ``twistd hostdaemon``. The command line wins over tap.cfg, that over the configuration."""

    synopsis = "[options]"
    longdesc = (
        "Keeps telemetry agents alive and healthy, collects host metrics, takes heartbeats. "
        "Defaults of these options come from the section [hostdaemon] of tap.cfg in the working "
        "directory, then of /etc/hostdaemon/tap.cfg."
    )
    optParameters = [
        ["config", "c", None, f"the configuration file (default: {DEFAULT_PATH})"],
        ["log-level", "l", None, "debug, info, warn or error (default: daemon.log_level of the config)"],
        ["log-format", "f", None, "auto, text or json (default: daemon.log_format of the configuration)"],
        ["log-file", "L", None, "'-' for stderr, or a path (default: daemon.log_file of the configuration)"],
    ]
    optFlags = [
        ["check", None, "check the configuration and exit: status 0 good, 1 not (default: off)"],
    ]

    def opt_version(self) -> NoReturn:
        """Display the version of hostdaemon and exit."""
        print(f"hostdaemon {__version__}")
        raise SystemExit(0)

    def postOptions(self) -> None:
        """Fills in what the command line left open."""
        if self.parent is not None:
            # twistd would find its own pid in its file after an exec of ourselves and refuse to start;
            # the lock in work_dir is what holds a second daemon off.
            self.parent["pidfile"] = None
        try:
            found = read_tap_cfg(TAP_CFG)
        except (OSError, ValueError) as error:
            raise usage.UsageError(f"tap.cfg: {error}") from error
        for name in ("config", "log-level", "log-format", "log-file"):
            if self[name] is None:
                self[name] = found.get(name.replace("-", "_"))
        self["config"] = self["config"] or str(DEFAULT_PATH)
        if self["log-file"] is None and self.parent is not None:
            self["log-file"] = self.parent.get("logfile")  # twistd's own option says the same thing
        _one_of(self["log-level"], LogLevel, "--log-level")
        _one_of(self["log-format"], LogFormat, "--log-format")


def _one_of(value: str | None, kind: type[LogLevel] | type[LogFormat], name: str) -> None:
    if value is not None and value not in [str(each.value) for each in kind]:
        raise usage.UsageError(f"{name} must be one of {', '.join(e.value for e in kind)}, not {value!r}")


def read_tap_cfg(candidates: tuple[Path, ...]) -> dict[str, str]:
    """The options in the first tap.cfg that exists; paths in it are relative to it.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no INI file, or names an option that does not exist.
    """
    for path in candidates:
        if not path.is_file():
            continue
        import configparser  # only where there is a tap.cfg

        parser = configparser.ConfigParser(interpolation=None)
        try:
            parser.read_string(path.read_text(encoding="utf-8"), str(path))
        except configparser.Error as error:
            raise ValueError(str(error)) from error
        if not parser.has_section(SECTION):
            return {}
        found = {name.replace("-", "_"): value for name, value in parser.items(SECTION)}
        unknown = sorted(set(found) - set(_DEFAULTS))
        if unknown:
            raise ValueError(f"{path}: unknown option {unknown[0]!r}; known are {', '.join(_DEFAULTS)}")
        for name in ("config", "log_file"):
            if found.get(name, "-") not in ("-", ""):
                found[name] = str(path.parent.absolute() / found[name])
        return found
    return {}


def ignore_alone() -> None:
    """What we ignore agents do not: an ignored signal is inherited by an exec, a handler is not (signal(7)).

    SIGHUP must not kill us until our handler stands; nohup(1) and a shell's ``&`` leave others ignored.
    SIGPIPE and SIGXFSZ are Python's own, which ``subprocess`` restores in children.
    """
    for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:
        if number == signal.SIGHUP or signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda _number, _frame: None)


def makeService(options: Options) -> HostDaemon:
    """Makes the service tree; starts no thread, server or agent, for twistd may fork after it.

    Raises:
        SystemExit: 1 with one line per fault on stderr; with ``--check`` 0 or 1.
    """
    ignore_alone()
    try:
        faults.arm(os.environ)
        loaded = load(Path(options["config"]))
    except ValueError as error:
        _refuse([str(error)])
    except DaemonError as error:
        _refuse(_lines(error))
    if options["check"]:
        _check(loaded)
    if not needs_tls(loaded.config) and "OpenSSL" not in sys.modules:
        sys.modules["OpenSSL"] = None  # type: ignore[assignment]  # None: imports of it fail, Twisted does without
    os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"  # before grpc is imported, whoever imports it
    try:
        return _make(loaded, options)
    except DaemonError as error:
        _refuse(_lines(error))


def _make(loaded: LoadedConfig, options: Options) -> HostDaemon:
    from twisted.internet import reactor as global_reactor

    from daemon.aio.logsink import LogSink, LogStream, is_terminal, open_log_stream
    from daemon.durable.lock import DirectoryLock
    from daemon.durable.workdir import WorkDir
    from daemon.logs.own import RotatingStream
    from daemon.updater.selfupdate.handing_over import inherited_lock

    reactor: Any = global_reactor
    # Twisted's timers go by wall time; a clock that is set must neither hold nor hurry anything.
    reactor.seconds = time.monotonic
    config: Config = loaded.config
    paths = WorkDir(Path(config.daemon.work_dir))
    paths.make()
    lock = DirectoryLock(paths.root)
    # Left open by the version before us, which became us by an exec.
    inherited = inherited_lock(os.environ)
    lock.acquire(inherited)
    if inherited is not None and lock.fd != inherited:
        with suppress(OSError):  # not open at all
            os.close(inherited)  # of another work_dir, which would stay locked
    log_file = config.daemon.log_file if options["log-file"] is None else options["log-file"]
    if log_file in ("", "-") and options.parent is not None and not options.parent.get("nodaemon"):
        print(
            "hostdaemon: the log goes to stderr, which a daemonised twistd does not have; "
            "write daemon.log_file or use twistd -n",
            file=sys.stderr,
        )
    if log_file in ("", "-"):
        stream: LogStream = open_log_stream("", "daemon.log_file")
    else:
        stream = RotatingStream(Path(log_file), "daemon.log_file")
    log_format = LogFormat(options["log-format"] or config.daemon.log_format)
    in_json = log_format is LogFormat.JSON or (log_format is LogFormat.AUTO and not is_terminal(stream))
    if log_format is LogFormat.AUTO and log_file in ("", "-"):
        in_json = False  # stderr is read by people, or by a journal that adds its own fields
    level = options["log-level"]
    sink = LogSink(
        level or config.daemon.log_level.value, in_json, stream, pinned=bool(level),
        journal=os.environ.get("JOURNAL_STREAM", ""),
    )

    from daemon.app import HostDaemon

    return HostDaemon(loaded, reactor, sink, lock, invocation_of(options, log_file))


def invocation_of(options: Options, log_file: str) -> Invocation:
    """How this process was started, for its successor after an update; a relative path would mean another
    file where twistd has changed its directory."""
    from daemon.updater.selfupdate.handing_over import Invocation

    ours: list[str] = []
    for name in ("config", "log-level", "log-format", "log-file"):
        value = options[name]
        if value is not None:
            path = name in ("config", "log-file") and value not in ("", "-")
            ours += [f"--{name}={Path(value).absolute() if path else value}"]
    reactor = options.parent.get("reactor") if options.parent is not None else None
    return Invocation(
        twistd=(f"--reactor={reactor}",) if reactor else (), options=tuple(ours),
        log_file="" if log_file in ("", "-") else str(Path(log_file).absolute()),
    )


def _check(loaded: LoadedConfig) -> NoReturn:
    """``--check``: everything ``load`` found, and what is missing on this host."""
    missing = missing_files(loaded)
    for warning in loaded.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if missing:
        _refuse([f"D1002 {fault}" for fault in missing])
    print(f"{loaded.path}: good; {len(loaded.config.agents)} agents")
    raise SystemExit(0)


def _lines(error: DaemonError) -> list[str]:
    """One line for each fault."""
    found = error.details.get("faults")
    if isinstance(error, ConfigValidateError) and isinstance(found, tuple) and found:
        return [f"{error.code.value} {fault}" for fault in found]
    return [str(error)]


def _refuse(lines: list[str]) -> NoReturn:
    from daemon.aio.logsink import fault_line

    journal = os.environ.get("JOURNAL_STREAM", "")
    for line in lines:
        print(fault_line(f"hostdaemon: {line}", sys.stderr, journal), file=sys.stderr)
    raise SystemExit(1)
