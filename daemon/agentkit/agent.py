"""The whole of hostagent: heartbeats, page, reload, and the order of its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, BinaryIO, Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from daemon.agentkit.channel import UnixReactor
from daemon.agentkit.config import AgentConfig, LogConfig
from daemon.agentkit.http import AgentSite, HttpListener, TcpReactor
from daemon.agentkit.sender import HeartbeatSender, SenderSettings
from daemon.agentkit.usage import OwnUsage
from daemon.agentkit.views import (
    Extra,
    HealthView,
    MetricsView,
    ReloadView,
    is_healthy,
    prometheus_text,
)
from daemon.aio.reactor import ThreadReactor
from daemon.aio.threads import LaneBusy, LaneTimeout, Threads
from daemon.errors import ConfigValidateError, DaemonError
from daemon.interfaces import WallClock
from daemon.model.moment import rfc3339

log = Logger()

RELOAD_DEADLINE_S = 10.0  # for reading the file; its disk may hang


class AgentReactor(UnixReactor, TcpReactor, ThreadReactor, Protocol):
    """All that hostagent needs of a reactor."""


class LogSettings(Protocol):
    """The log, as far as a reload changes it."""

    def apply(self, level: str, json: bool, stream: BinaryIO) -> None:
        """Another level, format and stream from now on."""
        ...


def sender_settings(config: AgentConfig) -> SenderSettings:
    """The part of the configuration that is the sender's."""
    return SenderSettings(
        socket_path=config.heartbeat.socket_path,
        url=config.heartbeat.url,
        interval_s=config.heartbeat.interval_s,
        agent_id=config.agent_id,
        version=config.version,
    )


class Agent:
    """One agent.

    Args:
        reactor: time, Unix sockets and ports.
        wall: Unix time.
        config: the configuration to begin with.
        load: reads the configuration anew; blocks, raises DaemonError.
        threads: where ``load`` runs.
        log_sink: the log; None where the log is not ours (twistd's own).
        open_log: opens the log's stream, raises StorageError; runs on ``threads`` too.
        sender: parts of the sender to replace (``channels``, ``pid``, ``usage``, ``random_unit``).
    """

    def __init__(
        self,
        reactor: AgentReactor,
        wall: WallClock,
        config: AgentConfig,
        *,
        load: Callable[[], AgentConfig],
        threads: Threads,
        log_sink: LogSettings | None = None,
        open_log: Callable[[LogConfig], BinaryIO] | None = None,
        **sender: Any,
    ) -> None:
        self.config = config
        self._reactor = reactor
        self._wall = wall
        self._load = load
        self._threads = threads
        self._log_sink = log_sink
        self._open_log = open_log
        sender.setdefault("usage", OwnUsage(reactor))
        self.sender = HeartbeatSender(reactor, wall, sender_settings(config), **sender)
        self.listener = HttpListener(
            reactor, AgentSite(reactor, wall, self), config.http.host, config.http.port
        )
        self._started_at = reactor.seconds()
        self._started_wall = wall()
        self._reloaded_at: str | None = None
        self._tls_ready = config.needs_tls
        self._stopping = False

    def start(self) -> None:
        """The first heartbeat, then the page."""
        self.sender.start()
        self.listener.start()

    async def stop(self) -> None:
        """``stopping`` first, a second at most; then the page closes."""
        self._stopping = True
        log.info("the agent ends after {uptime_s} s", uptime_s=self._uptime_s)
        await self.sender.stop()
        await self.listener.stop()

    def _last_heartbeat(self) -> str | None:
        at = self.sender.stats.last_delivered_at
        return None if at is None else rfc3339(at)

    @property
    def _healthy(self) -> bool:
        return is_healthy(self.sender.stats.silent_s, self.config.heartbeat.interval_s)

    @property
    def _uptime_s(self) -> float:
        return round(self._reactor.seconds() - self._started_at, 3)

    def health(self) -> HealthView:
        """See :class:`~daemon.agentkit.http.Page`."""
        return HealthView(
            status="healthy" if self._healthy else "unhealthy",
            uptime=self._uptime_s,
            last_heartbeat=self._last_heartbeat(),
            agent_id=self.config.agent_id,
        )

    def metrics(self) -> MetricsView:
        """See :class:`~daemon.agentkit.http.Page`; CPU and memory are those of the last heartbeat."""
        stats, own = self.sender.stats, self.sender.usage.last
        return MetricsView(
            agent_id=self.config.agent_id,
            version=self.config.version,
            uptime=self._uptime_s,
            heartbeat_count=stats.delivered_total,
            heartbeat_failures=stats.failures_total,
            last_heartbeat=self._last_heartbeat(),
            cpu_percent=round(own.cpu_percent, 2),
            memory_bytes=own.rss_bytes,
            status=self.sender.status,
        )

    def metrics_text(self) -> str:
        """See :class:`~daemon.agentkit.http.Page`."""
        stats = self.sender.stats
        extra = Extra(
            healthy=self._healthy,
            skipped_total=stats.skipped_total,
            cpu_seconds_total=self.sender.usage.last.cpu_seconds_total,
            last_heartbeat_at=stats.last_delivered_at,
            started_at=self._started_wall,
        )
        return prometheus_text(self.metrics(), extra)

    def reload(self) -> Deferred[ReloadView]:
        """Reads the configuration anew and applies all of it, or nothing and says why. Never fails."""
        return Deferred.fromCoroutine(self._reload())

    async def _reload(self) -> ReloadView:
        try:
            fresh, stream = await self._threads.run("config", RELOAD_DEADLINE_S, self._read)
            try:
                self._apply(fresh, stream)
            except BaseException:
                if stream is not None:
                    stream.close()
                raise
        except DaemonError as error:
            log.warn("reload refused, the configuration stays: {error}",
                     error=str(error), error_code=error.code.value)
            return ReloadView(success=False, message=str(error), reloaded_at=self._reloaded_at)
        except (LaneBusy, LaneTimeout) as error:
            message = f"the configuration could not be read ({error}); look at its disk"
            log.warn("reload refused, the configuration stays: {error}", error=message)
            return ReloadView(success=False, message=message, reloaded_at=self._reloaded_at)
        except Exception:  # noqa: BLE001 - logged; the client learns that it failed
            log.failure("reload failed, the configuration stays")
            return ReloadView(success=False, message="internal error, see the agent's log",
                              reloaded_at=self._reloaded_at)
        self._reloaded_at = rfc3339(self._wall())
        log.info("configuration reloaded", agent_id=fresh.agent_id)
        return ReloadView(success=True, message="configuration reloaded", reloaded_at=self._reloaded_at)

    def _read(self) -> tuple[AgentConfig, BinaryIO | None]:
        """On a thread: the new configuration and, where the log is ours, its stream opened anew."""
        fresh = self._load()
        return fresh, None if self._open_log is None else self._open_log(fresh.log)

    def _apply(self, fresh: AgentConfig, stream: BinaryIO | None) -> None:
        """Takes the new configuration; what can be refused comes first.

        Raises:
            ConfigValidateError: it needs TLS, which is not loaded, or the agent is about to end.
            ListenError: the new port cannot be had.
        """
        if self._stopping:
            raise ConfigValidateError("the agent is stopping; its next start reads the file anyway")
        if fresh.needs_tls and not self._tls_ready:
            raise ConfigValidateError("heartbeat.url: the change to https needs a restart of the agent")
        self.listener.move(fresh.http.host, fresh.http.port)
        if self._log_sink is not None and stream is not None:
            self._log_sink.apply(fresh.log.level, fresh.log.format == "json", stream)
        self.config = fresh
        self.sender.reconfigure(sender_settings(fresh))
