"""One spawn of an agent: log file, environment, process, and what is remembered of it."""

from __future__ import annotations

import os
from collections.abc import Callable

import msgspec
from twisted.logger import Logger

from daemon import faults
from daemon.agents.launch import build_launch, check_launch
from daemon.agents.logfile import log_path, open_log
from daemon.agents.metadata import AgentMetadata
from daemon.agents.process import AgentProcess, ProcessOwner
from daemon.agents.world import AgentWorld
from daemon.aio.process import Command
from daemon.config.schema import AgentConfig
from daemon.errors import AgentStartError

log = Logger()

RUN_HASH_DIGITS = 16
LEADER_TICKS = 5  # from the token to the fork, on a busy host


def make_run(token: str, ticks: int, spec_hash: str) -> str:
    """A spawn's token: random, and says when and with which configuration it was started."""
    return f"{token[:16]}-{ticks:x}-{spec_hash[:RUN_HASH_DIGITS]}"


def started_with(run: str, spec_hash: str) -> bool:
    """Whether the spawn that made ``run`` had the configuration with that hash."""
    return run.rpartition("-")[2] == spec_hash[:RUN_HASH_DIGITS]


def may_lead(run: str, start_ticks: int) -> bool:
    """Whether a process with that start time can be the one the spawn itself made.

    Its children carry the same run but begin later; a tick is 10 ms, and fork follows the token at once.
    """
    fields = run.split("-")
    try:
        spawned_ticks = int(fields[1], 16) if len(fields) == 3 else 0
    except ValueError:
        return False
    return 0 <= start_ticks - spawned_ticks <= LEADER_TICKS


def spawn(
    world: AgentWorld, owner: ProcessOwner, spec: AgentConfig, spec_hash: str, metadata: AgentMetadata
) -> tuple[AgentProcess, AgentMetadata]:
    """Starts the agent's process.

    Returns:
        the process under watch, and the metadata that remembers it (not saved yet).

    Raises:
        AgentStartError: D3001, with the cause and the next step.
    """
    try:
        check_launch(spec)  # before the token: what is slow here must not part it from the fork
        log_fd = open_log(log_path(world.logs_dir, spec.id))
        try:
            faults.hit("agent.spawn")
            run = make_run(world.new_token(), world.boot_ticks(), spec_hash)
            launch = build_launch(
                spec, daemon_env=world.daemon_env, socket=world.socket_path, mark=metadata.mark, run=run
            )
            process = AgentProcess(
                owner, run=run, spec_hash=spec_hash, started_mono=world.clock.seconds(), adopted=False
            )
            command = Command(
                argv=launch.argv, env=launch.env, cwd=launch.cwd,
                stdout=log_fd, stderr=log_fd, umask=launch.umask,
            )
            process.attach(world.launcher.spawn(process, command))
        finally:
            os.close(log_fd)
    except AgentStartError:
        raise
    except Exception as error:
        if not isinstance(error, OSError):  # a fault of ours, which must not leave the agent as it is
            log.failure("agent {agent_id}: spawn", agent_id=spec.id)
        raise AgentStartError(
            f"{spec.binary_path} cannot be started: {getattr(error, 'strerror', None) or error}; "
            "run it by hand as the daemon's user to see why",
            errno=getattr(error, "errno", None),
        ) from error
    faults.hit("agent.spawned")
    now = world.wall()
    return process, msgspec.structs.replace(
        metadata,
        type=spec.type.value,
        run=run,
        identity=process.identity,
        spec_hash=spec_hash,
        stop_signal=spec.stop_signal,
        stop_timeout=spec.stop_timeout,
        started_at=now,
        updated_at=now,
        next_try_mono=None,
        gave_up=False,
        settled=False,
        restarting=False,
        boot_id=world.boot_id,
    )


def log_owner_test(world: AgentWorld, agent_id: str) -> Callable[[int], bool]:
    """A test whether a pid has both its streams on the agent's log as it is now."""
    try:
        found = log_path(world.logs_dir, agent_id).stat()
    except OSError:
        return lambda _pid: False
    return lambda pid: world.writes_to(pid, found.st_dev, found.st_ino)
