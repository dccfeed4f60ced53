"""The fingerprint of what an agent's process was started with; pure.

It is stored with the process: the same hash means "adopt", another one "adopt, then restart". It
covers exactly the keys that need a restart of the agent, so a live key never changes it. A key at its
built-in default is left out, so that a daemon which learned a new key still recognises the agents
that its predecessor started.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from daemon.config.diff import AGENT_LIVE_KEYS
from daemon.config.flat import get, walk
from daemon.config.schema import AgentConfig

UNHASHED = AGENT_LIVE_KEYS | {"id", "name", "enabled"}
"""``id``: another id is another agent. ``enabled``: starts and stops it, but is no part of its process."""


def spec_hash(agent: AgentConfig) -> str:
    """SHA-256, hex, over the canonical JSON of the keys that need a restart of the agent."""
    spec: dict[str, Any] = {}
    for key, field in walk(AgentConfig):
        value = get(agent, key)
        if key not in UNHASHED and value != field.default:
            spec[key] = value
    return hashlib.sha256(msgspec.json.encode(spec, order="deterministic")).hexdigest()
