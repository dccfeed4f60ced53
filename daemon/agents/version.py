"""The version of an agent's binary, asked of the binary itself."""

from __future__ import annotations

import os
import re

from twisted.logger import Logger

from daemon.agents.launch import home_of, side_command, small_environment
from daemon.agents.world import AgentWorld
from daemon.config.schema import AgentConfig
from daemon.errors import AgentStartError

log = Logger()

TIMEOUT_S = 10.0
OUTPUT_MAX = 64 * 1024
_VERSION = re.compile(r"(?<![\w.])v?([0-9]+\.[0-9]+(?:\.[0-9]+)*(?:[-+~][0-9A-Za-z.+~-]+)?)")


def parse_version(output: str) -> str:
    """The first thing that looks like a version (``1.2``, ``8.11.3``, ``1.0.0-SNAPSHOT``), or empty."""
    found = _VERSION.search(output)
    return found.group(1).rstrip(".+~-") if found is not None else ""


def version_key(path: str) -> str:
    """What changes when the binary does; empty when there is none."""
    try:
        found = os.stat(path)  # noqa: PTH116 - four of its numbers are wanted
    except OSError:
        return ""
    return f"{found.st_dev}:{found.st_ino}:{found.st_size}:{found.st_mtime_ns}"


async def detect_version(world: AgentWorld, spec: AgentConfig, known_key: str) -> tuple[str, str] | None:
    """Asks the binary, unless it is still the one with ``known_key``.

    Returns:
        version and key, or None when nothing is known or new.
    """
    key = version_key(spec.binary_path)
    if not key or key == known_key:
        return None
    try:
        result = await world.commands.run(
            side_command(spec, spec.version_command),
            env=small_environment(home_of(spec.user), world.daemon_env),
            timeout_s=TIMEOUT_S,
            max_output=OUTPUT_MAX,
            with_stderr=True,
        )
    except (OSError, AgentStartError) as error:
        log.warn(
            "agent {agent_id}: its version cannot be asked ({command}): {error}",
            agent_id=spec.id, command=" ".join(spec.version_command), error=str(error),
        )
        return None
    version = parse_version(result.output.decode("utf-8", "replace"))
    if not version:
        log.warn(
            "agent {agent_id}: {command} printed no version; write version_command for this binary",
            agent_id=spec.id, command=" ".join(spec.version_command),
        )
        return None
    return version, key
