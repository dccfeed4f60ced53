"""What is kept of agents beyond their state: what they use of the host, their logs, and alerts."""

from __future__ import annotations

from collections.abc import Sequence

from daemon.agents.registry import AgentRegistry
from daemon.alerts.book import AlertBook
from daemon.errors import RequestError, RequestFault
from daemon.logs.following import LogFollower
from daemon.logs.manager import LogManager
from daemon.model.alert import Alert
from daemon.model.usage import HostPoint, Usage, UsagePoint
from daemon.resources.host import HostHistory
from daemon.resources.monitor import ResourceMonitor

DEFAULT_DURATION_S = 3600
DURATION_MAX_S = 366 * 86400
LINES_DEFAULT = 100
LINES_MAX = 10_000
GREP_MAX = 256  # characters


class Records:
    """Asked by the edges; every method knows agents by id and refuses unknown ones.

    Args:
        registry: which agents there are.
        resources: their history.
        host: the host's.
        logs: their logs.
        alerts: the one list.
    """

    def __init__(
        self, registry: AgentRegistry, resources: ResourceMonitor, host: HostHistory, logs: LogManager,
        alerts: AlertBook,
    ) -> None:
        self._registry = registry
        self._resources = resources
        self._host = host
        self._logs = logs
        self._alerts = alerts

    async def usage(self, agent_id: str, duration_s: int = 0, step_s: int = 0) -> tuple[UsagePoint, ...]:
        """Like :meth:`history`, all points at once."""
        return tuple(await self.history(agent_id, duration_s, step_s))

    async def history(
        self, agent_id: str, duration_s: int = 0, step_s: int = 0
    ) -> Sequence[UsagePoint]:
        """What an agent used in the last ``duration_s`` seconds, oldest first; points may be made one by one.

        Args:
            agent_id: the agent.
            duration_s: 0 means an hour.
            step_s: seconds that make one point (average, min, max); 0 gives the samples as they are.

        Raises:
            RequestError: unknown agent, or a number out of range.
            StorageError: the history cannot be read.
        """
        self._registry.get(agent_id)
        _check_span(duration_s, step_s)
        return await self._resources.query(agent_id, duration_s or DEFAULT_DURATION_S, step_s)

    async def host_history(self, duration_s: int = 0, step_s: int = 0) -> Sequence[HostPoint]:
        """What the host did in the last ``duration_s`` seconds, oldest first; the arguments as for an agent.

        Raises:
            RequestError: a number out of range.
            StorageError: the history cannot be read.
        """
        _check_span(duration_s, step_s)
        return await self._host.query(duration_s or DEFAULT_DURATION_S, step_s)

    async def log_lines(self, agent_id: str, lines: int = LINES_DEFAULT, grep: str = "") -> tuple[bytes, ...]:
        """The last lines of an agent's log, rotated and compressed files included, oldest first.

        Raises:
            RequestError: unknown agent, or a number out of range.
            StorageError: the log cannot be read.
        """
        self._check_lines(agent_id, lines, grep)
        return await self._logs.tail(agent_id, lines, grep)

    def follow_log(self, agent_id: str, lines: int = LINES_DEFAULT, grep: str = "") -> LogFollower:
        """The last lines, then every new one exactly once; the caller closes it.

        Raises:
            RequestError: unknown agent, or a number out of range.
        """
        self._check_lines(agent_id, lines, grep)
        return self._logs.follow(agent_id, lines, grep)

    def _check_lines(self, agent_id: str, lines: int, grep: str) -> None:
        self._registry.get(agent_id)
        if not 0 <= lines <= LINES_MAX:
            raise RequestError(RequestFault.INVALID, f"lines must be from 0 to {LINES_MAX}, not {lines}")
        if len(grep) > GREP_MAX:
            raise RequestError(RequestFault.INVALID, f"grep has {GREP_MAX} characters at most")

    def latest(self, agent_id: str) -> Usage | None:
        """The newest measurement of an agent's present process, None before the first."""
        return self._resources.latest(agent_id)

    def cpu_seconds_total(self, agent_id: str) -> float | None:
        """CPU time of all processes of an agent that were measured, None before the first sample."""
        return self._resources.cpu_seconds_total(agent_id)

    def standing(self) -> tuple[Alert, ...]:
        """The alerts that stand."""
        return self._alerts.standing()

    def alerts(self) -> tuple[Alert, ...]:
        """Alerts that stand, then those that were cleared lately; the newest first."""
        return self._alerts.list()


def _check_span(duration_s: int, step_s: int) -> None:
    for name, value in (("duration", duration_s), ("step", step_s)):
        if not 0 <= value <= DURATION_MAX_S:
            raise RequestError(
                RequestFault.INVALID, f"{name} must be from 0 to {DURATION_MAX_S} seconds, not {value}"
            )
