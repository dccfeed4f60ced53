"""What a new configuration changes, key by key, and what each change takes; pure.

The reload plan is made of it: live keys are applied where they are, others restart one agent, and
what only a new start of the daemon can do is said.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum

import msgspec

from daemon.config.flat import flatten, get, walk
from daemon.config.schema import AgentConfig, Config
from daemon.config.tls import tls_needs

_SECTIONS = ("daemon", "manager", "collectors", "resources", "update")


class Effect(Enum):
    """What it takes to apply a change."""

    LIVE = "live"
    RESTART_AGENT = "restart_agent"
    START_AGENT = "start_agent"
    STOP_AGENT = "stop_agent"
    RESTART_DAEMON = "restart_daemon"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One changed key.

    Attributes:
        agent: the agent's id; empty for a key of the daemon.
        key: within the agent, such as ``restart.policy``; else in full, such as ``daemon.http_port``.
            An added or removed agent is a change of ``enabled``.
        old: resolved value; None where there was none. May be a secret: show it through
            :func:`daemon.config.redact.plan`.
        new: as ``old``.
        effect: what it takes.
        programs: an agent's binary before and after, which tells what of its arguments is secret; no part of
            what a change is.
    """

    agent: str
    key: str
    old: object
    new: object
    effect: Effect
    programs: tuple[str, str] = dataclasses.field(default=("", ""), compare=False)


def _daemon_keys() -> Iterator[tuple[str, bool]]:
    for section in _SECTIONS:
        for key, field in walk(type(getattr(Config(), section)), section + "."):
            yield key, field.key.live


AGENT_LIVE_KEYS = frozenset(key for key, field in walk(AgentConfig) if field.key.live)
"""Keys of an agent that a reload applies without restarting it."""
LIVE_KEYS = AGENT_LIVE_KEYS | frozenset(key for key, live in _daemon_keys() if live)
"""All keys a reload applies at once: those of an agent by their own name, the others in full."""


def diff(old: Config, new: Config) -> tuple[Change, ...]:
    """Every change from ``old`` to ``new``: the daemon's keys first, then agent by agent."""
    changes = [change for section in _SECTIONS for change in _section(section, old, new)]
    before = {agent.id: agent for agent in old.agents}
    after = {agent.id: agent for agent in new.agents}
    for agent_id in (*after, *(gone for gone in before if gone not in after)):
        changes.extend(_agent(agent_id, before.get(agent_id), after.get(agent_id)))
    return _with_tls(changes, old, new)


def _section(section: str, old: Config, new: Config) -> Iterator[Change]:
    after = flatten(getattr(new, section), section + ".")
    for key, was in flatten(getattr(old, section), section + ".").items():
        if was != after[key]:
            effect = Effect.LIVE if key in LIVE_KEYS else Effect.RESTART_DAEMON
            yield Change(agent="", key=key, old=was, new=after[key], effect=effect)


def _agent(agent_id: str, old: AgentConfig | None, new: AgentConfig | None) -> Iterator[Change]:
    was = old.enabled if old is not None else None
    now = new.enabled if new is not None else None
    if was != now:
        # A disabled newcomer is only registered.
        stop = Effect.LIVE if old is None else Effect.STOP_AGENT
        effect = Effect.START_AGENT if now else stop
        yield Change(agent=agent_id, key="enabled", old=was, new=now, effect=effect)
    if old is None or new is None:
        return
    after = flatten(new)
    for key, value in flatten(old).items():
        if key != "enabled" and value != after[key]:
            # Where the agent does not run on both sides of the reload there is nothing to restart.
            live = key in AGENT_LIVE_KEYS or not (was and now)
            effect = Effect.LIVE if live else Effect.RESTART_AGENT
            yield Change(
                agent=agent_id, key=key, old=value, new=after[key], effect=effect,
                programs=(old.binary_path, new.binary_path),
            )


def _with_tls(changes: list[Change], old: Config, new: Config) -> tuple[Change, ...]:
    """A process started without a need for TLS has shut OpenSSL out and must start again to get it."""
    if tls_needs(old):
        return tuple(changes)
    for agent_id, key in tls_needs(new):
        place = next((i for i, c in enumerate(changes) if (c.agent, c.key) == (agent_id, key)), None)
        if place is None:
            value = _value(new, agent_id, key)
            changes.append(Change(agent=agent_id, key=key, old=None, new=value, effect=Effect.RESTART_DAEMON))
        else:
            changes[place] = replace(changes[place], effect=Effect.RESTART_DAEMON)
    return tuple(changes)


def _value(config: Config, agent_id: str, key: str) -> object:
    if not agent_id:
        return get(config, key)
    owner: msgspec.Struct = next(agent for agent in config.agents if agent.id == agent_id)
    return get(owner, key)
