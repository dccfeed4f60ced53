"""What of a new configuration is in force when only a restart of the daemon can apply some of it; pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from daemon.config.diff import Change, Effect, diff
from daemon.config.flat import get
from daemon.config.schema import AgentConfig, Config

S = TypeVar("S", bound=msgspec.Struct)

_UPDATE_DIRS = (("download_dir", "downloads"), ("backup_dir", "backups"))  # in daemon.work_dir unless written


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """What a new file comes to.

    Attributes:
        changes: from what is in force to the file.
        config: what is in force once they are applied.
    """

    changes: tuple[Change, ...]
    config: Config


def planned(old: Config, new: Config) -> Planned:
    """The changes from ``old``, which is in force, to ``new``, the file, and what they lead to."""
    new = followed(old, new)
    changes = diff(old, new)
    return Planned(changes=changes, config=in_force(old, new, changes))


def in_force(old: Config, new: Config, changes: Iterable[Change]) -> Config:
    """``new`` with the old values of what waits for a restart of the daemon.

    Compared with it, the next file shows such a key as changed until the daemon was restarted, and as
    unchanged when it was changed back.

    Args:
        old: in force so far.
        new: the file.
        changes: ``diff(old, new)``.
    """
    before = {agent.id: agent for agent in old.agents}
    agents = {agent.id: agent for agent in new.agents}
    merged = new
    for change in changes:
        if change.effect is not Effect.RESTART_DAEMON:
            continue
        if not change.agent:
            merged = put(merged, change.key, get(old, change.key))
        elif change.agent in agents:
            was: AgentConfig | None = before.get(change.agent)
            # A new agent's https endpoint has no old value: without the restart it is not asked.
            value = get(was, change.key) if was is not None else ""
            agents[change.agent] = put(agents[change.agent], change.key, value)
    return msgspec.structs.replace(merged, agents=tuple(agents.values()))


def followed(old: Config, new: Config) -> Config:
    """``new``, but what follows from ``daemon.work_dir`` and ``daemon.socket_path`` follows from those in
    force.

    Both wait for a restart of the daemon. An agent's own directory and socket follow from them where the
    file does not write them; without this every agent would be restarted into a place nobody serves yet.
    """
    if (old.daemon.work_dir, old.daemon.socket_path) == (new.daemon.work_dir, new.daemon.socket_path):
        return new
    update = new.update
    for key, name in _UPDATE_DIRS:
        if getattr(update, key) == str(Path(new.daemon.work_dir) / name):
            update = put(update, key, str(Path(old.daemon.work_dir) / name))
    return msgspec.structs.replace(
        new, update=update, agents=tuple(_agent_followed(agent, old, new) for agent in new.agents)
    )


def _agent_followed(agent: AgentConfig, old: Config, new: Config) -> AgentConfig:
    if agent.socket_path == new.daemon.socket_path:
        agent = put(agent, "socket_path", old.daemon.socket_path)
    own, now = (str(Path(config.daemon.work_dir) / "agents" / agent.id) for config in (new, old))
    if agent.work_dir != own:
        return agent
    for key in ("args", "version_command", "health_check.command"):  # where {work_dir} was filled in
        agent = put(agent, key, tuple(word.replace(own, now) for word in get(agent, key)))
    return put(agent, "work_dir", now)


def put(section: S, key: str, value: Any) -> S:
    """The section with another value at a dotted key."""
    name, _, rest = key.partition(".")
    inner = put(getattr(section, name), rest, value) if rest else value
    return msgspec.structs.replace(section, **{name: inner})
