"""The program hostagent: by itself (:func:`main`) or under twistd (:class:`Options`, :func:`makeService`).

The only module here that knows the global reactor. The configuration is read before Twisted's network
part is loaded: without an https URL pyOpenSSL is kept out, which saves 12 MB and a third of the start.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

from twisted.python import usage

from daemon import __version__
from daemon.agentkit.config import DEFAULT_PATH, KEYS, AgentConfig, load_config
from daemon.errors import DaemonError

if TYPE_CHECKING:
    from daemon.agentkit.service import AgentService
    from daemon.aio.logsink import LogSink

LEAVE_S = 3.0  # a name server that hangs may hold a thread of the reactor; the exit does not wait longer

_twistd_sink: LogSink | None = None  # from makeService to twistd's logger, which takes no arguments


def _keys_help() -> str:
    rows = [f"  {key.path:22} {key.variable:28} {key.text or key.default}" for key in KEYS]
    return "\n".join([
        "keys of the file, the variables that beat them, and the defaults:", *rows,
        "",
        "Where neither says anything, HOSTDAEMON_SOCKET (socket_path) and HOSTDAEMON_AGENT_ID (agent_id)",
        "are used, which the daemon sets for the agents it starts. SIGHUP or POST /reload reads the file",
        "anew.",
    ])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hostagent",
        description="Sends heartbeats to a hostdaemon and serves /health, /metrics and /reload.",
        epilog=_keys_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config", "-config", metavar="PATH", type=Path,
        help=f"the configuration (default: {DEFAULT_PATH} where it exists, else built-in defaults)",
    )
    parser.add_argument(
        "--check", action="store_true", help="check the configuration and exit (status 0: good, 1: not)"
    )
    parser.add_argument("--version", action="version", version=f"hostagent {__version__}")
    return parser


class Options(usage.Options):
    """Options of ``twistd hostagent``."""

    synopsis = "[options]"
    longdesc = "Sends heartbeats to a hostdaemon and serves /health, /metrics and /reload."
    optParameters = [
        ["config", "c", None, f"the configuration (default: {DEFAULT_PATH} where it exists)"],
    ]

    def postOptions(self) -> None:
        """Two agents may share a directory: no pid file unless asked. In the foreground the log is ours."""
        parent: Any = self.parent
        if parent is None:
            return
        if parent.get("pidfile") == "twistd.pid":
            parent["pidfile"] = None
        chosen = parent.get("logger") or parent.get("logfile") or parent.get("syslog")
        if parent.get("nodaemon") and not chosen:
            parent["logger"] = f"{__name__}.log_observer"


def log_observer() -> LogSink:
    """The log under ``twistd -n``; named in its options, called once makeService has run."""
    if _twistd_sink is None:
        raise RuntimeError("twistd asked for the log before the service was made")
    return _twistd_sink


def _keep_tls_out(config: AgentConfig) -> None:
    """Without https nothing needs pyOpenSSL, but Twisted loads it where it can; too late is no harm."""
    if not config.needs_tls and "OpenSSL" not in sys.modules:
        sys.modules["OpenSSL"] = None  # type: ignore[assignment]  # None: an import fails (import system docs)


def _make(config: AgentConfig, load: Callable[[], AgentConfig], sink: LogSink | None) -> AgentService:
    """The service on the global reactor."""
    from twisted.internet import reactor as global_reactor

    from daemon.agentkit.agent import Agent
    from daemon.agentkit.logs import open_stream
    from daemon.agentkit.service import AgentService
    from daemon.aio.threads import ThreadLanes

    reactor: Any = global_reactor
    if not reactor.getDelayedCalls():
        # Twisted's timers go by wall time; a clock that is set must neither hold heartbeats nor hurry them.
        reactor.seconds = time.monotonic
    lanes = ThreadLanes(reactor)
    agent = Agent(
        reactor, time.time, config, load=load, threads=lanes, log_sink=sink,
        open_log=open_stream if sink is not None else None,
    )

    def hang_up(_number: int, _frame: object) -> None:
        reactor.callFromThread(agent.reload)

    reactor.callWhenRunning(signal.signal, signal.SIGHUP, hang_up)
    return AgentService(agent, lanes)


def makeService(options: Options) -> AgentService:
    """For twistd.

    Raises:
        SystemExit: with one line, when the configuration is refused.
    """
    global _twistd_sink
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until our handler stands
    path = Path(options["config"]).absolute() if options["config"] else None

    def load() -> AgentConfig:
        return load_config(path, os.environ)

    try:
        config = load()
        _keep_tls_out(config)
        if options.parent is not None and options.parent.get("logger") is log_observer:
            from daemon.agentkit.logs import make_sink, open_stream

            _twistd_sink = make_sink(config.log, open_stream(config.log))
    except DaemonError as error:
        raise SystemExit(f"hostagent: {error}") from None
    return _make(config, load, _twistd_sink)


def _run(config: AgentConfig, load: Callable[[], AgentConfig]) -> int:
    """Runs until SIGTERM or SIGINT; returns the exit status."""
    _keep_tls_out(config)
    from twisted.internet import reactor as global_reactor
    from twisted.logger import globalLogBeginner

    from daemon.agentkit.logs import make_sink, open_stream

    sink = make_sink(config.log, open_stream(config.log))
    globalLogBeginner.beginLoggingTo([cast(Any, sink)], redirectStandardIO=False, discardBuffer=True)
    reactor: Any = global_reactor
    service = _make(config, load, sink)
    reactor.callWhenRunning(service.startService)
    reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
    reactor.addSystemEventTrigger("before", "shutdown", _leave_in_time)
    reactor.run()
    return 0


def _leave_in_time() -> None:
    """The end has begun: a thread that hangs in a name server may not put it off for long."""
    timer = threading.Timer(LEAVE_S, os._exit, (0,))
    timer.daemon = True
    timer.start()


def main(argv: list[str] | None = None) -> NoReturn:
    """The console script.

    Raises:
        SystemExit: 0 after a graceful end, 1 for a fault (one line with its D-code), 2 for wrong usage.
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    arguments = _parser().parse_args(argv)
    path: Path | None = arguments.config.absolute() if arguments.config is not None else None

    def load() -> AgentConfig:
        return load_config(path, os.environ)

    try:
        config = load()
        if arguments.check:
            target = config.heartbeat.url or config.heartbeat.socket_path
            interval = f"{config.heartbeat.interval_s:g} s"
            print(f"the configuration is good: heartbeats every {interval} to {target}")
            status = 0
        else:
            status = _run(config, load)
    except DaemonError as error:
        print(f"hostagent: {error}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        status = 0  # before the reactor's own handler stood
    raise SystemExit(status)


if __name__ == "__main__":
    main()
