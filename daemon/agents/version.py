"""The version of an agent's binary, asked of the binary itself."""

from __future__ import annotations

import os
import re

from twisted.logger import Logger

from daemon.agents.launch import home_of, side_command, small_environment
from daemon.agents.world import AgentWorld
from daemon.config.arguments import words_shown
from daemon.config.schema import AgentConfig
from daemon.config.secrets import text_shown
from daemon.errors import AgentStartError
from daemon.model.agent import BinaryTrial

log = Logger()

TIMEOUT_S = 10.0
OUTPUT_MAX = 64 * 1024
TRIAL_OUTPUT_MAX = 2000  # characters kept of what a binary on trial prints
_NOT_EXECUTED = frozenset({126, 127})  # setpriv(1), where it answers for the kernel; ld.so without a library
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
            agent_id=spec.id, command=" ".join(words_shown(spec.version_command)), error=str(error),
        )
        return None
    version = parse_version(result.output.decode("utf-8", "replace"))
    if not version:
        log.warn(
            "agent {agent_id}: {command} printed no version; write version_command for this binary",
            agent_id=spec.id, command=" ".join(words_shown(spec.version_command)),
        )
        return None
    return version, key


async def try_binary(world: AgentWorld, spec: AgentConfig, path: str) -> BinaryTrial | None:
    """Runs the agent's version command with ``path`` in place of its binary, as the agent's user.

    Returns:
        what came of it; None where the agent has no version command, or one that runs something else.
    """
    if spec.binary_path not in spec.version_command:
        return None
    argv = tuple(path if word == spec.binary_path else word for word in spec.version_command)
    try:
        result = await world.commands.run(
            side_command(spec, argv), env=small_environment(home_of(spec.user), world.daemon_env),
            timeout_s=TIMEOUT_S, max_output=OUTPUT_MAX, with_stderr=True,
        )
    except (OSError, AgentStartError) as error:
        cause = error.message if isinstance(error, AgentStartError) else error.strerror
        return BinaryTrial(error=cause or str(error))
    output = result.output.decode("utf-8", "replace")
    text = text_shown(output[:TRIAL_OUTPUT_MAX])
    if result.status.code in _NOT_EXECUTED:
        return BinaryTrial(error=text.strip() or f"exit code {result.status.code}", status=result.status)
    if result.truncated:  # killed by us for talking too much: it does run
        return BinaryTrial(output=text, version=parse_version(output))
    return BinaryTrial(
        status=result.status, timed_out=result.timed_out, output=text, version=parse_version(output)
    )
