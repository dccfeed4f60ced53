"""The probes: an HTTP endpoint, a TCP port, a command. Each comes to an empty text, or says what failed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from twisted.internet.defer import CancelledError

from daemon.aio.command import CommandRunner
from daemon.aio.reactor import Clock
from daemon.config.schema import AgentConfig, HealthCheckConfig
from daemon.config.secrets import text_shown, url_shown
from daemon.errors import DaemonError
from daemon.httpclient import HttpError, Overdue, by_deadline, explain

OUTPUT_MAX = 16 * 1024
SHOWN_MAX = 200  # characters of a command's last line
_LOOKED_AT = 4096  # characters of it in which secrets are looked for


class Asker(Protocol):
    """Asks an HTTP endpoint; :class:`daemon.httpclient.HttpClient` is the real one."""

    async def status(self, url: str, timeout_s: float) -> int:
        """The status of a GET.

        Raises:
            HttpError: no answer came.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeCommand:
    """A command probe, ready to be run as the agent's user."""

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Probes:
    """What probes are made with.

    Attributes:
        http: asks endpoints.
        connect: connects to host and port, each attempt within seconds, and hangs up; raises what failed.
        commands: runs commands.
        command_of: an agent's command probe; raises DaemonError where its user is unknown.
    """

    http: Asker
    connect: Callable[[str, int, float], Awaitable[None]]
    commands: CommandRunner
    command_of: Callable[[AgentConfig], ProbeCommand]

    async def run(self, kind: str, spec: AgentConfig, clock: Clock) -> str:
        """Makes one probe; what went wrong, or an empty text. ``clock`` keeps its deadline."""
        check = spec.health_check
        if kind == "http":
            return await self._http(check)
        if kind == "tcp":
            return await self._tcp(check, clock)
        return await self._command(spec)

    async def _http(self, check: HealthCheckConfig) -> str:
        name = f"GET {url_shown(check.http_endpoint)}"
        try:
            status = await self.http.status(check.http_endpoint, check.http_timeout)
        except HttpError as error:
            return f"{name}: {error}"
        return "" if 200 <= status < 400 else f"{name}: answered {status}"

    async def _tcp(self, check: HealthCheckConfig, clock: Clock) -> str:
        host, _, port = check.tcp.rpartition(":")

        async def try_it() -> None:
            await self.connect(host.strip("[]"), int(port), check.http_timeout)

        try:
            # A name may have several addresses, each with a timeout of its own; one holds for all of them.
            await by_deadline(clock, check.http_timeout, try_it())
        except CancelledError:
            raise
        except Overdue:
            return f"tcp {check.tcp}: no connection within {check.http_timeout:g} s"
        except Exception as error:  # noqa: BLE001 - whatever a connection fails with is the result
            return f"tcp {check.tcp}: {explain(error, check.http_timeout)}"
        return ""

    async def _command(self, spec: AgentConfig) -> str:
        check = spec.health_check
        name = f"command {check.command[0]}"
        try:
            command = self.command_of(spec)
            result = await self.commands.run(
                command.argv, env=command.env, cwd=command.cwd, timeout_s=check.http_timeout,
                max_output=OUTPUT_MAX, with_stderr=True,
            )
        except DaemonError as error:
            return f"{name}: {error.message}"
        except OSError as error:
            return f"{name}: {error.strerror or error}"
        if result.timed_out:
            return f"{name}: no end within {check.http_timeout:g} s"
        if result.truncated:
            return f"{name}: it wrote more than {OUTPUT_MAX} bytes"
        if result.status.clean:
            return ""
        how = f"exit {result.status.code}" if result.status.code is not None else "killed by a signal"
        lines = result.output.decode("utf-8", "replace").strip().splitlines()
        return f"{name}: {how}" + (f": {text_shown(lines[-1][:_LOOKED_AT])[:SHOWN_MAX]}" if lines else "")


def kinds_of(check: HealthCheckConfig) -> tuple[str, ...]:
    """The probes an agent is configured with, in the order of the verdict."""
    wanted = (("http", check.http_endpoint), ("tcp", check.tcp), ("command", check.command))
    return tuple(kind for kind, value in wanted if value)
